// Package pkcs11 keeps the broker's keys in an HSM.
//
// It is [keys.Store] over PKCS#11 (OASIS PKCS#11 v2.40; Ed25519 as v3.0 has it),
// the C interface that network HSMs, smart cards and SoftHSM share. The keys are
// made inside the token, marked sensitive and not extractable, and never leave
// it: what comes out are signatures, and sealed values.
//
// PKCS#11 is a C library with state that belongs to the whole process, and this
// package hides these things about it:
//
//   - A module is loaded and initialized once per process; [Open] counts who
//     uses it. Nobody else in the process may finalize and initialize it: handles
//     of before would then be valid again, for something else, and only this
//     package's own restarts are counted.
//   - A session does one operation at a time. A [Token] holds a few, made when
//     first needed; more than two gain nothing with SoftHSM. They can't write:
//     keys are made and destroyed with a session of their own.
//   - Handles of sessions and objects die with a logout, a restart of the HSM, or
//     another part of the process closing all sessions. After any PKCS#11 error
//     the session is thrown away; what looks like a dead handle is tried once
//     more with a new one. Where the token itself is gone it is looked for again,
//     in whatever slot it is by then, and as the last means the module is started
//     anew, while nobody is inside it and at most once a second.
//   - A call can't be cancelled. It runs in a goroutine of its own: who waits for
//     it is freed when its context ends, or after five seconds where that has no
//     deadline, and the session comes back when the call does. So at most as many
//     calls hang as there are sessions.
//   - A PIN that was refused is not sent again, because HSMs lock themselves
//     after a few wrong ones.
//   - A handle is a number that the library may mix up. The first time that a
//     session looks a key up, it has to sign a random message, which is verified
//     with the public key that the caller knows (a sealing key has to open what it
//     sealed). From then on the handle is constant as long as the session.
//
// This is the only package that needs cgo.
package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/issuers"
)

var (
	// ErrNoModule says that the PKCS#11 library can't be loaded.
	ErrNoModule = errors.New("no such PKCS#11 module")
	// ErrNoToken says that the module has no such token, or not now.
	ErrNoToken = errors.New("no such token")
	// ErrPIN says that the token refused the PIN. It is not tried again.
	ErrPIN = errors.New("token refuses the PIN")
	// ErrBusy says that no session became free in time.
	ErrBusy = errors.New("all sessions of the token are busy")
	// ErrNoAnswer says that a call into the module didn't come back in time.
	ErrNoAnswer = errors.New("the token doesn't answer")
	// ErrSessions says that the token gives no session to anybody.
	ErrSessions = errors.New("the token has no session left")
	// ErrFull says that the token has no room for another key.
	ErrFull = errors.New("the token is full")
	// ErrAlgorithm says that the token can't do an algorithm.
	ErrAlgorithm = errors.New("the token can't do this algorithm")
	// ErrClosed says that the Token was closed.
	ErrClosed = errors.New("token is closed")
)

const (
	defaultSessions = 2
	// answerWait bounds an operation whose context has no deadline: crypto.Signer
	// has none.
	answerWait = 5 * time.Second
	// makeWait bounds the making of a key: an RSA key takes some tokens half a minute.
	makeWait = time.Minute
)

// Config says which token to use. Of what names the token, TokenLabel or Serial
// is required, and whatever is given has to fit.
type Config struct {
	Module       string         // path of the PKCS#11 library; required
	TokenLabel   string         // the token's label
	Serial       string         // its serial number; empty: any
	Manufacturer string         // empty: any
	Model        string         // empty: any
	SlotID       *uint          // nil: any. Slot ids may change when an HSM restarts
	PIN          issuers.Secret // the user PIN; required
	// MaxSessions bounds the operations at one moment; zero: 2.
	MaxSessions int
	// WrappedBackup is decided when a sealing key is made: true, and MakeSealer makes
	// one that may leave the token wrapped by a key that the security officer has
	// marked CKA_TRUSTED, and in no other way. OpenSealer takes such keys, and those
	// that were brought back so, where this is true alone.
	WrappedBackup bool

	faults func(native) native // of tests
}

