package leases

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

const (
	// What is counted is locked until the commit, so that of two brokers the second
	// one sees what the first has taken.
	lockGrants = `
SELECT pg_advisory_xact_lock(hashtextextended('daypass max_active ' || name, 0))
FROM (SELECT DISTINCT unnest($1::text[]) AS name ORDER BY 1) AS wanted`

	// The same by numbers, which come in order: see lockOf.
	lockNumbers = `SELECT count(pg_advisory_xact_lock(number)) FROM unnest($1::bigint[]) AS wanted(number)`

	// Neither a token that came before nor one with the jti of another opens a
	// session; the next statement tells which it was. A token's digest decides its
	// jti, so that in this order no two transactions wait for each other.
	//
	// What is refused for its time opens none either: see the verdicts below.
	openSessions = `
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, events)
SELECT id, $1, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, 1
FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::json[], $8::bytea[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[],
     $12::bytea[], $13::bytea[], $14::timestamptz[])
     AS wanted(id, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, now)
WHERE abs(extract(epoch FROM transaction_timestamp() - $15::timestamptz)) <= $16 AND now >= $15::timestamptz - $17::interval
ORDER BY jti, digest
ON CONFLICT DO NOTHING`

	// Rows are looked up one by one (LATERAL … OFFSET 0), by their keys and in
	// order, whatever the planner thinks of the tables' sizes. What lives is
	// counted as far as it matters and no further.
	//
	// The share lock on the session makes a revocation of it wait until these
	// leases can be seen, or makes this statement see the revocation.
	//
	// An earlier try of the same exchange is told before anything that it may hold
	// is counted. What was not taken was not opened either.
	reserveLeases = `
WITH wanted AS (
    SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::bytea[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
        $18::boolean[], $19::timestamptz[], $20::timestamptz[], $21::int[], $22::boolean[], $23::timestamptz[], $24::timestamptz[], $25::text[], $26::text[],
        $27::text[], $28::boolean[], $29::bytea[], $30::bytea[], $31::bytea[], $32::timestamptz[],
        $33::bytea[], $34::bytea[], $35::int[], $36::int[], $37::int[], $38::int[], $39::int[], $40::int[], $41::int[], $42::int[],
        $47::text[], $48::int[], $49::text[], $50::text[])
    AS w(exchange, provider, issuer, digest, now, session_token,
        id, policy, grant_name, job, policy_digest, lease_issuer, role, kind, target, revocation,
        issued, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, rules, subject,
        own_session, once, jti, retry_key, request, asked,
        whose, job_key, of_grant, grant_most, of_grant_and_job, grant_and_job_most, of_job, job_most, of_tenant, tenant_most,
        request_id, asked_ttl_seconds, ip, signing_key)
), live AS MATERIALIZED (
    SELECT found.* FROM (SELECT DISTINCT provider, issuer, digest FROM wanted ORDER BY digest) d CROSS JOIN LATERAL (
        SELECT s.id, s.provider, s.issuer, s.token_digest, s.expires_at FROM sessions s
        WHERE s.tenant = $1 AND s.provider = d.provider AND s.issuer = d.issuer AND s.token_digest = d.digest AND s.revoked_at IS NULL
        OFFSET 0 FOR SHARE) found
), tenants AS MATERIALIZED (
    SELECT t.whose, (SELECT count(*) FROM (SELECT FROM leases l WHERE l.whose = t.whose AND l.state IN ('issuing', 'active') LIMIT t.most) AS held) AS held
    FROM unnest($43::bytea[], $44::int[]) AS t(whose, most)
), judged AS (
    SELECT w.*, live.id AS session_id, live.expires_at AS session_expires_at, tenants.held,
        CASE
        WHEN abs(extract(epoch FROM transaction_timestamp() - $51::timestamptz)) > $45 THEN 'clock'
        WHEN w.now < $51::timestamptz - $52::interval THEN 'late'
        WHEN live.id IS NULL AND w.jti IS NOT NULL AND EXISTS (SELECT FROM sessions s WHERE s.jti = w.jti AND s.token_digest <> w.digest) THEN 'reused jti'
        WHEN live.id IS NULL OR live.expires_at <= w.now THEN 'replayed'
        WHEN tried.request <> w.request THEN 'other request'
        WHEN tried.created_at >= w.asked THEN 'overtaken'
        WHEN tried.created_at < w.asked THEN 'retry'
        WHEN w.once AND live.id <> w.own_session THEN 'replayed'
        WHEN live.expires_at < w.expires_at THEN 'session ends'
        WHEN w.grant_most > 0 AND w.grant_most < w.of_grant + (SELECT count(*) FROM (
            SELECT FROM leases l WHERE l.tenant = $1 AND l.policy = w.policy AND l.grant_name = w.grant_name AND l.state IN ('issuing', 'active')
            LIMIT w.grant_most) AS held) THEN 'max_active'
        WHEN w.grant_and_job_most > 0 AND w.grant_and_job_most < w.of_grant_and_job + (SELECT count(*) FROM (
            SELECT FROM leases l WHERE l.whose = w.whose AND l.job_key = w.job_key AND l.policy = w.policy AND l.grant_name = w.grant_name AND l.state IN ('issuing', 'active')
            LIMIT w.grant_and_job_most) AS held) THEN 'max_active_per_job'
        WHEN w.job_most > 0 AND w.job_most < w.of_job + (SELECT count(*) FROM (
            SELECT FROM leases l WHERE l.whose = w.whose AND l.job_key = w.job_key AND l.state IN ('issuing', 'active')
            LIMIT w.job_most) AS held) THEN 'job_leases'
        WHEN w.tenant_most > 0 AND w.tenant_most < w.of_tenant + tenants.held THEN 'tenant_leases'
        ELSE '' END AS verdict
    FROM wanted w LEFT JOIN live ON live.provider = w.provider AND live.issuer = w.issuer AND live.token_digest = w.digest
    LEFT JOIN tenants ON tenants.whose = w.whose
    LEFT JOIN LATERAL (
        SELECT t.request, t.created_at FROM session_tokens t WHERE t.retry_key = w.retry_key AND t.created_at > w.asked - $46::interval
        ORDER BY t.created_at DESC LIMIT 1) AS tried ON true
), decided AS (
    SELECT *, bool_and(verdict = '') OVER (PARTITION BY exchange) AS taken FROM judged
), inserted AS (
    INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation,
        provider, subject, state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, whose, job_key, events,
        request_id, asked_ttl_seconds, ip, signing_key)
    SELECT id, $1, session_id, session_token, policy, grant_name, job, policy_digest, lease_issuer, role, kind, target, revocation,
        provider, subject, CASE WHEN issued THEN 'active' ELSE 'issuing' END, now, expires_at, least(max_expires_at, session_expires_at), ttl_seconds,
        renewable AND least(max_expires_at, session_expires_at) > expires_at, issue_deadline, settled_at,
        CASE WHEN issued THEN expires_at ELSE settled_at END, coalesce(string_to_array(nullif(rules, ''), ' '), '{}'), whose, job_key, 1,
        request_id, asked_ttl_seconds, ip, nullif(signing_key, '')
    FROM decided WHERE taken
), unopened AS (
    DELETE FROM sessions s USING (
        SELECT session_id FROM decided GROUP BY session_id HAVING bool_or(session_id = own_session) AND NOT bool_or(taken)) AS d
    WHERE s.id = d.session_id
)
SELECT exchange, verdict, policy || '/' || grant_name, coalesce(session_id, ''), coalesce(session_expires_at, now), coalesce(held, -1) FROM decided`

	//nolint:gosec // hashes of tokens, as parameters
	saveTokens = `
INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at, retry_key, request)
SELECT w.hash, w.key_id, l.session_id, string_to_array(w.grants, ' '), w.now, w.retry_key, w.request
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::bytea[], $7::bytea[]) AS w(hash, key_id, grants, now, lease_id, retry_key, request)
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
func (s *Store) queueReservations(batch *pgx.Batch, writes []*write) {
	var prints printRows
	var rules []Rule
	var ruleTimes []time.Time
	var events []audit.Event
	for _, w := range writes {
		for _, l := range w.reserve.Leases {
			prints.add(l.ID, l.Fingerprints, w.reserve.Now)
			for _, rule := range l.Rules {
				rules, ruleTimes = append(rules, rule), append(ruleTimes, w.reserve.Now)
			}
		}
		events = append(events, w.reserve.events...)
	}
	count := s.counting(writes)
	if len(count.grants) > 0 {
		batch.Queue(lockGrants, count.grants)
	}
	if len(count.locks) > 0 {
		slices.Sort(count.locks)
		batch.Queue(lockNumbers, slices.Compact(count.locks))
	}
	sent := s.Now()
	queueSessions(batch, s.config.Tenant, writes, sent)
	s.queueLeases(batch, writes, count, sent)
	queueTokens(batch, writes)
	audit.InsertIf(batch, events, subjectExists)
	prints.queue(batch)
	if len(rules) > 0 {
		batch.Queue(saveRules, s.config.Tenant, column(rules, func(r Rule) string { return r.ID }), column(rules, func(r Rule) string { return r.Policy }),
			column(rules, func(r Rule) string { return r.Grant }), column(rules, func(r Rule) string { return r.Pattern }), ruleTimes)
	}
}

func queueSessions(batch *pgx.Batch, tenant string, writes []*write, sent time.Time) {
	var opened []*Session
	var jobKeys [][]byte
	var nows []time.Time
	for _, w := range writes {
		if !w.reserve.Joined {
			opened, jobKeys, nows = append(opened, &w.reserve.Session), append(jobKeys, w.reserve.JobKey), append(nows, w.reserve.Now)
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
		column(opened, func(s *Session) []byte { return s.JTI }),
		jobKeys,
		nows,
		sent, MaxSkew.Seconds(), maxWait)
}

// maxAsked bounds what is remembered of a job's wish.
const maxAsked = 366 * 24 * time.Hour

// leaseRow is one lease with the exchange that it belongs to, and its place among
// the leases of the batch that one limit counts together.
type leaseRow struct {
	exchange int
	of       *Reservation
	*NewLease

	ofGrant, ofGrantAndJob, ofJob, ofTenant int
}

func leaseRows(writes []*write) []leaseRow {
	var rows []leaseRow
	places := map[string]int{}
	place := func(limit string, of ...string) int {
		key := limit + "\x00" + strings.Join(of, "\x00")
		places[key]++
		return places[key]
	}
	for i, w := range writes {
		r := w.reserve
		job, whose := string(r.JobKey), string(r.Whose)
		for j := range r.Leases {
			row := leaseRow{exchange: i, of: r, NewLease: &r.Leases[j]}
			if row.MaxActive > 0 {
				row.ofGrant = place(LimitGrant, row.Policy, row.Grant)
			}
			if row.MaxActivePerJob > 0 {
				row.ofGrantAndJob = place(LimitGrantPerJob, row.Policy, row.Grant, whose, job)
			}
			if r.MaxPerJob > 0 {
				row.ofJob = place(LimitJob, whose, job)
			}
			if r.MaxPerTenant > 0 {
				row.ofTenant = place(LimitTenant, whose)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (s *Store) queueLeases(batch *pgx.Batch, writes []*write, count counting, sent time.Time) {
	rows := leaseRows(writes)
	text := func(f func(leaseRow) string) []string { return column(rows, f) }
	instant := func(f func(leaseRow) time.Time) []time.Time { return column(rows, f) }
	number := func(f func(leaseRow) int) []int32 {
		return column(rows, func(r leaseRow) int32 { return int32(f(r)) }) //nolint:gosec // bounded by policy and configuration
	}
	batch.Queue(reserveLeases, s.config.Tenant,
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
		text(func(r leaseRow) string {
			return strings.Join(column(r.Rules, func(r Rule) string { return r.ID }), " ")
		}),
		text(func(r leaseRow) string { return r.of.Session.Subject }),
		text(func(r leaseRow) string { return r.of.opens() }),
		column(rows, func(r leaseRow) bool { return r.of.Once }),
		column(rows, func(r leaseRow) []byte { return r.of.jti() }),
		column(rows, func(r leaseRow) []byte { return r.of.retry().Key }),
		column(rows, func(r leaseRow) []byte { return r.of.retry().Request }),
		instant(func(r leaseRow) time.Time { return r.of.retry().Asked }),
		column(rows, func(r leaseRow) []byte { return r.of.Whose }),
		column(rows, func(r leaseRow) []byte { return r.of.JobKey }),
		number(func(r leaseRow) int { return r.ofGrant }),
		number(func(r leaseRow) int { return r.MaxActive }),
		number(func(r leaseRow) int { return r.ofGrantAndJob }),
		number(func(r leaseRow) int { return r.MaxActivePerJob }),
		number(func(r leaseRow) int { return r.ofJob }),
		number(func(r leaseRow) int { return r.of.MaxPerJob }),
		number(func(r leaseRow) int { return r.ofTenant }),
		number(func(r leaseRow) int { return r.of.MaxPerTenant }),
		count.tenants, count.limits,
		MaxSkew.Seconds(), RetryLife,
		text(func(r leaseRow) string { return r.of.RequestID }),
		number(func(r leaseRow) int { return int(min(r.AskedTTL, maxAsked) / time.Second) }),
		text(func(r leaseRow) string { return r.of.IP }),
		text(func(r leaseRow) string { return r.SigningKey }),
		sent, maxWait,
	).Query(func(rows pgx.Rows) error {
		var exchange int
		var verdict, grant, session string
		var ends time.Time
		var held int
		_, err := pgx.ForEachRow(rows, []any{&exchange, &verdict, &grant, &session, &ends, &held}, func() error {
			w := writes[exchange]
			if held >= 0 {
				count.held[string(w.reserve.Whose)] = held
			}
			w.reserve.SessionID, w.reserve.SessionExpiresAt = session, ends.UTC()
			// Several grants may be refused for several reasons. What is wrong with the
			// exchange is wrong for each of them; of the rest the first is told.
			if w.err == nil {
				w.err = refusal(verdict, grant, ends)
			}
			if verdict == "clock" {
				s.clock.look()
			}
			return nil
		})
		s.learn(count)
		return err
	})
}

func refusal(verdict, grant string, sessionEnds time.Time) error {
	switch verdict {
	case "":
		return nil
	case "clock":
		return &ClockError{Detail: fmt.Sprintf("the broker's idea of the time and the database's clock were more than %s apart; the clock is looked at anew", MaxSkew)}
	case "late":
		return fmt.Errorf("%w: it waited longer than %s for a place in a transaction", ErrUnavailable, maxWait)
	case "reused jti":
		return ErrReusedJTI
	case "replayed":
		return ErrReplayed
	case "other request":
		return ErrOtherRequest
	case "overtaken":
		return ErrOvertaken
	case "retry":
		return ErrRetry
	case "session ends":
		return &SessionEndsError{At: sessionEnds}
	}
	return &TooManyError{Grant: grant, Limit: verdict}
}

func queueTokens(batch *pgx.Batch, writes []*write) {
	batch.Queue(saveTokens,
		column(writes, func(w *write) []byte { return w.reserve.Token.Hash[:] }),
		column(writes, func(w *write) string { return w.reserve.Token.KeyID }),
		column(writes, func(w *write) string { return strings.Join(w.reserve.Token.Grants, " ") }),
		column(writes, func(w *write) time.Time { return w.reserve.retry().Asked }),
		column(writes, func(w *write) string { return w.reserve.Leases[0].ID }),
		column(writes, func(w *write) []byte { return w.reserve.retry().Key }),
		column(writes, func(w *write) []byte { return w.reserve.retry().Request }))
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

func column[R, V any](rows []R, value func(R) V) []V {
	values := make([]V, len(rows))
	for i, r := range rows {
		values[i] = value(r)
	}
	return values
}
