// Package pkcs11 keeps the broker's keys in an HSM.
//
// It is [keys.Signer] and [keys.Sealer] over PKCS#11 (OASIS PKCS#11 v2.40), the
// C interface that network HSMs, smart cards and SoftHSM share. The keys are made
// inside the token, marked sensitive and not extractable, and never leave it:
// what comes out are signatures, and sealed values.
//
// PKCS#11 is a C library with state that belongs to the whole process, and this
// package hides four things about it:
//
//   - A module is loaded and initialized once per process; [Open] counts who
//     uses it.
//   - A session does one operation at a time. A [Token] holds a few, made when
//     first needed; more than two gain nothing with SoftHSM.
//   - Handles of sessions and objects die with a logout, a restart of the HSM, or
//     another part of the process closing all sessions. After any PKCS#11 error
//     the session is thrown away; what looks like a dead handle is tried once
//     more with a new one.
//   - A PIN that was refused is not sent again, because HSMs lock themselves
//     after a few wrong ones.
//
// Calls into the module can't be cancelled: a context bounds the wait for a
// session and is looked at between calls.
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
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/issuers"
)

var (
	// ErrNoModule says that the PKCS#11 library can't be loaded.
	ErrNoModule = errors.New("no such PKCS#11 module")
	// ErrNoToken says that the module has no token of that label.
	ErrNoToken = errors.New("no such token")
	// ErrPIN says that the token refused the PIN. It is not tried again.
	ErrPIN = errors.New("token refuses the PIN")
	// ErrBusy says that no session became free in time.
	ErrBusy = errors.New("all sessions of the token are busy")
	// ErrClosed says that the Token was closed.
	ErrClosed = errors.New("token is closed")
)

const (
	defaultSessions = 2
	// sessionWait bounds how long an operation waits for a session.
	// crypto.Signer has no context that could.
	sessionWait = 5 * time.Second
)

// Config says which token to use.
type Config struct {
	Module     string         // path of the PKCS#11 library; required
	TokenLabel string         // CKA_LABEL of the token; required, and unique in the module
	PIN        issuers.Secret // the user PIN; required
	// MaxSessions bounds the operations at one moment; zero: 2.
	MaxSessions int
	// Create makes keys that are missing; otherwise they are an error. Keys are
	// looked for and made under a lock of this process only: don't let two
	// processes make the same key at one moment.
	Create bool
}

// Token is a token that is logged in. Safe for concurrent use.
//
// The login belongs to the process, as PKCS#11 has it: a second Token of the
// same label finds it done, and its PIN is not looked at.
type Token struct {
	opaque
	config Config
	module *module
	slot   uint
	serial string

	free    chan *session // holds MaxSessions; nil where one is not open yet
	closing chan struct{}
	close   func() error

	login   sync.Mutex
	refused error // the login that failed; guarded by login
}

// Open loads the module, finds the token, and logs in.
func Open(ctx context.Context, config Config) (*Token, error) {
	if config.Module == "" || config.TokenLabel == "" || config.PIN.IsZero() {
		return nil, errors.New("opening token: a module, a token label and a PIN are required")
	}
	if config.MaxSessions < 0 {
		return nil, fmt.Errorf("opening token %s: %d sessions are not possible", config.TokenLabel, config.MaxSessions)
	}
	if config.MaxSessions == 0 {
		config.MaxSessions = defaultSessions
	}
	m, err := acquireModule(config.Module)
	if err != nil {
		return nil, fmt.Errorf("opening token %s: %w", config.TokenLabel, err)
	}
	t := &Token{config: config, module: m, free: make(chan *session, config.MaxSessions), closing: make(chan struct{})}
	t.close = sync.OnceValue(t.closeNow)
	for range config.MaxSessions {
		t.free <- nil
	}
	if err := t.findToken(); err != nil {
		return nil, fmt.Errorf("opening token %s: %w", config.TokenLabel, errors.Join(err, t.Close()))
	}
	// The first session logs in, so that a wrong PIN is found here.
	if err := t.do(ctx, func(*session) error { return nil }); err != nil {
		return nil, fmt.Errorf("opening token %s: %w", config.TokenLabel, errors.Join(err, t.Close()))
	}
	return t, nil
}

// Close waits for what is under way, at most five seconds, closes the sessions,
// and lets go of the module. Signers and sealers of this token answer ErrClosed
// from then on.
func (t *Token) Close() error { return t.close() }

func (t *Token) closeNow() error {
	close(t.closing)
	timer := time.NewTimer(sessionWait)
	defer timer.Stop()
	for range cap(t.free) {
		select {
		case s := <-t.free:
			t.discard(s)
		case <-timer.C:
			// Finalizing a module that is still at work would crash the process.
			return fmt.Errorf("closing token %s: %w: the module stays loaded", t.config.TokenLabel, ErrBusy)
		}
	}
	if err := t.module.release(); err != nil {
		return fmt.Errorf("closing token %s: %w", t.config.TokenLabel, err)
	}
	return nil
}

// findToken looks for the slot that holds the token.
func (t *Token) findToken() error {
	tokens, err := t.module.tokens()
	if err != nil {
		return err
	}
	same := slices.DeleteFunc(tokens, func(found token) bool {
		return !found.initialized() || found.info.Label != t.config.TokenLabel
	})
	switch len(same) {
	case 0:
		return fmt.Errorf("%w: %s has none labelled %q (hint: list them with `pkcs11-tool --module %s --list-slots`; SoftHSM looks where SOFTHSM2_CONF says)",
			ErrNoToken, t.module.path, t.config.TokenLabel, t.module.path)
	case 1:
		t.slot, t.serial = same[0].slot, same[0].info.SerialNumber
		return nil
	default:
		return fmt.Errorf("%d tokens of %s are labelled %q (hint: labels must be unique; rename or remove one)",
			len(same), t.module.path, t.config.TokenLabel)
	}
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