// Token is a token that is logged in. Safe for concurrent use.
//
// The login belongs to the process, as PKCS#11 has it: a second Token of the
// same label finds it done, and its PIN is not looked at.
type Token struct {
	opaque
	config Config
	module *module
	calls  native

	// Together they hold MaxSessions: open sessions, and rights to open one.
	free   chan *session
	rights chan struct{}
	live   atomic.Int64 // sessions that are open

	opened  atomic.Bool // Open has succeeded
	closing chan struct{}
	close   func() error

	place place

	login   sync.Mutex
	refused error // the login that failed; guarded by login
}

// place is where the token was found.
type place struct {
	sync.Mutex
	known  bool
	slot   uint
	serial string
}

// Open loads the module, finds the token, and logs in.
func Open(ctx context.Context, config Config) (*Token, error) {
	if config.Module == "" || config.TokenLabel == "" && config.Serial == "" || config.PIN.IsZero() {
		return nil, errors.New("opening token: a module, a token's label or serial number, and a PIN are required")
	}
	if config.MaxSessions < 0 {
		return nil, fmt.Errorf("opening token %s: %d sessions are not possible", config.name(), config.MaxSessions)
	}
	if config.MaxSessions == 0 {
		config.MaxSessions = defaultSessions
	}
	ctx, cancel := bounded(ctx, makeWait)
	defer cancel()
	for try := 1; ; try++ {
		t, err := openOnce(ctx, config)
		if err == nil {
			return t, nil
		}
		if try == openTries || ctx.Err() != nil || !errors.Is(err, ErrNoToken) && !isCode(err, p11.CKR_USER_PIN_NOT_INITIALIZED, p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_ERROR) {
			return nil, fmt.Errorf("opening token %s: %w", config.name(), err)
		}
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
		}
	}
}

// A token isn't given up at once: SoftHSM shows none, or half of one, to who looks
// while another process logs in and so rewrites the token's file.
const (
	openTries = 4
	openPause = 100 * time.Millisecond
)

func openOnce(ctx context.Context, config Config) (*Token, error) {
	m, err := acquireModule(ctx, config.Module)
	if err != nil {
		return nil, err
	}
	t := newToken(config, m)
	// The first session finds the token and logs in, so that a wrong PIN is found here.
	if _, err := use(ctx, t, func(*session) (struct{}, error) { return struct{}{}, nil }); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.opened.Store(true)
	return t, nil
}

func newToken(config Config, m *module) *Token {
	t := &Token{
		config: config, module: m, calls: m.ctx,
		free: make(chan *session, config.MaxSessions), rights: make(chan struct{}, config.MaxSessions), closing: make(chan struct{}),
	}
	if config.faults != nil {
		t.calls = config.faults(t.calls)
	}
	t.close = sync.OnceValue(t.closeNow)
	for range config.MaxSessions {
		t.rights <- struct{}{}
	}
	return t
}

// Close waits for what is under way, at most five seconds, closes the sessions,
// and lets go of the module. Signers and sealers of this token answer ErrClosed
// from then on.
func (t *Token) Close() error { return t.close() }

func (t *Token) closeNow() error {
	close(t.closing)
	timer := time.NewTimer(answerWait)
	defer timer.Stop()
	closed := make(chan error, 1)
	go func() {
		for range t.config.MaxSessions {
			select {
			case s := <-t.free:
				if t.module.gate.enter(context.Background()) == nil {
					t.discard(s)
					t.module.gate.leave()
				}
			case <-t.rights:
			}
		}
		closed <- t.module.release()
	}()
	select {
	case err := <-closed:
		if err != nil {
			return fmt.Errorf("closing token %s: %w", t.config.name(), err)
		}
		return nil
	case <-timer.C:
		// Finalizing a module that is still at work would crash the process.
		return fmt.Errorf("closing token %s: %w: the module stays loaded", t.config.name(), ErrBusy)
	}
}

