package leases

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

const leaseColumns = `
    l.id, l.tenant, l.session_id, l.session_token, l.policy, l.grant_name, l.job, l.policy_digest, l.issuer, l.role, l.kind, l.target, l.revocation,
    l.provider, l.subject, l.state, l.issued_at, l.expires_at, l.max_expires_at, l.ttl_seconds, l.renewable, l.issue_deadline, l.settled_at, l.ended_at,
    l.attempts, coalesce(l.last_error, ''), l.stuck, l.rules, l.handle, l.events, l.request_id, l.asked_ttl_seconds, l.ip,
    coalesce(l.signing_key, '')`

const selectLeases = `
SELECT` + leaseColumns + ` FROM leases l`

func scanLease(row pgx.CollectableRow) (*Lease, error) { return scanLeaseAnd(row) }

// scanLeaseAnd scans leaseColumns, and more columns behind them.
func scanLeaseAnd(row pgx.CollectableRow, more ...any) (*Lease, error) {
	var l Lease
	var ttl, asked int64
	err := row.Scan(append([]any{
		&l.ID, &l.Tenant, &l.SessionID, &l.SessionToken, &l.Policy, &l.Grant, &l.Job, &l.PolicyDigest, &l.Issuer, &l.Role, &l.Kind, &l.Target, &l.Revocation,
		&l.Provider, &l.Subject, &l.State, &l.IssuedAt, &l.ExpiresAt, &l.MaxExpiresAt, &ttl, &l.Renewable, &l.IssueDeadline, &l.SettledAt, &l.EndedAt,
		&l.Attempts, &l.LastError, &l.Stuck, &l.Rules, &l.sealedHandle, &l.events, &l.RequestID, &asked, &l.IP, &l.SigningKey,
	}, more...)...)
	l.TTL, l.AskedTTL = time.Duration(ttl)*time.Second, time.Duration(asked)*time.Second
	for _, t := range []*time.Time{&l.IssuedAt, &l.ExpiresAt, &l.MaxExpiresAt, &l.IssueDeadline, &l.SettledAt} {
		*t = t.UTC()
	}
	return &l, err
}

// Get reads one lease.
func (s *Store) Get(ctx context.Context, id string) (*Lease, error) {
	return s.one(ctx, s.config.Pool, selectLeases+` WHERE l.tenant = $1 AND l.id = $2`, id)
}

func (s *Store) lock(ctx context.Context, tx pgx.Tx, id string) (*Lease, error) {
	return s.one(ctx, tx, selectLeases+` WHERE l.tenant = $1 AND l.id = $2 FOR UPDATE OF l`, id)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *Store) one(ctx context.Context, from querier, sql, id string) (*Lease, error) {
	rows, err := from.Query(ctx, sql, s.config.Tenant, id)
	if err != nil {
		return nil, unavailable("reading lease", err)
	}
	l, err := pgx.CollectExactlyOneRow(rows, scanLease)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return nil, unavailable("reading lease", err)
	}
	return l, nil
}

// Filter says which leases are asked for; empty fields say nothing.
type Filter struct {
	Policy, Grant, Issuer, Session, Subject, Provider, Target string
	State                                                     State
	ExpiresBefore                                             time.Time
	SessionToken                                              []byte // only those obtained with this token
	Stuck                                                     bool   // only those whose revocation waits for a person

	Before string // id of the last lease of the page before
	Limit  int
}

// List reads leases, newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]*Lease, error) {
	var before *time.Time
	if !f.ExpiresBefore.IsZero() {
		before = &f.ExpiresBefore
	}
	rows, err := s.config.Pool.Query(ctx, selectLeases+`
WHERE l.tenant = $1 AND ($2 = '' OR l.policy = $2) AND ($3 = '' OR l.grant_name = $3) AND ($4 = '' OR l.issuer = $4)
  AND ($5 = '' OR l.session_id = $5) AND ($6 = '' OR l.subject = $6) AND ($7 = '' OR l.provider = $7) AND ($8 = '' OR l.target = $8)
  AND ($9 = '' OR l.state = $9) AND ($10::timestamptz IS NULL OR l.expires_at < $10) AND ($11::bytea IS NULL OR l.session_token = $11)
  AND ($12 = '' OR l.id < $12)
ORDER BY l.id DESC LIMIT $13`,
		s.config.Tenant, f.Policy, f.Grant, f.Issuer, f.Session, f.Subject, f.Provider, f.Target, string(f.State), before, f.SessionToken, f.Before, f.Limit)
	if err != nil {
		return nil, unavailable("listing leases", err)
	}
	found, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, unavailable("listing leases", err)
	}
	return found, nil
}

