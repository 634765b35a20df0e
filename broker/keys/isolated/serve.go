package isolated

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

const (
	// version is of the messages. Both ends are one program, unless somebody has
	// put another in its place.
	version = 1
	// drainTime is how long calls under way have when the broker is gone.
	drainTime = 5 * time.Second
	// maxOpenKeys bounds the keys that a child keeps open; all are opened again
	// when there are more.
	maxOpenKeys = 1024
)

// hello is Hello on its way: with its PIN, which would hide itself.
type hello struct {
	Hello
	PIN     string
	Version int
}

func encodeHello(h *Hello) ([]byte, error) {
	return json.Marshal(hello{Hello: *h, PIN: h.PIN.Reveal(), Version: version})
}

func decodeHello(data []byte) (*Hello, error) {
	var h hello
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, errFrame // the error might quote the PIN
	}
	if h.Version != version {
		return nil, fmt.Errorf("%w: version %d of the messages, this program has %d (hint: restart the broker)", errFrame, h.Version, version)
	}
	h.Hello.PIN = issuers.NewSecret(h.PIN)
	return &h.Hello, nil
}

// Opener opens what the broker wants to use.
type Opener func(ctx context.Context, h *Hello) (keys.Store, io.Closer, error)

// Serve is the child: it opens what the broker asks for, and answers it until in
// ends. It returns when all is closed, or when what is under way takes too long.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open Opener) error {
	frames, answers := newFrameReader(in), &frameWriter{out: out}
	store, closer, err := greet(ctx, frames, answers, open)
	if err != nil {
		return fmt.Errorf("serving a PKCS#11 module: %w", err)
	}
	h := &host{store: store, answers: answers, signers: map[keyRef]keys.Signer{}, sealers: map[keyRef]keys.Sealer{}}
	if err := h.loop(ctx, frames); err != nil {
		return fmt.Errorf("serving a PKCS#11 module: %w", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- closer.Close() }()
	timer := time.NewTimer(2 * drainTime)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return fmt.Errorf("closing a PKCS#11 module: it took longer than %s", 2*drainTime)
	}
}

// greet reads the broker's hello and answers it.
func greet(ctx context.Context, frames *frameReader, answers *frameWriter, open Opener) (keys.Store, io.Closer, error) {
	frame, err := frames.next()
	if err != nil {
		return nil, nil, err
	}
	r, err := decodeRequest(frame)
	if err != nil {
		return nil, nil, err
	}
	if r.verb != verbHello {
		return nil, nil, errFrame
	}
	a := &answer{number: r.number, verb: r.verb}
	h, err := decodeHello(r.data)
	clear(r.data)
	var store keys.Store
	var closer io.Closer
	if err == nil {
		store, closer, err = open(ctx, h)
	}
	if err != nil {
		a.setError(err)
	}
	return store, closer, errors.Join(err, answers.send(a))
}

// host is what a child serves from.
type host struct {
	store   keys.Store
	answers *frameWriter

	mu      sync.Mutex
	signers map[keyRef]keys.Signer
	sealers map[keyRef]keys.Sealer
}

// loop answers requests, each in a goroutine of its own, until there are no more.
func (h *host) loop(ctx context.Context, frames *frameReader) error {
	slots := make(chan struct{}, maxInFlight) // the broker keeps to it; this is a belt
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		r, err := decodeRequest(frame)
		if err != nil {
			return err
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			// An answer that can't be written means that nobody is there any more.
			_ = h.answers.send(h.answer(ctx, r))
		}()
	}
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	for range cap(slots) {
		select {
		case slots <- struct{}{}:
		case <-timer.C:
			return fmt.Errorf("calls into the module did not end within %s", drainTime)
		}
	}
	return nil
}

// send encodes an answer and writes it. What is too long is answered with an
// error.
func (w *frameWriter) send(a *answer) error {
	frame, err := a.encode()
	if err != nil {
		short := &answer{number: a.number, verb: a.verb, label: a.label, keyID: a.keyID}
		short.setError(err)
		if frame, err = short.encode(); err != nil {
			return err
		}
	}
	clear(a.data)
	return w.write(frame)
}

// answer does what was asked.
func (h *host) answer(ctx context.Context, r *request) *answer {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	a := &answer{number: r.number, verb: r.verb, label: r.key.label, keyID: r.key.id}
	if err := h.do(ctx, r, a); err != nil {
		a.setError(err)
	}
	clear(r.data)
	return a
}