// name is what errors call the token.
func (c *Config) name() string {
	if c.TokenLabel == "" {
		return "of serial number " + c.Serial
	}
	return c.TokenLabel
}

// wanted tells what was asked for, for the error that nothing was found.
func (c *Config) wanted() string {
	var parts []string
	for _, p := range []struct{ what, value string }{
		{"labelled", c.TokenLabel}, {"of serial number", c.Serial}, {"of manufacturer", c.Manufacturer}, {"of model", c.Model},
	} {
		if p.value != "" {
			parts = append(parts, p.what+" "+strconv.Quote(p.value))
		}
	}
	if c.SlotID != nil {
		parts = append(parts, "in slot "+strconv.FormatUint(uint64(*c.SlotID), 10))
	}
	return strings.Join(parts, ", ")
}

func (c *Config) fits(found token) bool {
	same := func(want, got string) bool { return want == "" || want == got }
	return found.initialized() && same(c.TokenLabel, found.info.Label) && same(c.Serial, found.info.SerialNumber) &&
		same(c.Manufacturer, found.info.ManufacturerID) && same(c.Model, found.info.Model) && (c.SlotID == nil || *c.SlotID == found.slot)
}

// slot looks for the slot that holds the token, once until it is forgotten.
func (t *Token) slot() (uint, error) {
	if slot, known := t.place.get(); known {
		return slot, nil
	}
	tokens, err := t.module.tokens(t.calls) // without the lock: it may hang
	if err != nil {
		return 0, err
	}
	same := slices.DeleteFunc(tokens, func(found token) bool { return !t.config.fits(found) })
	switch len(same) {
	case 0:
		return 0, fmt.Errorf("%w: %s has none %s (hint: list them with `pkcs11-tool --module %s --list-slots`; SoftHSM looks where SOFTHSM2_CONF says)",
			ErrNoToken, t.module.path, t.config.wanted(), t.module.path)
	case 1:
		t.place.set(same[0])
		return same[0].slot, nil
	default:
		return 0, fmt.Errorf("%d tokens of %s are %s (hint: say which one by its serial number; `pkcs11-tool --module %s --list-slots` tells it)",
			len(same), t.module.path, t.config.wanted(), t.module.path)
	}
}

func (p *place) get() (slot uint, known bool) {
	p.Lock()
	defer p.Unlock()
	return p.slot, p.known
}

func (p *place) set(found token) {
	p.Lock()
	defer p.Unlock()
	p.known, p.slot, p.serial = true, found.slot, found.info.SerialNumber
}

// forget makes the next session look for the token again.
func (t *Token) forget() {
	t.place.Lock()
	defer t.place.Unlock()
	t.place.known = false
}

// serial is the token's serial number, once it was found.
func (t *Token) serial() string {
	t.place.Lock()
	defer t.place.Unlock()
	return t.place.serial
}

// opaque makes whatever embeds it print as its kind alone: no PIN, no handles.
type opaque struct{}

const shown = "[pkcs11]"

// String implements fmt.Stringer.
func (opaque) String() string { return shown }

// GoString implements fmt.GoStringer.
func (opaque) GoString() string { return shown }

// Format implements fmt.Formatter: no verb gets through.
func (opaque) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, shown) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (opaque) MarshalText() ([]byte, error) { return []byte(shown), nil }

// LogValue implements slog.LogValuer.
func (opaque) LogValue() slog.Value { return slog.StringValue(shown) }

// isCode says whether err is one of these answers of the module.
func isCode(err error, codes ...uint) bool {
	code, ok := errors.AsType[p11.Error](err)
	return ok && slices.Contains(codes, uint(code))
}