// mostScanned is how many leases one page of a list looks at: a filter that fits
// few must not read them all.
const mostScanned = 20_000

// Page reads a page of at most f.Limit leases, newest first, and the cursor of
// the next one; "" when there is none. A page may be short, or empty, with more
// behind it: it ends after so many that the filter didn't fit.
func (s *Store) Page(ctx context.Context, f Filter) (found []*Lease, next string, err error) {
	var before *time.Time
	if !f.ExpiresBefore.IsZero() {
		before = &f.ExpiresBefore
	}
	from := ``
	if f.Stuck {
		from = ` AND l.state = 'revoking' AND l.stuck`
	}
	rows, err := s.config.Pool.Query(ctx, `
WITH scanned AS NOT MATERIALIZED (SELECT * FROM leases l WHERE l.tenant = $1 AND ($11 = '' OR l.id < $11)`+from+` ORDER BY l.id DESC LIMIT $13)
SELECT`+leaseColumns+` FROM scanned l
WHERE ($2 = '' OR l.policy = $2) AND ($3 = '' OR l.grant_name = $3) AND ($4 = '' OR l.issuer = $4)
  AND ($5 = '' OR l.session_id = $5) AND ($6 = '' OR l.subject = $6) AND ($7 = '' OR l.provider = $7) AND ($8 = '' OR l.target = $8)
  AND ($9 = '' OR l.state = $9) AND ($10::timestamptz IS NULL OR l.expires_at < $10)
ORDER BY l.id DESC LIMIT $12`,
		s.config.Tenant, f.Policy, f.Grant, f.Issuer, f.Session, f.Subject, f.Provider, f.Target, string(f.State), before, f.Before, f.Limit+1, mostScanned)
	if err != nil {
		return nil, "", unavailable("listing leases", err)
	}
	if found, err = pgx.CollectRows(rows, scanLease); err != nil {
		return nil, "", unavailable("listing leases", err)
	}
	if len(found) > f.Limit {
		return found[:f.Limit], found[f.Limit-1].ID, nil
	}
	if f.Stuck {
		return found, "", nil
	}
	const last = `SELECT coalesce((SELECT id FROM leases WHERE tenant = $1 AND ($2 = '' OR id < $2) ORDER BY id DESC OFFSET $3 LIMIT 1), '')`
	if err := s.config.Pool.QueryRow(ctx, last, s.config.Tenant, f.Before, mostScanned-1).Scan(&next); err != nil {
		return nil, "", unavailable("listing leases", err)
	}
	return found, next, nil
}

// What session tokens, and those of the Vault façade, are hashed under, with the key
// for them.
const (
	TokenDomain      = "session token"
	VaultTokenDomain = "vault token"

	// revocationDomain is what a revocation token is hashed under to get the session
	// token that it belongs to.
	revocationDomain = "session token of revocation token"
)

// SessionTokenOf is the session token that a revocation token belongs to. It is made
// from it, with the key for session tokens: so the broker finds the session of
// either by the one hash that it keeps, and a revocation token, which is the random
// one of the two, tells nothing of the session token to whoever lacks the key.
func SessionTokenOf(revocation string, sums *keys.Hasher) issuers.Secret {
	return issuers.GenerateFrom(issuers.SessionToken, sums.Sum(revocationDomain, []byte(revocation)))
}

// Held is a session as one of its tokens sees it.
type Held struct {
	Session
	TokenHash    [32]byte
	Grants       []string // what the token may ask for again
	TokenRevoked bool
	TokenMadeAt  time.Time
	Mount, Role  string // where it logged in, of a token of the Vault façade; else empty
	Thumbprint   []byte // of the key that the token is bound to; nil: it is a bearer's
	ByRevocation bool   // who asks has its revocation token alone
}

// Live says whether the token opens anything at a time.
func (h *Held) Live(now time.Time) bool {
	return h.RevokedAt == nil && !h.TokenRevoked && now.Before(h.ExpiresAt)
}

