package issuers

import (
	"context"
	"crypto"
	"errors"
	"io"
	"time"
)

// Signer is a private key that issuers sign with, wherever it lives. It is safe
// for concurrent use. As crypto.Signer says, Sign takes a digest and the hash that
// made it; an EdDSA key takes the message itself, and crypto.Hash(0). ECDSA
// signatures are ASN.1.
type Signer interface {
	crypto.Signer

	// SignContext is Sign with a deadline: what waits for a token waits no longer
	// than ctx.
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	// KeyID is the RFC 7638 thumbprint of the public key: base64url of SHA-256.
	KeyID() string
	// Algorithm is the JWS name (RFC 7518 §3.1, RFC 8037 §3.1): ES256, ES384,
	// RS256, PS256 or EdDSA.
	Algorithm() string
}

// BindSigner is the signer as the standard library wants it, under a context.
func BindSigner(ctx context.Context, signer Signer) crypto.Signer {
	return boundSigner{Signer: signer, sign: func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return signer.SignContext(ctx, digest, opts)
	}}
}

type boundSigner struct {
	Signer
	sign func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Sign implements crypto.Signer.
func (b boundSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return b.sign(digest, opts)
}

// Publisher is an Issuer with documents for those who verify its credentials: the
// public key of its authority, and which credentials were revoked before their
// time. Everybody may read them.
type Publisher interface {
	// Documents names them: file names of [a-z0-9.-], such as ca.pem or crl.der.
	Documents() []string
	// Publish makes one of them. Errors wrap [ErrUnavailable]; [ErrNoDocument]
	// for a name that isn't among Documents.
	Publish(ctx context.Context, name string, revoked Revocations) (*Document, error)
}

// Document is what a Publisher publishes.
type Document struct {
	Type   string // media type
	Body   []byte
	MaxAge time.Duration // how long it may be kept, at least a second; 0: not at all
}

// Responder is an Issuer that answers one question at a time about its
// credentials, in a protocol of its own (OCSP).
type Responder interface {
	// RequestType and ResponseType are media types.
	RequestType() string
	ResponseType() string
	// Respond answers a request of a stranger. A request that can't be read has an
	// answer too, where the protocol has one for it. Errors wrap [ErrUnavailable].
	Respond(ctx context.Context, request []byte, status Revocations) (*Document, error)
}

// Revocations is what the broker knows of one issuer's leases.
type Revocations interface {
	// RevokedEarly lists the leases signed by that key that were taken back before
	// their end, and whose end is still to come or not longer ago than an hour.
	RevokedEarly(ctx context.Context, keyID string) ([]Revoked, error)
	// Status tells of one lease. [ErrNoLease] when the issuer has none of that id.
	Status(ctx context.Context, leaseID string) (Status, error)
	// Now is the broker's clock, the database's.
	Now() time.Time
}

// Revoked is a lease that ended before its time.
type Revoked struct {
	LeaseID   string
	RevokedAt time.Time
	ExpiresAt time.Time
}

// Status is what became of a lease.
type Status struct {
	KeyID     string // that signed it; "" where it isn't known
	IssuedAt  time.Time
	ExpiresAt time.Time
	RevokedAt time.Time // zero: it wasn't
}

var (
	// ErrNoDocument says that the issuer publishes nothing of that name.
	ErrNoDocument = errors.New("no such document")
	// ErrNoLease says that the issuer has no lease of that id.
	ErrNoLease = errors.New("no such lease")
)