func (h *host) do(ctx context.Context, r *request, a *answer) error {
	pair := keys.Pair{Label: r.key.label, Algorithm: r.key.algorithm, Bits: int(r.bits)}
	store, err := h.holding(r.key)
	if err != nil {
		return err
	}
	switch r.verb {
	case verbOpenSigner:
		return h.describe(a, r.key)(store.OpenSigner(ctx, pair))
	case verbMakeSigner:
		return h.describe(a, r.key)(store.MakeSigner(ctx, pair))
	case verbOpenSealer:
		return h.describeSealer(a, r.key)(store.OpenSealer(ctx, r.key.label))
	case verbMakeSealer:
		return h.describeSealer(a, r.key)(store.MakeSealer(ctx, r.key.label))
	case verbSign:
		var s keys.Signer
		if s, err = h.signer(ctx, r.key); err == nil {
			a.data, err = s.SignContext(ctx, r.data, r.opts.unpack())
		}
	case verbSeal:
		var s keys.Sealer
		if s, err = h.sealer(ctx, r.key); err == nil {
			a.data, err = s.Seal(ctx, r.data, r.place)
		}
	case verbOpen:
		var s keys.Sealer
		if s, err = h.sealer(ctx, r.key); err == nil {
			a.data, err = s.Open(ctx, r.data, r.place)
		}
	case verbDestroy:
		return store.Destroy(ctx, r.key.label)
	case verbList:
		a.list, err = store.List(ctx)
	default:
		return errFrame
	}
	return err
}

// holding is the store of the keys that a reference may mean.
func (h *host) holding(ref keyRef) (keys.Store, error) {
	if ref.objectID == "" {
		return h.store, nil
	}
	chooses, can := h.store.(interface{ WithID(id []byte) keys.Store })
	if !can {
		return nil, fmt.Errorf("choosing a key by its id: %w", errors.ErrUnsupported)
	}
	return chooses.WithID([]byte(ref.objectID)), nil
}

// describe puts a key pair into the answer, and keeps it open.
func (h *host) describe(a *answer, ref keyRef) func(keys.Signer, error) error {
	return func(s keys.Signer, err error) error {
		if err != nil {
			return err
		}
		if a.public, err = x509.MarshalPKIXPublicKey(s.Public()); err != nil {
			return fmt.Errorf("encoding the public key of %s: %w", a.label, err)
		}
		a.keyID = s.KeyID()
		ref.id = a.keyID
		keep(h, h.signers, ref, s)
		return nil
	}
}

// describeSealer puts a sealing key into the answer, and keeps it open.
func (h *host) describeSealer(a *answer, ref keyRef) func(keys.Sealer, error) error {
	return func(s keys.Sealer, err error) error {
		if err == nil {
			a.keyID = s.KeyID()
			ref.id = a.keyID
			keep(h, h.sealers, ref, s)
		}
		return err
	}
}

func keep[K any](h *host, open map[keyRef]K, ref keyRef, key K) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(open) >= maxOpenKeys {
		clear(open)
	}
	open[ref] = key
}

// signer gives an open key pair, or opens it again: the broker has known it since
// before this child was started.
func (h *host) signer(ctx context.Context, ref keyRef) (keys.Signer, error) {
	h.mu.Lock()
	s, open := h.signers[ref]
	h.mu.Unlock()
	if open {
		return s, nil
	}
	store, err := h.holding(ref)
	if err != nil {
		return nil, err
	}
	s, err = store.OpenSigner(ctx, keys.Pair{Label: ref.label, Algorithm: ref.algorithm})
	if err != nil {
		return nil, err
	}
	if err := same(ref, s.KeyID()); err != nil {
		return nil, err
	}
	keep(h, h.signers, ref, s)
	return s, nil
}

// sealer is signer for sealing keys.
func (h *host) sealer(ctx context.Context, ref keyRef) (keys.Sealer, error) {
	h.mu.Lock()
	s, open := h.sealers[ref]
	h.mu.Unlock()
	if open {
		return s, nil
	}
	store, err := h.holding(ref)
	if err != nil {
		return nil, err
	}
	s, err = store.OpenSealer(ctx, ref.label)
	if err != nil {
		return nil, err
	}
	if err := same(ref, s.KeyID()); err != nil {
		return nil, err
	}
	keep(h, h.sealers, ref, s)
	return s, nil
}

func same(ref keyRef, found string) error {
	if found == ref.id {
		return nil
	}
	return fmt.Errorf("%w: label %q names key %s now, not %s (hint: restart the broker once the token holds what it should)", ErrOtherKey, ref.label, found, ref.id)
}

// Pipes are the ends of a child that Open has started: requests and answers. They
// are closed in what the module itself starts.
func Pipes() (requests, answers *os.File, err error) {
	for _, fd := range []int{requestsFD, answersFD} {
		var stat syscall.Stat_t
		if err := syscall.Fstat(fd, &stat); err != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			return nil, nil, errors.New("this process was not started to hold a PKCS#11 module: it has no pipes for it")
		}
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(requestsFD, "requests"), os.NewFile(answersFD, "answers"), nil
}
