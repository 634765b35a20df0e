// Package isolated keeps a PKCS#11 module in a process of its own.
//
// A module is a library of the HSM's vendor, and runs in the address space of
// whoever loads it: what it does wrong there ends the program, and what it reads
// there it may keep. [Open] starts a child that loads the module instead, and is a
// [keys.Store] whose keys are calls to it; [Serve] is that child. When the child
// dies, the calls under way fail with [ErrUnavailable], and the next one starts
// another. Keys that are open stay so: each call names its key by label and id,
// and a child that doesn't hold it opens it by the label, and uses it only if it is
// the key of that id.
//
//   - Messages go over two pipes of their own (descriptors 3 and 4 in the child).
//     Standard output and error belong to the module, and are logged, bounded.
//   - The PIN goes over the pipe: never in an argument or the environment. A PIN
//     that was refused is not sent again, to no child: the HSM would lock itself.
//   - Each answer names its call and its key; one that doesn't fit ends the child.
//   - A call that isn't answered within Config.HangAfter ends the child. A caller's
//     context ends its wait, whatever the child does.
//   - A child that dies again and again is started at growing intervals, up to
//     half a minute. Calls in between fail at once.
//   - The child ends with its parent: when its pipe ends, and on Linux by the
//     kernel.
package isolated

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/keys/pkcs11"
)

const (
	defaultHang = 15 * time.Second
	// slower is how much longer than other calls one may take that makes a key, or
	// opens the token.
	slower = 8
	// stopTime is how long a child has to end by itself.
	stopTime = 10 * time.Second

	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
	// calm is how long a child has to live to count as a good one.
	calm = time.Minute
)

// Hello is what the child opens, the PIN included. It is sent over the pipe.
type Hello = pkcs11.Config

// Config says which child to start.
type Config struct {
	// Command makes the command of a child, which has to call Serve with
	// descriptors 3 and 4. Required. Its environment is what Command says: see
	// Environment.
	Command func() *exec.Cmd
	Hello   Hello
	// HangAfter is how long a call may take before the child counts as hung and is
	// killed; calls that make a key or open the token have eight times as long.
	// Zero: 15 s. It has to be longer than what the module itself may take.
	HangAfter time.Duration
	Logger    *slog.Logger     // nil: nothing is logged
	Now       func() time.Time // required
}

// Store is a keys.Store in another process. Safe for concurrent use.
type Store struct {
	opaque
	config Config

	mu        sync.Mutex
	child     *child // nil, or dead: the next call starts another
	startedAt time.Time
	starting  *attempt
	failures  int // children in a row that were no good
	notBefore time.Time
	lastErr   error // of the last that was no good
	refused   error // the token refuses the PIN; for good
	closed    bool
}

// attempt is a start that callers wait for.
type attempt struct {
	done  chan struct{} // closed at its end; the others are set before
	child *child
	err   error
}

// Open starts the child and has it open the token.
func Open(ctx context.Context, config Config) (*Store, error) {
	if config.Command == nil || config.Now == nil || config.HangAfter < 0 {
		return nil, errors.New("isolating a PKCS#11 module: a command and a clock are required")
	}
	if config.HangAfter == 0 {
		config.HangAfter = defaultHang
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{config: config}
	if _, err := s.use(ctx); err != nil {
		return nil, fmt.Errorf("isolating PKCS#11 module %s: %w", config.Hello.Module, errors.Join(err, s.Close()))
	}
	return s, nil
}

// Close lets the child finish what is under way and end, and kills it when it
// doesn't. Keys answer ErrClosed from then on.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	c := s.child
	s.child = nil
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.stop(stopTime)
}

// PID is the child's process, 0 while there is none.
func (s *Store) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.child == nil || s.child.isDead() {
		return 0
	}
	return s.child.cmd.Process.Pid
}

// call asks the child, which is started when there is none.
func (s *Store) call(ctx context.Context, r *request) (*answer, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// refuse keeps the refusal of a PIN: it is not sent again.
func (s *Store) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = err
}

