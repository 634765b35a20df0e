// Package issuers is the contract between the broker and whatever mints
// credentials: a database, a signing key, an API.
//
// An issuer of one kind knows one target. The broker decides who may have what
// and remembers every credential as a lease; the issuer makes the credential
// and takes it back. Everything that an issuer makes outside the broker has a
// name that derives from the lease's id, so that an issue whose answer was lost
// (a crash, a timeout) can still be undone by somebody who knows nothing but
// the lease.
//
// [Issuer] has two methods. What else a kind can do is said by small optional
// interfaces: [Renewer], [ParameterChecker], [GrantChecker], [Lister], [EpochKeeper], [Introspected]. Package issuertest holds
// the suite that every kind passes.
package issuers

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Issuer mints and takes back credentials of one kind against one target.
// Implementations are safe for concurrent use and obey the context's deadline.
type Issuer interface {
	// Issue makes the credential of one lease. It refuses to take over anything
	// that exists already, and refuses after Lease.IssueDeadline by the target's
	// own clock, so that a create still on its way cannot land behind a
	// revocation. Errors wrap [ErrUnavailable], [ErrRejected] or [ErrLate].
	Issue(ctx context.Context, req *IssueRequest) (*IssueResponse, error)

	// Revoke takes the credential of one lease back. It is idempotent, works from
	// the lease's id alone (Handle may be empty when the answer of Issue was
	// lost), and is called again until it returns without an error. Errors wrap
	// [ErrUnavailable] or [ErrBlocked].
	Revoke(ctx context.Context, req *RevokeRequest) (*RevokeResponse, error)

	// Describe says what a grant that uses this role will get: no network, no
	// error for a role that was accepted when the configuration was read.
	Describe(role string) Description
}

// Renewer is an Issuer whose credentials can be given a later end.
type Renewer interface {
	// Renew moves the end of a live credential to req.ExpiresAt.
	Renew(ctx context.Context, req *RenewRequest) error
}

// ParameterChecker is an Issuer whose grants have parameters (`with:` in a
// policy), or that wants a say in which roles exist. It is asked when a policy
// is loaded, before any template in the parameters is filled.
type ParameterChecker interface {
	// CheckParameters returns an error for people: what is wrong and how to mend it.
	CheckParameters(role string, parameters json.RawMessage) error
}

// GrantChecker is an Issuer that judges a whole grant when its policy is loaded,
// beside the parameters: what derives from the names and the life of a grant may
// be more than its verifiers take.
type GrantChecker interface {
	// CheckGrant returns an error for people, as CheckParameters does.
	CheckGrant(grant Grant) error
}

// Grant is a grant of a policy, before anybody has asked for it.
type Grant struct {
	Tenant, Policy, Name string
	Role                 string
	TTL                  time.Duration   // the longest life that it names; zero where it names none
	Parameters           json.RawMessage // templates not filled; nil when there are none
}

// EpochKeeper is an Issuer whose target remembers the highest epoch that its
// installation came with, and refuses to make or end anything for a lower one: so
// a broker on an older copy of the database, which can't know that it is one,
// does no harm there.
type EpochKeeper interface {
	// RaiseEpoch tells the target the epoch that the issuer was opened with, and
	// returns the highest that the target knows: that one, or a higher one, which it
	// keeps. Errors wrap [ErrNoEpoch], [ErrUnavailable] or [ErrRejected].
	RaiseEpoch(ctx context.Context) (highest int64, err error)
}

// Lease names one credential. All names that an issuer makes derive from it.
type Lease struct {
	Installation  string    // random id of the broker's installation, 12 characters [0-9a-z]
	Tenant        string    // "main" until there are more
	ID            string    // lse_ and a ULID
	Policy        string    // as in POLICY/GRANT
	Grant         string    // as in POLICY/GRANT
	Role          string    // the issuer's role that the grant names; "" where the kind has none
	IssuedAt      time.Time // by the broker's database clock
	ExpiresAt     time.Time // the credential's own end derives from this and nothing else
	IssueDeadline time.Time // creating is refused after this
}

// IssueRequest asks for one credential.
type IssueRequest struct {
	Lease      Lease
	Parameters json.RawMessage // the grant's `with`, templates filled; nil when there is none
	// What the job sent with its request, of what Description.Accepts names; "" where
	// it sent nothing. It is a stranger's: sizes are bounded, nothing else is checked.
	CSR       string // PKCS#10 in PEM (RFC 2986, RFC 7468)
	PublicKey string // an OpenSSH public key, as in authorized_keys
	// Thumbprint is that of the key which the token is to be bound to (RFC 7638, SHA-256,
	// base64url); "" where it is to be bound to none. Only where Description.Bindable.
	Thumbprint string
}

