// Package broker is the product in straight lines: [Broker.Exchange] turns a job
// token into credentials, [Broker.Renew] moves their end, [Broker.Revoke] takes
// them back. No HTTP and no SQL here, and nothing calls back up.
//
// The order of an exchange is what keeps the promise that every credential is
// taken back:
//
//	1 verify    who asks                         oidc
//	2 decide    what the policies give           policies
//	3 reserve   on record, before it exists      leases
//	4 issue     made, under names of the lease   issuers
//	5 activate  and how to take it back          leases
//	6 answer
//
// A crash after 3 leaves a lease that the revoker finds; whatever 4 made is
// found by the lease's id. Where 4 changes nothing outside (a signed JWT), it
// goes first and 3 is the one commit: a crash in between leaves nothing, since
// nobody has the answer.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/prints"
	"github.com/daypass/daypass/broker/switches"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

// Issuer is one configured issuer.
type Issuer struct {
	issuers.Issuer
	Target string   // what it speaks to, for people: host/database
	Roles  []string // the first is the one that its target is tried with
	// Workers is how much is asked of the target at once by the revoker; zero: its default.
	Workers int
}

// Config of a Broker. Every field is required, unless it says otherwise.
type Config struct {
	Installation  string
	Tenant        string
	Verifier      *oidc.Verifier
	Policies      func() *policies.Set // the set in force
	Issuers       map[string]Issuer    // by their names in the configuration
	Store         *leases.Store
	Switches      *switches.Store
	SessionTokens *keys.Hasher
	Prints        *prints.Printer // of what is issued
	// Patterns are those of the server's configuration that must not appear in any log;
	// nil: there are none.
	Patterns func() []string
	Notify   func(issuer string) // wakes the revoker; must not block
	Logger   *slog.Logger        // nil: discards
	Limits   Limits
	// Once names the providers whose job tokens may come once; those of all others
	// may come again while their session lives.
	Once map[string]bool
	// Since is when the broker's database was promoted after a restore: sessions and
	// job tokens from before are refused. Zero: none is.
	Since time.Time

	// IssueTime is how long an issuer may take; zero: 10 s. Targets refuse to
	// make anything for a lease after it.
	IssueTime time.Duration
	// Checkpoint is called between the steps of an exchange, where tests stop the
	// process. Nil in every released program.
	Checkpoint func(step string)
	Observe    Observer // nil: nobody
}

// Broker hands out credentials and takes them back. Safe for concurrent use.
type Broker struct {
	config    Config
	rates     rates
	reports   *limit.Rate // of reused jtis
	refusals  *refusals
	published published
}

const (
	defaultIssueTime = 10 * time.Second
	maxSession       = 24 * time.Hour
	undoTimeout      = 10 * time.Second
)