// FindToken reads the session of a session token by the token's hash. A session
// that has ended is found all the same, for those who want to revoke twice.
func (s *Store) FindToken(ctx context.Context, hash [32]byte) (*Held, error) {
	const find = `
SELECT s.id, s.provider, s.issuer, s.token_digest, s.subject, s.claims, s.claims_mac, s.opened_at, s.expires_at, s.token_expires_at, s.revoked_at,
    t.grants, t.revoked_at IS NOT NULL, t.created_at, coalesce(t.mount, ''), coalesce(t.role, ''), t.dpop_jkt
FROM session_tokens t JOIN sessions s ON s.id = t.session_id WHERE s.tenant = $1 AND t.hash = $2`
	h := &Held{TokenHash: hash}
	var digest, mac []byte
	err := s.config.Pool.QueryRow(ctx, find, s.config.Tenant, hash[:]).Scan(&h.ID, &h.Provider, &h.Issuer, &digest, &h.Subject, &h.Claims, &mac,
		&h.OpenedAt, &h.ExpiresAt, &h.TokenExpiresAt, &h.RevokedAt, &h.Grants, &h.TokenRevoked, &h.TokenMadeAt, &h.Mount, &h.Role, &h.Thumbprint)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, unavailable("reading session", err)
	}
	h.TokenDigest = [32]byte(digest)
	if sum := s.authenticate(&h.Session); !hmac.Equal(sum[:], mac) {
		return nil, fmt.Errorf("%w: %s", ErrForged, h.ID)
	}
	return h, nil
}

// NextDue is when the next lease of an issuer has to be looked at; zero when
// there is none.
func (s *Store) NextDue(ctx context.Context, issuer string) (time.Time, error) {
	var due *time.Time
	err := s.config.Pool.QueryRow(ctx, `SELECT min(due_at) FROM leases WHERE issuer = $1 AND due_at IS NOT NULL`, issuer).Scan(&due)
	if err != nil {
		return time.Time{}, unavailable("looking for what is due", err)
	}
	if due == nil {
		return time.Time{}, nil
	}
	return *due, nil
}

// Overdue counts, by issuer, the leases that should have been taken back before
// a time and were not, and those that wait for a person.
type Overdue struct {
	Issuer  string
	Overdue int
	Stuck   int
	Since   *time.Time // when the oldest of them should have been taken back; nil: there is none
}

// OverdueBefore reads what is overdue. What it costs grows with what is
// overdue, not with what is alive: the index of due times begins with the issuer,
// so the issuers are looked up first, each by the one before it.
func (s *Store) OverdueBefore(ctx context.Context, before time.Time) ([]Overdue, error) {
	const overdue = `
WITH RECURSIVE names AS (
    (SELECT issuer FROM leases WHERE due_at IS NOT NULL ORDER BY issuer LIMIT 1)
    UNION ALL
    SELECT (SELECT l.issuer FROM leases l WHERE l.due_at IS NOT NULL AND l.issuer > n.issuer ORDER BY l.issuer LIMIT 1) FROM names n WHERE n.issuer IS NOT NULL
), late AS (
    SELECT found.* FROM names n CROSS JOIN LATERAL (
        SELECT l.issuer, l.expires_at < $2 AS overdue, l.stuck, l.expires_at AS since FROM leases l
        WHERE l.tenant = $1 AND l.issuer = n.issuer AND l.due_at < $2 AND l.state <> 'revoking' OFFSET 0) found
    UNION ALL
    SELECT l.issuer, coalesce(l.revoking_at, l.expires_at) < $2, l.stuck, coalesce(l.revoking_at, l.expires_at) FROM leases l WHERE l.tenant = $1 AND l.state = 'revoking'
)
SELECT issuer, count(*) FILTER (WHERE overdue), count(*) FILTER (WHERE stuck), min(since) FILTER (WHERE overdue) FROM late GROUP BY issuer`
	rows, err := s.config.Pool.Query(ctx, overdue, s.config.Tenant, before)
	if err != nil {
		return nil, unavailable("counting overdue leases", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Overdue])
	if err != nil {
		return nil, unavailable("counting overdue leases", err)
	}
	return found, nil
}

// Handle opens what the issuer gave for a lease; nil when there was nothing.
func (s *Store) Handle(ctx context.Context, l *Lease) ([]byte, error) {
	if l.sealedHandle == nil {
		return nil, nil
	}
	handle, err := s.config.Handles.Open(ctx, s.handleRow(l.ID), l.sealedHandle)
	if err != nil {
		if !errors.Is(err, keys.ErrOpen) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, fmt.Errorf("unsealing what belongs to %s: %w", l.ID, err)
	}
	return handle, nil
}
