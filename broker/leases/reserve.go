package leases

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

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
}

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
	MaxActive                            int // 0: no limit
	Rules                                []Rule

	// Issued says that the credential exists already and nothing outside knows of
	// it: the lease begins as active, and one commit is enough.
	Issued       bool
	Fingerprints []Fingerprint // of an issued one
}

// Rule is a pattern that must not appear in a log.
type Rule struct{ ID, Policy, Grant, Pattern string }

// Fingerprint is the keyed hash of a secret value.
type Fingerprint struct {
	Sum           [32]byte
	Field         string // which value of the credential
	KeyID, Scheme string
}

// Reserve puts an exchange on record: the session, unless its job token opened
// one before, its session token, its leases, and the event of each. It returns
// ErrReplayed, a TooManyError, a SessionEndsError or ErrUnavailable, and then
// nothing was written.
func (s *Store) Reserve(ctx context.Context, r *Reservation) error {
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
		if err := add(audit.Entry{Type: kind, Subject: l.ID, Count: 1, Actor: actor, Data: map[string]any{
			// Which session it is stands in the lease: a job token that comes again joins another.
			"grant": l.Policy + "/" + l.Grant, "issuer": l.Issuer, "role": l.Role, "job": l.Job, "policy_digest": l.PolicyDigest, "expires_at": l.ExpiresAt,
		}}); err != nil {
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
func JobActor(provider, subject string) string { return "job " + provider + " " + subject }

const (
	lockGrants = `
SELECT pg_advisory_xact_lock(hashtextextended('daypass max_active ' || name, 0))
FROM (SELECT DISTINCT unnest($1::text[]) AS name ORDER BY 1) AS wanted`

	openSessions = `
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events)
SELECT id, $1, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, 1
FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::json[], $8::bytea[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[])
     AS wanted(id, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at)
WHERE abs(extract(epoch FROM clock_timestamp() - opened_at)) <= $12
ORDER BY digest
ON CONFLICT (tenant, provider, issuer, token_digest) DO NOTHING`

	// Rows are looked up one by one (LATERAL … OFFSET 0), by their keys and in
	// order, whatever the planner thinks of the tables' sizes.
	//
	// The share lock on the session makes a revocation of it wait until these
	// leases can be seen, or makes this statement see the revocation.
	reserveLeases = `
WITH wanted AS (
    SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::bytea[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
        $18::boolean[], $19::timestamptz[], $20::timestamptz[], $21::int[], $22::boolean[], $23::timestamptz[], $24::timestamptz[], $25::int[], $26::text[], $27::text[],
        $29::text[], $30::int[], $31::text[])
    AS w(exchange, provider, issuer, digest, now, session_token,
        id, policy, grant_name, job, policy_digest, lease_issuer, role, kind, target, revocation,
        issued, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, max_active, rules, subject,
        request_id, asked_ttl_seconds, ip)
), live AS MATERIALIZED (
    SELECT found.* FROM (SELECT DISTINCT provider, issuer, digest FROM wanted ORDER BY digest) d CROSS JOIN LATERAL (
        SELECT s.id, s.provider, s.issuer, s.token_digest, s.expires_at FROM sessions s
        WHERE s.tenant = $1 AND s.provider = d.provider AND s.issuer = d.issuer AND s.token_digest = d.digest AND s.revoked_at IS NULL
        OFFSET 0 FOR SHARE) found
), judged AS (
    SELECT w.*, live.id AS session_id, live.expires_at AS session_expires_at,
        CASE
        WHEN abs(extract(epoch FROM clock_timestamp() - w.now)) > $28 THEN 'clock'
        WHEN live.id IS NULL OR live.expires_at <= w.now THEN 'replayed'
        WHEN live.expires_at < w.expires_at THEN 'session ends'
        WHEN w.max_active > 0 AND w.max_active < row_number() OVER (PARTITION BY w.policy, w.grant_name ORDER BY w.exchange, w.id) + (
            SELECT count(*) FROM leases l
            WHERE l.tenant = $1 AND l.policy = w.policy AND l.grant_name = w.grant_name AND l.state IN ('issuing', 'active')) THEN 'too many'
        ELSE '' END AS verdict
    FROM wanted w LEFT JOIN live ON live.provider = w.provider AND live.issuer = w.issuer AND live.token_digest = w.digest
), decided AS (
    SELECT *, bool_and(verdict = '') OVER (PARTITION BY exchange) AS taken FROM judged
), inserted AS (
    INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation,
        provider, subject, state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events,
        request_id, asked_ttl_seconds, ip)
    SELECT id, $1, session_id, session_token, policy, grant_name, job, policy_digest, lease_issuer, role, kind, target, revocation,
        provider, subject, CASE WHEN issued THEN 'active' ELSE 'issuing' END, now, expires_at, least(max_expires_at, session_expires_at), ttl_seconds,
        renewable AND least(max_expires_at, session_expires_at) > expires_at, issue_deadline, settled_at,
        CASE WHEN issued THEN expires_at ELSE settled_at END, coalesce(string_to_array(nullif(rules, ''), ' '), '{}'), 1,
        request_id, asked_ttl_seconds, ip
    FROM decided WHERE taken
)
SELECT exchange, verdict, policy || '/' || grant_name, coalesce(session_id, ''), coalesce(session_expires_at, now) FROM decided`

	// What max_active refused was not opened either.
	closeEmptySessions = `
DELETE FROM sessions s WHERE s.id = ANY($1) AND NOT EXISTS (SELECT FROM leases l WHERE l.session_id = s.id)`

	//nolint:gosec // hashes of tokens, as parameters
	saveTokens = `
INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at)
SELECT w.hash, w.key_id, l.session_id, string_to_array(w.grants, ' '), w.now
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::timestamptz[], $5::text[]) AS w(hash, key_id, grants, now, lease_id)
CROSS JOIN LATERAL (SELECT session_id FROM leases WHERE id = w.lease_id OFFSET 0) l`

	saveFingerprints = `
INSERT INTO fingerprints (fingerprint, lease_id, field, key_id, scheme, created_at)
SELECT w.* FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[]) AS w(fingerprint, lease_id, field, key_id, scheme, created_at)
CROSS JOIN LATERAL (SELECT 1 FROM leases WHERE id = w.lease_id AND state = 'active' OFFSET 0) l`

	saveRules = `
INSERT INTO redaction_rules (id, tenant, policy, grant_name, pattern, created_at)
SELECT DISTINCT ON (id) id, $1, policy, grant_name, pattern, now
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[]) AS w(id, policy, grant_name, pattern, now) ORDER BY id
ON CONFLICT (id) DO NOTHING`

	// What a statement before this one declined has no event.
	subjectExists = `
coalesce((SELECT true FROM leases l WHERE l.id = e.subject), (SELECT true FROM sessions s WHERE s.id = e.subject), false)`
)

// queueReservations adds the statements that reserve. Their results land in the
// writes.
func queueReservations(batch *pgx.Batch, tenant string, writes []*write) {
	var limited []string
	var prints printRows
	var rules []Rule
	var ruleTimes []time.Time
	var events []audit.Event
	for _, w := range writes {
		for _, l := range w.reserve.Leases {
			if l.MaxActive > 0 {
				limited = append(limited, tenant+"/"+l.Policy+"/"+l.Grant)
			}
			prints.add(l.ID, l.Fingerprints, w.reserve.Now)
			for _, rule := range l.Rules {
				rules, ruleTimes = append(rules, rule), append(ruleTimes, w.reserve.Now)
			}
		}
		events = append(events, w.reserve.events...)
	}
	if len(limited) > 0 {
		batch.Queue(lockGrants, limited)
	}
	queueSessions(batch, tenant, writes)
	queueLeases(batch, tenant, writes)
	if len(limited) > 0 {
		batch.Queue(closeEmptySessions, column(writes, func(w *write) string { return w.reserve.Session.ID }))
	}
	queueTokens(batch, writes)
	audit.InsertIf(batch, events, subjectExists)
	prints.queue(batch)
	if len(rules) > 0 {
		batch.Queue(saveRules, tenant, column(rules, func(r Rule) string { return r.ID }), column(rules, func(r Rule) string { return r.Policy }),
			column(rules, func(r Rule) string { return r.Grant }), column(rules, func(r Rule) string { return r.Pattern }), ruleTimes)
	}
}

func queueSessions(batch *pgx.Batch, tenant string, writes []*write) {
	var opened []*Session
	for _, w := range writes {
		if !w.reserve.Joined {
			opened = append(opened, &w.reserve.Session)
		}
	}
	if len(opened) == 0 {
		return
	}
	batch.Queue(openSessions, tenant,
		column(opened, func(s *Session) string { return s.ID }),
		column(opened, func(s *Session) string { return s.Provider }),
		column(opened, func(s *Session) string { return s.Issuer }),
		column(opened, func(s *Session) []byte { return s.TokenDigest[:] }),
		column(opened, func(s *Session) string { return s.Subject }),
		column(opened, func(s *Session) string { return string(s.Claims) }),
		column(opened, func(s *Session) []byte { return s.claimsMAC[:] }),
		column(opened, func(s *Session) time.Time { return s.OpenedAt }),
		column(opened, func(s *Session) time.Time { return s.ExpiresAt }),
		column(opened, func(s *Session) time.Time { return s.TokenExpiresAt }),
		MaxSkew.Seconds())
}

// maxAsked bounds what is remembered of a job's wish.
const maxAsked = 366 * 24 * time.Hour

// leaseRow is one lease with the exchange that it belongs to.
type leaseRow struct {
	exchange int
	of       *Reservation
	*NewLease
}

func queueLeases(batch *pgx.Batch, tenant string, writes []*write) {
	var rows []leaseRow
	for i, w := range writes {
		for j := range w.reserve.Leases {
			rows = append(rows, leaseRow{i, w.reserve, &w.reserve.Leases[j]})
		}
	}
	text := func(f func(leaseRow) string) []string { return column(rows, f) }
	instant := func(f func(leaseRow) time.Time) []time.Time { return column(rows, f) }
	batch.Queue(reserveLeases, tenant,
		column(rows, func(r leaseRow) int32 { return int32(r.exchange) }), //nolint:gosec // at most maxBatch
		text(func(r leaseRow) string { return r.of.Session.Provider }),
		text(func(r leaseRow) string { return r.of.Session.Issuer }),
		column(rows, func(r leaseRow) []byte { return r.of.Session.TokenDigest[:] }),
		instant(func(r leaseRow) time.Time { return r.of.Now }),
		column(rows, func(r leaseRow) []byte { return r.of.Token.Hash[:] }),
		text(func(r leaseRow) string { return r.ID }),
		text(func(r leaseRow) string { return r.Policy }),
		text(func(r leaseRow) string { return r.Grant }),
		text(func(r leaseRow) string { return r.Job }),
		text(func(r leaseRow) string { return r.PolicyDigest }),
		text(func(r leaseRow) string { return r.Issuer }),
		text(func(r leaseRow) string { return r.Role }),
		text(func(r leaseRow) string { return r.Kind }),
		text(func(r leaseRow) string { return r.Target }),
		text(func(r leaseRow) string { return string(r.Revocation) }),
		column(rows, func(r leaseRow) bool { return r.Issued }),
		instant(func(r leaseRow) time.Time { return r.ExpiresAt }),
		instant(func(r leaseRow) time.Time { return r.MaxExpiresAt }),
		column(rows, func(r leaseRow) int32 { return int32(r.TTL / time.Second) }), //nolint:gosec // a day at the most
		column(rows, func(r leaseRow) bool { return r.Renewable }),
		instant(func(r leaseRow) time.Time { return r.IssueDeadline }),
		instant(func(r leaseRow) time.Time { return r.SettledAt }),
		column(rows, func(r leaseRow) int32 { return int32(r.MaxActive) }), //nolint:gosec // bounded by the policy
		text(func(r leaseRow) string {
			return strings.Join(column(r.Rules, func(r Rule) string { return r.ID }), " ")
		}),
		text(func(r leaseRow) string { return r.of.Session.Subject }),
		MaxSkew.Seconds(),
		text(func(r leaseRow) string { return r.of.RequestID }),
		column(rows, func(r leaseRow) int32 { return int32(min(r.AskedTTL, maxAsked) / time.Second) }), //nolint:gosec // bounded here
		text(func(r leaseRow) string { return r.of.IP }),
	).Query(func(rows pgx.Rows) error {
		var exchange int
		var verdict, grant, session string
		var ends time.Time
		_, err := pgx.ForEachRow(rows, []any{&exchange, &verdict, &grant, &session, &ends}, func() error {
			w := writes[exchange]
			w.reserve.SessionID, w.reserve.SessionExpiresAt = session, ends.UTC()
			// Several grants may be refused for several reasons: the gravest is told.
			if refusal := refusal(verdict, grant, ends); refusal != nil && (w.err == nil || verdict == "clock" || verdict == "replayed") {
				w.err = refusal
			}
			return nil
		})
		return err
	})
}

func refusal(verdict, grant string, sessionEnds time.Time) error {
	switch verdict {
	case "":
		return nil
	case "clock":
		return fmt.Errorf("%w: the broker's clock and the database's are more than %s apart", ErrUnavailable, MaxSkew)
	case "replayed":
		return ErrReplayed
	case "too many":
		return &TooManyError{Grant: grant}
	}
	return &SessionEndsError{At: sessionEnds}
}

func queueTokens(batch *pgx.Batch, writes []*write) {
	batch.Queue(saveTokens,
		column(writes, func(w *write) []byte { return w.reserve.Token.Hash[:] }),
		column(writes, func(w *write) string { return w.reserve.Token.KeyID }),
		column(writes, func(w *write) string { return strings.Join(w.reserve.Token.Grants, " ") }),
		column(writes, func(w *write) time.Time { return w.reserve.Now }),
		column(writes, func(w *write) string { return w.reserve.Leases[0].ID }))
}

// printRows are fingerprints as columns.
type printRows struct {
	sums                          [][]byte
	leases, fields, keys, schemes []string
	times                         []time.Time
}

func (p *printRows) add(lease string, prints []Fingerprint, at time.Time) {
	for _, f := range prints {
		p.sums = append(p.sums, f.Sum[:])
		p.leases, p.fields = append(p.leases, lease), append(p.fields, f.Field)
		p.keys, p.schemes = append(p.keys, f.KeyID), append(p.schemes, f.Scheme)
		p.times = append(p.times, at)
	}
}

func (p *printRows) queue(batch *pgx.Batch) {
	if len(p.sums) > 0 {
		batch.Queue(saveFingerprints, p.sums, p.leases, p.fields, p.keys, p.schemes, p.times)
	}
}

// Activation is what Issue brought for one exchange: all its leases, or none.
type Activation struct {
	Now    time.Time
	Actor  string
	Leases []Minted

	events []audit.Event
}

// Minted is one lease whose credential now exists.
type Minted struct {
	ID           string
	Handle       []byte // as the issuer gave it; sealed before it is stored
	Fingerprints []Fingerprint

	sealed []byte
}

// Activate records that the credentials exist and how to take them back. When
// one of the leases is no longer issuing, somebody else has begun to revoke it:
// ErrNotActive, and the caller must revoke them all and hand out none.
func (s *Store) Activate(ctx context.Context, a *Activation) error {
	slices.SortFunc(a.Leases, func(x, y Minted) int { return cmp.Compare(x.ID, y.ID) })
	for i := range a.Leases {
		l := &a.Leases[i]
		if l.Handle != nil {
			sealed, err := s.config.Handles.Seal(s.handleRow(l.ID), l.Handle)
			if err != nil {
				return fmt.Errorf("sealing what revokes %s: %w", l.ID, err)
			}
			l.sealed = sealed
		}
		event, err := s.config.Audit.Event(audit.Entry{At: a.Now, Type: audit.LeaseIssued, Subject: l.ID, Count: 2, Actor: a.Actor})
		if err != nil {
			return err
		}
		a.events = append(a.events, event)
	}
	return s.submit(ctx, &write{activate: a})
}

const (
	activateLeases = `
WITH minted AS (
    SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[]) AS m(exchange, id, handle)
), locked AS MATERIALIZED (
    SELECT found.* FROM (SELECT id FROM minted ORDER BY id) m CROSS JOIN LATERAL (
        SELECT l.id FROM leases l WHERE l.id = m.id AND l.state = 'issuing' OFFSET 0 FOR UPDATE) found
), changed AS (
    UPDATE leases l SET state = 'active', handle = m.handle, due_at = l.expires_at, events = 2
    FROM minted m JOIN locked USING (id) WHERE l.id = m.id RETURNING l.id
)
SELECT m.exchange, changed.id IS NOT NULL FROM minted m LEFT JOIN changed USING (id)`

	leaseIsActive = `coalesce((SELECT l.state = 'active' AND l.events = e.count FROM leases l WHERE l.id = e.subject), false)`
)

func queueActivations(batch *pgx.Batch, writes []*write) {
	var exchanges []int32
	var leaseIDs []string
	var handles [][]byte
	var prints printRows
	var events []audit.Event
	for i, w := range writes {
		for _, l := range w.activate.Leases {
			exchanges, leaseIDs, handles = append(exchanges, int32(i)), append(leaseIDs, l.ID), append(handles, l.sealed)
			prints.add(l.ID, l.Fingerprints, w.activate.Now)
		}
		events = append(events, w.activate.events...)
	}
	batch.Queue(activateLeases, exchanges, leaseIDs, handles).Query(func(rows pgx.Rows) error {
		var exchange int
		var changed bool
		_, err := pgx.ForEachRow(rows, []any{&exchange, &changed}, func() error {
			if !changed {
				writes[exchange].err = ErrNotActive
			}
			return nil
		})
		return err
	})
	audit.InsertIf(batch, events, leaseIsActive)
	prints.queue(batch)
}

func column[R, V any](rows []R, value func(R) V) []V {
	values := make([]V, len(rows))
	for i, r := range rows {
		values[i] = value(r)
	}
	return values
}
