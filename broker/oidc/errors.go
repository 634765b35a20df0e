package oidc

import (
	"errors"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// Reason says which check a job token failed: it goes into the answer as it is.
type Reason = api.Reason

// The reasons. Verify itself never answers with ReasonReplayed: whether a token
// was used before is known to the session store.
const (
	// ReasonSignature: no key that the provider publishes made this signature.
	ReasonSignature = api.ReasonSignature
	// ReasonIssuer: `iss` is none of the configured issuers, byte for byte.
	ReasonIssuer = api.ReasonIssuer
	// ReasonAudience: the issuer is known, but `aud` fits none of its
	// providers, or more than one.
	ReasonAudience = api.ReasonAudience
	// ReasonExpired: `exp` has come.
	ReasonExpired = api.ReasonExpired
	// ReasonNotYetValid: `nbf` or `iat` lies in the future beyond the leeway.
	ReasonNotYetValid = api.ReasonNotYetValid
	// ReasonMalformed: not a job token at all, or one that two programs could
	// read differently.
	ReasonMalformed = api.ReasonMalformed
	// ReasonAlgorithm: `alg` is not allowed, or not one of the named key's.
	ReasonAlgorithm = api.ReasonAlgorithm
	// ReasonReplayed: the token was used before, or its session was revoked.
	ReasonReplayed = api.ReasonReplayed
)

// Error is a refused job token: the caller's fault, HTTP status 401. Its text
// names claims and header members, and never holds a value of the token.
type Error struct {
	// Reason is the check that failed.
	Reason Reason
	// Detail is for people: what was wrong, without the token's values.
	Detail string

	err error
}

// Error implements error.
func (e *Error) Error() string {
	return "job token refused (" + string(e.Reason) + "): " + e.Detail
}

// Unwrap returns the cause, or nil where the check itself is the cause.
func (e *Error) Unwrap() error { return e.err }

func refuse(reason Reason, detail string) *Error {
	return &Error{Reason: reason, Detail: detail}
}

// ErrUnavailable says that the provider's keys could not be had, so that the
// token could be judged neither good nor bad: HTTP status 503, and the token may
// be sent again. Errors that wrap it are of type *UnavailableError.
var ErrUnavailable = errors.New("keys of the provider are not available")

// UnavailableError is ErrUnavailable with the moment to come back.
type UnavailableError struct {
	// Provider is the configured name of the provider.
	Provider string
	// RetryAfter is when another try can have another outcome; at least a second.
	RetryAfter time.Duration

	err error
}

// Error implements error.
func (e *UnavailableError) Error() string {
	text := "provider " + e.Provider + ": " + ErrUnavailable.Error()
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text
}

// Unwrap returns ErrUnavailable and the cause.
func (e *UnavailableError) Unwrap() []error {
	if e.err == nil {
		return []error{ErrUnavailable}
	}
	return []error{ErrUnavailable, e.err}
}
