package leases

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/issuers"
)

// Reservation is one exchange, on record before anything is made for it. It is
// taken whole or not at all.
type Reservation struct {
	Now     time.Time // Store.Now
	Session Session
	// Joined says that Session was read from the database (the caller came with a
	// session token): it is not opened.
	Joined bool
	Token  Token
	Leases []NewLease
	// Once says that the job token opens a session, and joins none.
	Once bool
	// Retry is set where the exchange came with a key by which it may come again.
	Retry *Retry

	JobKey []byte // names the job, 16 bytes; nil: limits don't count it
	Whose  []byte // names the tenant whose job it is, 16 bytes
	// The most leases that the job and its tenant may hold at once; 0: any number.
	MaxPerJob, MaxPerTenant int

	// The request, as it is remembered beside each lease.
	RequestID string
	IP        string // who sent it; "" where it isn't known

	// The session that the leases stand in, once reserved: the one asked for, or
	// the one that the same job token opened before.
	SessionID        string
	SessionExpiresAt time.Time

	events []audit.Event
}

// Token is the session token that an exchange gives out.
type Token struct {
	Hash   [32]byte
	KeyID  string
	Grants []string // POLICY/GRANT: what it may ask for again
	// Thumbprint is that of the key which it is bound to (RFC 7638, SHA-256), and with it
	// the leases' own tokens where their kind can be; nil: it is a bearer's.
	Thumbprint []byte
	// Held says that the caller has it already: the leases become part of what it
	// holds, unless it was given back meanwhile.
	Held bool
}

// Retry is what tells a second try of an exchange from a second exchange.
type Retry struct {
	Key     []byte    // hash of the caller's token and the key that it chose, 16 bytes
	Request []byte    // hash of what is asked for, 16 bytes
	Asked   time.Time // Store.Now when the request came: of two tries the later one counts
}

// RetryLife is how long after a try another one takes its place.
const RetryLife = 2 * time.Minute

// NewLease is one lease of a reservation.
type NewLease struct {
	ID, Policy, Grant, Job, PolicyDigest string
	Issuer, Role, Kind, Target           string
	Revocation                           issuers.Revocation
	ExpiresAt, MaxExpiresAt              time.Time
	TTL                                  time.Duration
	AskedTTL                             time.Duration // by the job; 0: it didn't say
	Renewable                            bool
	IssueDeadline                        time.Time
	SettledAt                            time.Time
	MaxActive                            int // live leases of the grant; 0: no limit
	MaxActivePerJob                      int // and of one job; 0: no limit
	Rules                                []Rule

	// Issued says that the credential exists already and nothing outside knows of
	// it: the lease begins as active, and one commit is enough.
	Issued       bool
	Fingerprints []Fingerprint // of an issued one
	SigningKey   string        // that signed an issued one; "" where none did
}

// Fingerprint is the keyed hash of a secret value: see package prints.
type Fingerprint struct {
	Sum           [32]byte
	Field         string // which value of the credential
	KeyID, Scheme string
	Anchor        []byte // sealed; nil: the value has none
}

// Reserve puts an exchange on record: the session, unless its job token opened
// one before, its session token, its leases, and the event of each. It returns
// ErrReplayed, a TooManyError, a SessionEndsError, ErrUnavailable, or one of the
// errors of a Retry, and then nothing was written.
func (s *Store) Reserve(ctx context.Context, r *Reservation) error {
	if err := s.CheckClock(); err != nil {
		return err
	}
	if r.Whose != nil && s.rooms.holds(r.Whose, s.config.Now()) {
		return &TooManyError{Grant: r.Leases[0].Policy + "/" + r.Leases[0].Grant, Limit: LimitTenant}
	}
	if err := s.recordReservation(r); err != nil {
		return err
	}
	return s.submit(ctx, &write{reserve: r})
}

func (s *Store) recordReservation(r *Reservation) error {
	r.events = r.events[:0]
	add := func(e audit.Entry) error {
		e.At = r.Now
		event, err := s.config.Audit.Event(e)
		r.events = append(r.events, event)
		return err
	}
	actor := JobActor(r.Session.Provider, r.Session.Subject)
	if !r.Joined {
		r.Session.claimsMAC = s.authenticate(&r.Session)
		claims := sha256.Sum256(r.Session.Claims)
		if err := add(audit.Entry{Type: audit.SessionOpened, Subject: r.Session.ID, Count: 1, Actor: actor, Data: map[string]any{
			// The claims stand in the session; their hash here makes a change of them show.
			"provider": r.Session.Provider, "claims_sha256": hex.EncodeToString(claims[:]), "expires_at": r.Session.ExpiresAt,
		}}); err != nil {
			return err
		}
	}
	for _, l := range r.Leases {
		kind := audit.LeaseReserved
		if l.Issued {
			kind = audit.LeaseIssued
		}
		data := map[string]any{
			// Which session it is stands in the lease: a job token that comes again joins another.
			"grant": l.Policy + "/" + l.Grant, "issuer": l.Issuer, "role": l.Role, "job": l.Job, "policy_digest": l.PolicyDigest, "expires_at": l.ExpiresAt,
		}
		if r.Token.Thumbprint != nil {
			data["dpop_jkt"] = base64.RawURLEncoding.EncodeToString(r.Token.Thumbprint)
		}
		if err := add(audit.Entry{Type: kind, Subject: l.ID, Count: 1, Actor: actor, Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// authenticate is the MAC of what a session's next exchange will be decided on:
// whoever can write to the database must not be able to choose it.
func (s *Store) authenticate(session *Session) [32]byte {
	about := fmt.Sprintf("%q %q %q %q %q", s.config.Tenant, session.ID, session.Provider, session.Issuer, session.Subject)
	return s.config.Claims.Sum(about, session.Claims)
}

// JobActor is how the audit log names a job.
func JobActor(provider, subject string) string { return jobActor + provider + " " + subject }

const jobActor = "job "

// retry is the reservation's Retry, or one without a key.
func (r *Reservation) retry() Retry {
	if r.Retry == nil {
		return Retry{Asked: r.Now}
	}
	return *r.Retry
}

// opens is the id of the session that the reservation may open; "" where it
// joins one, which it must never close.
func (r *Reservation) opens() string {
	if r.Joined {
		return ""
	}
	return r.Session.ID
}

// jti is that of the token that may open a session.
func (r *Reservation) jti() []byte {
	if r.Joined {
		return nil
	}
	return r.Session.JTI
}