// IssueResponse is one minted credential.
type IssueResponse struct {
	Values []Value
	// Handle is what Revoke and Renew want to see again. It may be secret: the
	// broker seals it. Nil where the lease's id is enough.
	Handle []byte
	// SigningKey is the KeyID of the key that signed the credential; "" where none did.
	SigningKey string
}

// Value is one named part of a credential.
type Value struct {
	Name      string // as in the answer's `values`: username, password, token …
	Value     Secret
	Sensitive bool // listed under `secret`, masked in logs
	// RandomBits is how many of the value's bits nobody can guess. Values with
	// 128 or more are remembered as keyed fingerprints.
	RandomBits int
}

// RevokeRequest takes one credential back.
type RevokeRequest struct {
	Lease  Lease
	Handle []byte // nil when Issue's answer was lost
}

// RevokeResponse says what Revoke found.
type RevokeResponse struct {
	// Found is false when there was nothing to take back. The broker then keeps
	// the lease in `revoking` until IssueDeadline and Description.IssueTimeout
	// have passed, and asks once more.
	Found bool
}

// RenewRequest moves a credential's end.
type RenewRequest struct {
	Lease     Lease
	Handle    []byte
	ExpiresAt time.Time // the new end
}

// Revocation says how a credential ends before its time.
type Revocation string

// The three ways, as the API shows them.
const (
	Immediate     Revocation = "immediate"     // gone from the target once revoked
	Introspection Revocation = "introspection" // refused by whoever asks the broker
	Expiry        Revocation = "expiry"        // verifies elsewhere until it runs out
)

// Description is what the broker needs to know of a role before it issues.
type Description struct {
	Kind       string // postgres, jwt …
	Revocation Revocation
	// SideEffectFree says that Issue changes nothing outside the broker. The
	// broker then issues first and writes the lease with one commit: a crash in
	// between leaves nothing, since the answer was never given.
	SideEffectFree bool
	// Inside says that what Issue changes is in the broker's own database alone: there
	// is no target that could be tried.
	Inside       bool
	DefaultTTL   time.Duration     // for grants that say none
	MaxTTL       time.Duration     // what a policy says beyond it is cut; 0: no bound but the policy's
	IssueTimeout time.Duration     // the longest that Issue can still take effect on the target after it began
	Env          map[string]string // value name → environment variable
	Values       map[string]bool   // name of every value → whether it is sensitive
	Accepts      Accepts           // what a job may send with its request
	Bindable     bool              // the credential is a token whose verifiers hear which key it is bound to (RFC 9449)
	BoundOnly    bool              // and there is none that isn't bound
	MadeKey      string            // the value that holds a private key made here: missing where the job sends a key of its own
}

// Accepts says what a role takes from the job besides the request itself. The
// broker refuses what isn't taken.
type Accepts struct {
	CSR, PublicKey             bool
	CSRNeeded, PublicKeyNeeded bool // there is no credential without it
}

// SentError says that what the job sent with its request (Description.Accepts) is
// refused. Detail is shown to the job. It is an [ErrRejected].
type SentError struct{ Detail string }

// Error implements error.
func (e *SentError) Error() string { return e.Detail }

// Unwrap implements the errors package's contract.
func (*SentError) Unwrap() error { return ErrRejected }

// What an issuer's errors wrap.
var (
	// ErrUnavailable: the target can't be reached or didn't answer in time. Worth trying again.
	ErrUnavailable = errors.New("target unavailable")
	// ErrRejected: the target or the issuer refused; trying again changes nothing
	// until somebody mends the configuration.
	ErrRejected = errors.New("issue rejected")
	// ErrLate: the lease's issue deadline has passed, or it was revoked already.
	ErrLate = errors.New("too late to issue")
	// ErrNoEpoch: the target has no place for an epoch.
	ErrNoEpoch = errors.New("the target doesn't keep the epoch")
	// ErrBlocked: the credential can no longer be used, but something on the
	// target has to be decided by a person before it can be taken away for good.
	// The error's text says what.
	ErrBlocked = errors.New("revocation blocked")
	// ErrUnsupported: the issuer could, but what it takes is missing on the target,
	// such as a newer set-up. The error's text says what to do.
	ErrUnsupported = errors.New("not supported by this target")
)
