package isolated

import (
	"context"
	"errors"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

// ErrUnavailable says that the process that holds the module is away: it died,
// hangs, or waits to be started again. It is an [issuers.ErrUnavailable] too:
// worth trying again.
var ErrUnavailable error = unavailable("the process of the PKCS#11 module is away")

// ErrOtherKey says that the label of an open key now names another key. The
// broker never changes over by itself.
var ErrOtherKey = errors.New("another key stands where this one was")

// ErrClosed says that the Store was closed.
var ErrClosed = errors.New("the isolated token is closed")

type unavailable string

// Error implements error.
func (u unavailable) Error() string { return string(u) }

// Is makes it an issuers.ErrUnavailable.
func (unavailable) Is(target error) bool { return target == issuers.ErrUnavailable }

// sentinels are the errors that keep their identity on the way from the child,
// each a bit of answer.faults. Both ends are one program, so the order may change.
func sentinels() []error {
	return []error{
		keys.ErrNoKey, keys.ErrKeyExists, keys.ErrOpen, ErrOtherKey,
		pkcs11.ErrPIN, pkcs11.ErrNoModule, pkcs11.ErrNoToken, pkcs11.ErrBusy, pkcs11.ErrClosed,
		keys.ErrWrongKey, pkcs11.ErrNoAnswer, pkcs11.ErrSessions, pkcs11.ErrFull, pkcs11.ErrAlgorithm,
		issuers.ErrUnavailable, errors.ErrUnsupported, context.DeadlineExceeded, context.Canceled,
	}
}

// setError puts an error into the answer.
func (a *answer) setError(err error) {
	a.text = err.Error()
	if a.text == "" {
		a.text = "failed"
	}
	for i, sentinel := range sentinels() {
		if errors.Is(err, sentinel) {
			a.faults |= 1 << i
		}
	}
}

// err is the error of the answer, nil where it went well.
func (a *answer) err() error {
	if a.text == "" {
		return nil
	}
	e := &remoteError{text: a.text}
	for i, sentinel := range sentinels() {
		if a.faults&(1<<i) != 0 {
			e.is = append(e.is, sentinel)
		}
	}
	return e
}

// remoteError is an error that came from the child.
type remoteError struct {
	text string
	is   []error
}

// Error implements error.
func (e *remoteError) Error() string { return e.text }

// Unwrap tells which of the sentinels it is.
func (e *remoteError) Unwrap() []error { return e.is }