// New checks that nothing is missing.
func New(config Config) (*Broker, error) {
	if config.Installation == "" || config.Tenant == "" || config.Verifier == nil || config.Policies == nil || config.Store == nil || config.Switches == nil ||
		config.SessionTokens == nil || config.Prints == nil || config.Notify == nil {
		return nil, errors.New("making broker: a required field of its configuration is missing")
	}
	if config.IssueTime == 0 {
		config.IssueTime = defaultIssueTime
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Checkpoint == nil {
		config.Checkpoint = func(string) {}
	}
	if config.Patterns == nil {
		config.Patterns = func() []string { return nil }
	}
	if config.Observe == nil {
		config.Observe = unobserved{}
	}
	now := config.Store.Now
	return &Broker{
		config: config, refusals: newRefusals(), reports: limit.NewRate(reportsPerMinute, now),
		rates: rates{job: limit.NewRate(config.Limits.JobRequests, now), tenant: limit.NewRate(config.Limits.TenantRequests, now)},
	}, nil
}

// RequestError is a request that can't be right, whoever sends it.
type RequestError struct{ Detail string }

// Error implements error.
func (e *RequestError) Error() string { return e.Detail }

// IssueError says which grant could not be minted. Nothing stays alive.
type IssueError struct {
	Grant string
	// OwnKey says that what failed is the broker's own signing key, not a target.
	OwnKey bool
	err    error
}

// Error implements error.
func (e *IssueError) Error() string { return fmt.Sprintf("issuing %s: %s", e.Grant, e.err) }

// Unwrap gives what the issuer said.
func (e *IssueError) Unwrap() error { return e.err }

// EndsTooSoonError is a grant whose end, set by an exception or by the job's own
// token, leaves no time for a credential.
type EndsTooSoonError struct {
	Grant string
	Until time.Time
}

// Error implements error.
func (e *EndsTooSoonError) Error() string {
	return fmt.Sprintf("grant %s ends for this job at %s, with an exception or with the job's own token: that leaves less than a second", e.Grant, e.Until.UTC().Format(time.RFC3339))
}

// ErrForbidden says that the caller may not do that to this lease.
var ErrForbidden = errors.New("not allowed for this token")

// ErrForeign is a leases.ErrNotFound: the lease is there, and the caller may not see it.
var ErrForeign = fmt.Errorf("%w that this token may see", leases.ErrNotFound)

// ErrNotRenewable says that the lease has reached its policy's or its session's end, or its kind can't be renewed.
var ErrNotRenewable = errors.New("lease is not renewable")

// ErrAlreadyRevoked says that the lease has ended or is being taken back.
var ErrAlreadyRevoked = errors.New("lease was already revoked")

// Renew gives a lease a later end: ttl from now (zero: the grant's own), within
// the policy's max_ttl and the session, if the set in force would still allow it.
// The target goes first: when we die in between, the lease still ends when it was
// going to.
func (b *Broker) Renew(ctx context.Context, caller Caller, id string, ttl time.Duration) (*leases.Lease, error) {
	if err := b.config.Store.CheckClock(); err != nil {
		return nil, err
	}
	l, err := b.Lease(ctx, caller, id)
	if err != nil {
		return nil, err
	}
	now := b.config.Store.Now()
	if l.State != leases.Active || !now.Before(l.ExpiresAt) {
		return nil, fmt.Errorf("%w: it is %s", ErrAlreadyRevoked, l.State)
	}
	if err := b.config.Switches.Check(ctx, switches.Of{Provider: l.Provider, Policy: l.Policy, Grant: l.Grant, Issuer: l.Issuer}); err != nil {
		return nil, err
	}
	issuer, known := b.config.Issuers[l.Issuer]
	renewer, can := issuer.Issuer.(issuers.Renewer)
	if !known || !can || !l.Renewable {
		return nil, fmt.Errorf("%w: it ends at %s, and its policy, session or kind allows no later end", ErrNotRenewable, l.ExpiresAt.Format(time.RFC3339))
	}
	latest, err := b.latestEnd(ctx, l)
	if err != nil {
		return nil, err
	}
	if ttl == 0 || ttl > l.TTL {
		ttl = l.TTL
	}
	expires := earlier(now.Add(ttl), latest)
	if !expires.After(l.ExpiresAt) {
		if expires.Equal(latest) {
			return nil, fmt.Errorf("%w: it has reached the latest end that its policy and session allow, %s", ErrNotRenewable, latest.Format(time.RFC3339))
		}
		return l, nil // it ends later already
	}
	handle, err := b.config.Store.Handle(ctx, l)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.IssueTime)
	defer cancel()
	if err := renew(ctx, renewer, &issuers.RenewRequest{Lease: l.Named(b.config.Installation), Handle: handle, ExpiresAt: expires}); err != nil {
		return nil, &IssueError{Grant: l.Policy + "/" + l.Grant, err: err}
	}
	if err := b.config.Store.Renew(ctx, l, expires, caller.Actor()); err != nil {
		if errors.Is(err, leases.ErrNotActive) {
			return nil, fmt.Errorf("%w: it ended while it was being renewed", ErrAlreadyRevoked)
		}
		return nil, err
	}
	return l, nil
}

// renew is the call of the issuer. One that panics has failed, like any other.
func renew(ctx context.Context, renewer issuers.Renewer, req *issuers.RenewRequest) (err error) {
	defer func() {
		if recover() != nil { // its value may hold anything: it is not repeated
			err = errPanicked
		}
	}()
	return renewer.Renew(ctx, req)
}

