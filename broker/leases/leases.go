// Package leases remembers every credential that the broker minted, and the
// session that each was minted for: the state machine and all its SQL.
//
//	issuing ──► active ──► revoking ──► revoked
//	   │          │            └──────► forgotten   an operator gave up, with a reason
//	   │          ├──► expired                      nothing outside had to be undone
//	   │          └──► revoked                      and whoever gets it asks the broker: it is dead at once
//	   └────────► revoking                          never finished
//
// Reserve comes before anything is made outside: a crash at any point leaves a
// lease behind that the revoker finds. Every change of state writes its audit
// event in the same transaction, and every statement that changes a state names
// the state that it expects to find, so that of two brokers one wins and the
// other sees that it lost.
//
// One clock decides, the database's: see [Store.Now].
package leases

import (
	"errors"
	"fmt"
	"time"

	"github.com/daypass/daypass/issuers"
)

// State of a lease.
type State string

// The states.
const (
	Issuing   State = "issuing"   // on record; the issuer may be at work
	Active    State = "active"    // minted, and how to take it back is on record
	Revoking  State = "revoking"  // being taken back, for as long as it takes
	Revoked   State = "revoked"   // taken back
	Expired   State = "expired"   // ended; nothing outside had to be undone
	Forgotten State = "forgotten" // an operator gave up on taking it back
)

// Ended says that nothing more happens to a lease in this state.
func (s State) Ended() bool { return s == Revoked || s == Expired || s == Forgotten }

// Session is what one job token opened.
type Session struct {
	ID             string
	Provider       string
	Issuer         string   // the token's iss
	TokenDigest    [32]byte // SHA-256 of the token's signed header and payload
	Subject        string
	Claims         []byte // JSON, as verified
	OpenedAt       time.Time
	ExpiresAt      time.Time
	TokenExpiresAt time.Time
	RevokedAt      *time.Time
	JTI            []byte // SHA-256 that names the token's jti; nil: it has none. Not read back.

	claimsMAC [32]byte
}

// Lease is one credential as it is remembered.
type Lease struct {
	ID            string
	Tenant        string
	SessionID     string
	SessionToken  []byte // hash of the session token that it was obtained with
	Policy        string
	Grant         string
	Job           string
	PolicyDigest  string
	Issuer        string
	Role          string
	Kind          string
	Target        string
	Revocation    issuers.Revocation
	Provider      string
	Subject       string
	State         State
	IssuedAt      time.Time
	ExpiresAt     time.Time
	MaxExpiresAt  time.Time
	TTL           time.Duration
	Renewable     bool
	IssueDeadline time.Time
	SettledAt     time.Time // from here on "not found" on the target is an answer
	EndedAt       *time.Time
	Attempts      int
	LastError     string
	Stuck         bool
	Rules         []string // ids of redaction rules
	RequestID     string   // of the exchange
	AskedTTL      time.Duration
	IP            string // who asked; "" where it isn't known
	SigningKey    string // KeyID of the key that signed it; "" where none did

	sealedHandle []byte
	events       int
}

// Named is the lease as issuers know it.
func (l *Lease) Named(installation string) issuers.Lease {
	return issuers.Lease{
		Installation: installation, Tenant: l.Tenant, ID: l.ID, Policy: l.Policy, Grant: l.Grant, Role: l.Role,
		IssuedAt: l.IssuedAt, ExpiresAt: l.ExpiresAt, IssueDeadline: l.IssueDeadline,
	}
}

// endsHere says that nothing outside has to be undone: the lease's end is its
// row's.
func (l *Lease) endsHere() bool {
	return l.Revocation == issuers.Expiry || l.Revocation == issuers.Introspection
}

// ValidElsewhereUntil is when a credential that ended early stops to verify
// elsewhere; nil where a revocation takes effect at once or it has run its time.
func (l *Lease) ValidElsewhereUntil() *time.Time {
	if l.Revocation != issuers.Expiry || l.EndedAt == nil || !l.EndedAt.Before(l.ExpiresAt) {
		return nil
	}
	end := l.ExpiresAt
	return &end
}

// What callers can do something about.
var (
	// ErrReplayed: the job token's session was revoked or has ended, or the token
	// came a second time where it may come once.
	ErrReplayed = errors.New("job token was used up")
	// ErrReusedJTI: another job token had this one's jti. It is an ErrReplayed too.
	ErrReusedJTI = fmt.Errorf("%w: another job token had its jti", ErrReplayed)
	// ErrRetry: an earlier try of this exchange is on record. Supersede it, and
	// reserve once more.
	ErrRetry = errors.New("an earlier try of this exchange is on record")
	// ErrOvertaken: a later try of this exchange is on record.
	ErrOvertaken = errors.New("a later try of this exchange took its place")
	// ErrOtherRequest: the key of this exchange is that of another one.
	ErrOtherRequest = errors.New("another exchange came with the same key")
	// ErrUnavailable: the database didn't answer, or its clock and ours disagree.
	ErrUnavailable = errors.New("lease store unavailable")
	// ErrNotFound: no such lease or session, or not one that the caller may see.
	ErrNotFound = errors.New("no such lease")
	// ErrForged: a session's claims are not those that its job token had.
	ErrForged = errors.New("the session's record was changed")
	// ErrNotActive: the lease has begun to end.
	ErrNotActive = errors.New("lease is no longer active")
	// ErrNotStuck: only a stuck revocation can be forgotten.
	ErrNotStuck = errors.New("lease is not stuck")
)

// The limits on live leases.
const (
	LimitGrant       = "max_active"         // of a grant
	LimitGrantPerJob = "max_active_per_job" // of a grant, for each job
	LimitJob         = "job_leases"         // of one job
	LimitTenant      = "tenant_leases"      // of one tenant
)

// TooManyError says that a limit on live leases is reached.
type TooManyError struct {
	Grant string // that could not be had
	Limit string // one of the limits
}

// Error implements error.
func (e *TooManyError) Error() string {
	switch e.Limit {
	case LimitGrantPerJob:
		return fmt.Sprintf("this job holds as many leases of grant %s as its policy allows at once (%s)", e.Grant, e.Limit)
	case LimitJob:
		return fmt.Sprintf("this job holds as many leases as the broker allows one job at once (%s)", e.Limit)
	case LimitTenant:
		return fmt.Sprintf("whose job this is holds as many leases as the broker allows one tenant at once (%s)", e.Limit)
	}
	return fmt.Sprintf("grant %s has as many active leases as its policy allows (%s)", e.Grant, e.Limit)
}

// SessionEndsError says that the session ends before the lease would. Reserve
// once more with an end that fits.
type SessionEndsError struct{ At time.Time }

// Error implements error.
func (e *SessionEndsError) Error() string {
	return "session ends before the lease would, at " + e.At.UTC().Format(time.RFC3339)
}