// use gives the child, and starts one where there is none.
func (s *Store) use(ctx context.Context) (*child, error) {
	s.mu.Lock()
	if s.child != nil && s.child.isDead() {
		s.bury()
	}
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, ErrClosed
	case s.child != nil:
		c := s.child
		s.mu.Unlock()
		return c, nil
	case s.refused != nil:
		err := s.refused
		s.mu.Unlock()
		return nil, fmt.Errorf("the PIN was refused, and is not sent again: %w", err)
	case s.starting == nil:
		if wait := s.notBefore.Sub(s.config.Now()); wait > 0 {
			err := s.lastErr
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: it is started again in %s: %w", ErrUnavailable, wait.Round(time.Millisecond), err)
		}
		s.starting = &attempt{done: make(chan struct{})}
		// The start serves all who wait, so no one's context ends it.
		go s.start(context.WithoutCancel(ctx), s.starting)
	}
	started := s.starting
	s.mu.Unlock()
	select {
	case <-started.done:
		return started.child, started.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the PKCS#11 module's process to start: %w", context.Cause(ctx))
	}
}

// start starts a child and tells it what to open.
func (s *Store) start(ctx context.Context, a *attempt) {
	a.child, a.err = s.launch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = nil
	switch {
	case a.err != nil:
		s.count(a.err, s.config.Now())
	case s.closed:
		go a.child.stop(stopTime) //nolint:errcheck // nobody waits for it any more
		a.child, a.err = nil, ErrClosed
	default:
		s.child, s.startedAt = a.child, s.config.Now()
	}
	close(a.done)
}

func (s *Store) launch(ctx context.Context) (*child, error) {
	data, err := encodeHello(&s.config.Hello)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	c, err := spawn(&s.config, s.refuse)
	if err != nil {
		return nil, fmt.Errorf("%w: starting it: %w", ErrUnavailable, err)
	}
	go s.watch(ctx, c)
	a, err := c.do(ctx, &request{verb: verbHello, data: data})
	if err == nil {
		err = a.err()
	}
	if err != nil {
		c.fail(errStopped)
		return nil, err
	}
	s.config.Logger.InfoContext(ctx, "the PKCS#11 module runs in a process of its own", "module", s.config.Hello.Module, "pid", c.cmd.Process.Pid)
	return c, nil
}

// watch logs how a child ended.
func (s *Store) watch(ctx context.Context, c *child) {
	<-c.ended
	<-c.died
	s.mu.Lock()
	asked := s.closed
	s.mu.Unlock()
	if asked && c.state != nil && c.state.Success() || errors.Is(c.err, errStopped) { // set before died is closed
		return
	}
	s.config.Logger.WarnContext(ctx, "the process of the PKCS#11 module is gone", "module", s.config.Hello.Module, "pid", c.cmd.Process.Pid,
		"state", c.state.String(), "error", c.err)
}

// bury counts a child that died. s.mu is held.
func (s *Store) bury() {
	c := s.child
	s.child = nil
	c.mu.Lock()
	err, at := c.err, c.diedAt
	c.mu.Unlock()
	if at.Sub(s.startedAt) >= calm {
		s.failures = 0
	}
	s.count(err, at)
}

// count sets when the next child may start: the first at once. s.mu is held.
func (s *Store) count(err error, at time.Time) {
	s.failures++
	s.lastErr = err
	s.notBefore = at
	if s.failures > 1 {
		s.notBefore = at.Add(min(firstPause<<min(s.failures-2, 16), longestPause))
	}
}

// Environment is what of an environment a child gets: where programs and
// libraries are, the language of messages, SoftHSM's configuration, and the names
// in pass, for modules that read others. The rest, where passwords may stand, it
// doesn't.
func Environment(environ []string, pass ...string) []string {
	var kept []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SOFTHSM2_CONF":
			kept = append(kept, variable)
			continue
		}
		if slices.Contains(pass, name) {
			kept = append(kept, variable)
		}
	}
	return kept
}

// opaque makes whatever embeds it print as its kind alone.
type opaque struct{}

const shown = "[isolated]"

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