// latestEnd is how far renewals of a lease can reach by the set in force. Its
// policy may have changed since it was issued, on this broker or by another's
// hand: so it is decided again, as at that time.
func (b *Broker) latestEnd(ctx context.Context, l *leases.Lease) (time.Time, error) {
	session, err := b.config.Store.Session(ctx, l.SessionID)
	if err != nil {
		return time.Time{}, err
	}
	grant, err := b.StillAllowed(b.config.Policies(), l, session)
	if err != nil {
		b.config.Logger.InfoContext(ctx, "a lease is not renewed: the set in force doesn't allow it", "lease", l.ID, "reason", err)
		return time.Time{}, fmt.Errorf("%w: the policy changed since it was issued, and gives this job no such grant any more; it ends at %s", ErrNotRenewable, l.ExpiresAt.Format(time.RFC3339))
	}
	latest := earlier(l.MaxExpiresAt, l.IssuedAt.Add(max(grant.MaxTTL, grant.TTL)))
	if !grant.Until.IsZero() {
		latest = earlier(latest, grant.Until)
	}
	if latest.Before(l.ExpiresAt) {
		latest = l.ExpiresAt
	}
	return latest, nil
}

// Lease reads a lease that the caller may see; leases.ErrNotFound otherwise.
func (b *Broker) Lease(ctx context.Context, caller Caller, id string) (*leases.Lease, error) {
	l, err := b.config.Store.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !caller.may(l) {
		return nil, fmt.Errorf("%w: %s", ErrForeign, id)
	}
	return l, nil
}

// RevokeWait is how long Revoke waits for the revoker before it answers that
// the work goes on.
const RevokeWait = 5 * time.Second

// Revoke takes one lease back. It is idempotent, and returns the lease as it is
// when all is done or RevokeWait is over.
func (b *Broker) Revoke(ctx context.Context, caller Caller, id, reason string) (*leases.Lease, error) {
	if _, err := b.Lease(ctx, caller, id); err != nil {
		return nil, err
	}
	ended, err := b.config.Store.BeginRevoke(ctx, []string{id}, leases.Why{Actor: caller.Actor(), Reason: orElse(reason, "asked for")})
	if err != nil {
		return nil, err
	}
	ended, err = b.await(ctx, ended)
	if err != nil {
		return nil, err
	}
	return ended[0], nil
}

// RevokeJob takes back all that the job of a lease holds, and ends its sessions. It
// is for admins: a job knows only what each of its session tokens obtained.
func (b *Broker) RevokeJob(ctx context.Context, caller Caller, id, reason string) ([]*leases.Lease, error) {
	if caller.Admin == nil {
		return nil, ErrForbidden
	}
	ended, err := b.config.Store.RevokeJob(ctx, id, leases.Why{Actor: caller.Actor(), Reason: orElse(reason, "its job was revoked")})
	if err != nil {
		return nil, err
	}
	return b.await(ctx, ended)
}

// RevokeSession gives back all that was obtained with a session token. The job
// token that opened the session is used up.
func (b *Broker) RevokeSession(ctx context.Context, held *leases.Held, reason string) ([]*leases.Lease, error) {
	why := leases.Why{Actor: Caller{Session: held}.Actor(), Reason: orElse(reason, "session given back")}
	if held.ByRevocation {
		why.By = "revocation token"
	}
	ended, err := b.config.Store.RevokeSession(ctx, held.ID, held.TokenHash, why)
	if err != nil {
		return nil, err
	}
	return b.await(ctx, ended)
}

// await wakes the revoker and looks, ever more slowly, whether it is done.
func (b *Broker) await(ctx context.Context, ls []*leases.Lease) ([]*leases.Lease, error) {
	deadline := b.config.Store.Now().Add(RevokeWait)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		open := map[string]bool{}
		for _, l := range ls {
			if !l.State.Ended() {
				open[l.Issuer] = true
			}
		}
		if len(open) == 0 || b.config.Store.Now().After(deadline) {
			return ls, nil
		}
		for issuer := range open {
			b.config.Notify(issuer)
		}
		select {
		case <-ctx.Done():
			return ls, nil // the work goes on without the caller
		case <-time.After(pause):
		}
		for i, l := range ls {
			if l.State.Ended() {
				continue
			}
			now, err := b.config.Store.Get(ctx, l.ID)
			if err != nil {
				return nil, err
			}
			ls[i] = now
		}
	}
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
