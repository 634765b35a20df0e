package isolated

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

const (
	testPIN   = "pin-Zq4vT8rN"
	testToken = "daypass-isolated"

	// hostVariable makes the test binary a child of that behaviour; see hosts.
	hostVariable = "DAYPASS_TEST_HOST"
	// dirVariable is the folder that a child uses: its keys, and what it notes.
	dirVariable = "DAYPASS_TEST_DIR"

	deadline = 30 * time.Second
)

// softHSM is set once by TestMain: SoftHSM has one configuration per process.
var softHSM string

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(hostVariable); behaviour != "" {
		if err := hosts()[behaviour](os.Getenv(dirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolated tests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	var ok bool
	if softHSM, ok = pkcs11.FindSoftHSM(); !ok {
		return 1, errors.New("SoftHSM is missing: install the package softhsm2, or set DAYPASS_SOFTHSM_MODULE")
	}
	temp, err := os.MkdirTemp("", "daypass-isolated-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	pin := issuers.NewSecret(testPIN)
	if err := pkcs11.InitSoftHSM(context.Background(), pkcs11.SoftHSMConfig{
		Dir: filepath.Join(temp, "hsm"), Module: softHSM, TokenLabel: testToken, SOPIN: pin, PIN: pin,
	}); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// hosts are the behaviours of a child.
func hosts() map[string]func(dir string) error {
	return map[string]func(string) error{
		"softhsm":  func(string) error { return serveOver(openSoftHSM) },
		"software": func(dir string) error { return serveOver(openSoftware(dir, nil)) },
		// The key that a folder holds makes the rest: see faultyStore.
		"faulty": func(dir string) error {
			return serveOver(openSoftware(dir, func(s keys.Store) keys.Store { return faultyStore{s, dir} }))
		},
		"choosing": func(dir string) error {
			return serveOver(openSoftware(dir, func(s keys.Store) keys.Store { return choosing{s} }))
		},
		"prints":      servePrinting,
		"parent":      beParent,
		"dies":        func(dir string) error { return errors.Join(note(dir, "start"), errors.New("no such luck")) },
		"liar-number": lie(func(a *answer) []byte { a.number += 7; return must(a.encode()) }),
		"liar-verb":   lie(func(a *answer) []byte { a.verb = verbOpen; return must(a.encode()) }),
		"liar-key":    lie(func(a *answer) []byte { a.keyID = "another"; return must(a.encode()) }),
		"liar-label":  lie(func(a *answer) []byte { a.label = "another"; return must(a.encode()) }),
		"twice":       lie(func(a *answer) []byte { f := must(a.encode()); return append(f, f...) }),
		"huge":        lie(func(*answer) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 1} }),
		"garbage":     lie(func(*answer) []byte { return []byte("\x00\x00\x00\x0cHello, world") }),
		"cut":         lie(func(a *answer) []byte { return append(must(a.encode())[:9], 0) }),
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func serveOver(open Opener) error {
	in, out, err := Pipes()
	if err != nil {
		return err
	}
	return Serve(context.Background(), in, out, open)
}

func openSoftHSM(ctx context.Context, h *Hello) (keys.Store, io.Closer, error) {
	t, err := pkcs11.Open(ctx, *h)
	if err != nil {
		return nil, nil, err
	}
	return t, t, nil
}

// openSoftware opens a folder of keys; a file `pin` in it says which PIN is right.
func openSoftware(dir string, change func(keys.Store) keys.Store) Opener {
	return func(_ context.Context, h *Hello) (keys.Store, io.Closer, error) {
		if err := note(dir, "start"); err != nil {
			return nil, nil, err
		}
		if right, err := os.ReadFile(filepath.Join(dir, "pin")); err == nil && string(right) != h.PIN.Reveal() {
			return nil, nil, fmt.Errorf("logging in: %w", pkcs11.ErrPIN)
		}
		s, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: filepath.Join(dir, "keys"), PIN: h.PIN, Create: true})
		if err != nil {
			return nil, nil, err
		}
		if change == nil {
			return s, io.NopCloser(nil), nil
		}
		return change(s), io.NopCloser(nil), nil
	}
}

// note adds a line to what is known of the children of a folder.
func note(dir, what string) error {
	f, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(what + "\n")
	return errors.Join(err, f.Close())
}

// noted counts the lines of note.
func noted(t *testing.T, dir, what string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "notes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(data), what+"\n")
}

// faultyStore seals by doing what the associated data says.
type faultyStore struct {
	keys.Store
	dir string
}

type faultySealer struct {
	keys.Sealer
	dir string
}

func (f faultyStore) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	s, err := f.Store.OpenSealer(ctx, label)
	if err != nil {
		return nil, err
	}
	return faultySealer{s, f.dir}, nil
}

func (f faultySealer) Seal(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	if err := note(f.dir, string(associatedData)); err != nil {
		return nil, err
	}
	switch string(associatedData) {
	case "crash":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSEGV); err != nil {
			return nil, err
		}
		select {} // until it arrives
	case "hang":
		select {}
	case "until asked":
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case "slow":
		for !exists(filepath.Join(f.dir, "go on")) {
			time.Sleep(5 * time.Millisecond)
		}
	case "wrong pin":
		return nil, pkcs11.ErrPIN
	case "long":
		return make([]byte, maxFrame), nil
	case "fail":
		return nil, errors.New(strings.Repeat("CKR_DEVICE_ERROR ", 1000))
	}
	return f.Sealer.Seal(ctx, plaintext, associatedData)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func servePrinting(dir string) error {
	return serveOver(openSoftware(dir, func(s keys.Store) keys.Store {
		_, err := fmt.Fprintln(os.Stdout, "C_Login(CKU_USER, "+testPIN+")")
		_, err2 := fmt.Fprint(os.Stderr, strings.Repeat("x", 3*maxLine), strings.Repeat("\ncall", 3*maxLines), "\nno end of line")
		if err := errors.Join(err, err2); err != nil {
			panic(err)
		}
		return s
	}))
}

// lie serves, and changes the answer of each call that seals.
func lie(change func(*answer) []byte) func(string) error {
	return func(dir string) error {
		in, out, err := Pipes()
		if err != nil {
			return err
		}
		reader, writer := io.Pipe()
		go func() {
			frames := newFrameReader(reader)
			for {
				frame, err := frames.next()
				if err != nil {
					return
				}
				a, err := decodeAnswer(frame)
				if err != nil {
					panic(err)
				}
				bytes := must(a.encode())
				seals := a.verb == verbSeal
				if seals {
					bytes = change(a)
				}
				if _, err := out.Write(bytes); err != nil {
					return
				}
				if seals {
					_ = out.Close() // nothing after it; `cut` would wait for the rest
				}
			}
		}()
		return Serve(context.Background(), in, writer, openSoftware(dir, nil))
	}
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// logged is a log that is looked at.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// hosted is a configuration whose child behaves so.
func hosted(tb testing.TB, behaviour, dir string) (Config, *clock, *logged) {
	tb.Helper()
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	c, log := &clock{now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)}, &logged{}
	environment := Environment(os.Environ())
	return Config{
		Command: func() *exec.Cmd {
			return &exec.Cmd{Path: program, Args: []string{"host"}, Env: append(environment, hostVariable+"="+behaviour, dirVariable+"="+dir)}
		},
		Hello:     Hello{Module: softHSM, TokenLabel: testToken, PIN: issuers.NewSecret(testPIN)},
		HangAfter: deadline,
		Logger:    slog.New(slog.NewJSONHandler(log, nil)),
		Now:       c.Now,
	}, c, log
}

// openTest opens a store; the end of the test closes it.
func openTest(tb testing.TB, config Config) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// eventually polls until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", deadline, what)
		}
	}
}
