package leases

import (
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// liveFor is how old a lease that lives can be: it ends with its session, which
// ends within 24 hours, and what is past its end for as long again is the
// revoker's and counts for nobody. By it Postgres leaves all partitions but one or
// two aside where what lives is counted.
const liveFor = 48 * time.Hour

// Which parts of the statement a batch has a use for. Each way of counting opens
// indexes of its own, used or not, and most batches count by job alone.
type parts struct{ ofGrant, ofJob, ofTenant, retries, once, prints, held, bound bool }

// reserveLeases is the statement that reserves: it decides on each exchange, and
// what it takes it writes, with its token, its fingerprints and its events. Nothing
// that it has written is looked up again.
//
// Rows are looked up one by one (LATERAL … OFFSET 0), by their keys and in
// order, whatever the planner thinks of the tables' sizes. What lives is
// counted as far as it matters and no further.
//
// The share lock on the session makes a revocation of it wait until these
// leases can be seen, or makes this statement see the revocation.
//
// A token that is held already is locked as its session is, and after it.
//
// An earlier try of the same exchange is told before anything that it may hold
// is counted. What was not taken was not opened either.
func reserveLeases(c *columns, p parts, at params) string {
	var sql strings.Builder
	write := func(wanted bool, parts ...string) {
		if wanted {
			for _, part := range parts {
				sql.WriteString(part)
			}
		}
	}
	// What is said of a state is what the index says that is meant: Postgres must not
	// choose the other one, which it would read whole. It knows nothing of a new
	// week's rows, and a plan that was made then stays until it does.
	const ofGrant, ofJob = `l.state IN ('issuing', 'active')`, `l.ended_at IS NULL AND l.state <> 'revoking'`
	held := func(most, condition string) string {
		return `(SELECT count(*) FROM (SELECT FROM leases l WHERE ` + condition + ` AND l.id > ` + at.since + ` LIMIT ` + most + `) AS held)`
	}
	bound := ""
	if p.bound {
		bound = ", dpop_jkt"
	}
	write(true, `
WITH wanted AS (
    SELECT * FROM `, c.table("w"), `
), live AS MATERIALIZED (
    SELECT found.* FROM (SELECT DISTINCT provider, issuer, digest FROM wanted ORDER BY digest) d CROSS JOIN LATERAL (
        SELECT s.id, s.provider, s.issuer, s.token_digest, s.expires_at FROM sessions s
        WHERE s.tenant = `, at.tenant, ` AND s.provider = d.provider AND s.issuer = d.issuer AND s.token_digest = d.digest AND s.revoked_at IS NULL
        OFFSET 0 FOR SHARE) found
)`)
	write(p.ofTenant, `, tenants AS MATERIALIZED (
    SELECT t.whose, `, held("t.most", `l.whose = t.whose AND `+ofJob), ` AS held FROM unnest(`, at.tenants, `::bytea[], `, at.limits, `::int[]) AS t(whose, most)
)`)
	write(p.held, `, good AS MATERIALIZED (
    SELECT found.* FROM (
        SELECT DISTINCT w.session_token FROM wanted w JOIN live ON live.provider = w.provider AND live.issuer = w.issuer AND live.token_digest = w.digest
        WHERE w.token_held ORDER BY session_token) d CROSS JOIN LATERAL (
        SELECT t.hash FROM session_tokens t WHERE t.hash = d.session_token AND t.revoked_at IS NULL
        OFFSET 0 FOR SHARE) found
)`)
	write(true, `, judged AS (
    SELECT w.*, live.id AS session_id, live.expires_at AS session_expires_at, `)
	write(p.ofTenant, `tenants.held`)
	write(!p.ofTenant, `NULL::bigint AS held`)
	write(true, `,
        CASE
        WHEN abs(extract(epoch FROM transaction_timestamp() - `, at.sent, `::timestamptz)) > `, at.skew, ` THEN 'clock'
        WHEN w.now < `, at.sent, `::timestamptz - `, at.wait, `::interval THEN 'late'
        WHEN live.id IS NULL AND w.jti IS NOT NULL AND EXISTS (SELECT FROM sessions s WHERE s.jti = w.jti AND s.token_digest <> w.digest) THEN 'reused jti'
        WHEN live.id IS NULL OR live.expires_at <= w.now THEN 'replayed'`)
	write(p.held, `
        WHEN w.token_held AND good.hash IS NULL THEN 'replayed'`)
	write(p.retries, `
        WHEN tried.request <> w.request THEN 'other request'
        WHEN tried.created_at >= w.asked THEN 'overtaken'
        WHEN tried.created_at < w.asked THEN 'retry'`)
	// A token that may come once is used where a lease of its session was issued.
	// One whose try came to nothing so far is being undone, or may still succeed.
	write(p.once, `
        WHEN w.once AND live.id <> w.own_session AND NOT EXISTS (
            SELECT FROM leases l JOIN audit_events e ON e.subject = l.id
            WHERE l.session_id = live.id AND l.id > `, at.since, ` AND e.type = '`, string(audit.LeaseIssued), `' AND e.id > `, at.events, `)
            AND NOT EXISTS (SELECT FROM audit_events e WHERE e.subject = live.id AND e.type = '`, string(audit.SessionLogin), `' AND e.id > `, at.events, `) THEN 'under way'
        WHEN w.once AND live.id <> w.own_session THEN 'replayed'`)
	write(true, `
        WHEN live.expires_at < w.expires_at THEN 'session ends'`)
	write(p.ofGrant, `
        WHEN w.grant_most > 0 AND w.grant_most < w.of_grant + `,
		held("w.grant_most", `l.tenant = `+at.tenant+` AND l.policy = w.policy AND l.grant_name = w.grant_name AND `+ofGrant), ` THEN 'max_active'`)
	write(p.ofJob, `
        WHEN w.grant_and_job_most > 0 AND w.grant_and_job_most < w.of_grant_and_job + `,
		// Those of the job first: an index by policy and grant is of no use here.
		`(SELECT count(*) FROM (SELECT FROM (
            SELECT l.policy, l.grant_name FROM leases l WHERE l.whose = w.whose AND l.job_key = w.job_key AND `+ofJob+` AND l.id > `+at.since+` OFFSET 0) AS l
            WHERE l.policy = w.policy AND l.grant_name = w.grant_name LIMIT w.grant_and_job_most) AS held)`, ` THEN 'max_active_per_job'
        WHEN w.job_most > 0 AND w.job_most < w.of_job + `, held("w.job_most", `l.whose = w.whose AND l.job_key = w.job_key AND `+ofJob), ` THEN 'job_leases'`)
	write(p.ofTenant, `
        WHEN w.tenant_most > 0 AND w.tenant_most < w.of_tenant + tenants.held THEN 'tenant_leases'`)
	write(true, `
        ELSE '' END AS verdict
    FROM wanted w LEFT JOIN live ON live.provider = w.provider AND live.issuer = w.issuer AND live.token_digest = w.digest`)
	write(p.ofTenant, `
    LEFT JOIN tenants ON tenants.whose = w.whose`)
	write(p.held, `
    LEFT JOIN good ON good.hash = w.session_token`)
	write(p.retries, `
    LEFT JOIN LATERAL (
        SELECT t.request, t.created_at FROM session_tokens t WHERE t.retry_key = w.retry_key AND t.created_at > w.asked - `, at.retry, `::interval
        ORDER BY t.created_at DESC LIMIT 1) AS tried ON true`)
	write(true, `
), decided AS (
    SELECT *, bool_and(verdict = '') OVER (PARTITION BY exchange) AS taken FROM judged
), inserted AS (
    INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation,
        provider, subject, state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, whose, job_key, events,
        request_id, asked_ttl_seconds, ip, signing_key)
    SELECT id, `, at.tenant, `, session_id, session_token, policy, grant_name, job, policy_digest, lease_issuer, role, kind, target, revocation,
        provider, subject, CASE WHEN issued THEN 'active' ELSE 'issuing' END, now, expires_at, least(max_expires_at, session_expires_at), ttl_seconds,
        renewable AND least(max_expires_at, session_expires_at) > expires_at, issue_deadline, settled_at,
        CASE WHEN issued THEN expires_at ELSE settled_at END, coalesce(string_to_array(nullif(rules, ''), ' '), '{}'), whose, job_key, 1,
        request_id, asked_ttl_seconds, ip, nullif(signing_key, '')
    FROM decided WHERE taken
), tokens AS (
    INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at, retry_key, request`, bound, `)
    SELECT session_token, token_key, session_id, string_to_array(token_grants, ' '), asked, retry_key, request`, bound, ` FROM decided WHERE taken AND token_grants IS NOT NULL
), recorded AS (
    INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id)
    SELECT event, now, `, at.tenant, `, CASE WHEN issued THEN '`, string(audit.LeaseIssued), `' ELSE '`, string(audit.LeaseReserved), `' END, id, 1, event_body, event_leaf, event_mac, event_key
    FROM decided WHERE taken
    UNION ALL
    SELECT opened_event, now, `, at.tenant, `, '`, string(audit.SessionOpened), `', own_session, 1, opened_body, opened_leaf, opened_mac, event_key
    FROM decided WHERE opened_event IS NOT NULL AND session_id = own_session AND session_id IN (SELECT session_id FROM decided WHERE taken)
), unopened AS (
    DELETE FROM sessions s USING (
        SELECT session_id FROM decided GROUP BY session_id HAVING bool_or(session_id = own_session) AND NOT bool_or(taken)) AS d
    WHERE s.id = d.session_id
)`)
	write(p.prints, `, printed AS (
    INSERT INTO fingerprints (fingerprint, lease_id, field, key_id, scheme, created_at, anchor)
    SELECT f.fingerprint, f.lease_id, f.field, f.key_id, f.scheme, f.created_at, f.anchor FROM `, at.prints, ` JOIN decided d ON d.id = f.lease_id WHERE d.taken AND d.issued
)`)
	write(true, `
SELECT place, verdict, coalesce(session_id, ''), coalesce(session_expires_at, now), coalesce(held, -1) FROM decided`)
	return sql.String()
}

// params are the places of what is no column.
type params struct{ tenant, sent, skew, wait, retry, since, events, tenants, limits, prints string }

func (s *Store) queueLeases(batch *pgx.Batch, writes []*write, count counting, sent time.Time) {
	rows := leaseRows(writes)
	c := &columns{}
	at := params{tenant: c.arg(s.config.Tenant), sent: c.arg(sent), skew: c.arg(MaxSkew.Seconds()), wait: c.arg(maxWait)}
	p := parts{ofTenant: len(count.tenants) > 0}
	for _, r := range rows {
		p.ofGrant = p.ofGrant || r.MaxActive > 0
		p.ofJob = p.ofJob || r.MaxActivePerJob > 0 || r.of.MaxPerJob > 0
		p.retries = p.retries || r.of.Retry != nil
		p.once = p.once || r.of.Once
		p.held = p.held || r.of.Token.Held
		p.bound = p.bound || r.of.Token.Thumbprint != nil
	}
	if p.retries {
		at.retry = c.arg(RetryLife)
	}
	if p.once {
		at.events = c.arg(ids.From(ids.Event, sent.Add(-liveFor)))
	}
	if p.ofGrant || p.ofJob || p.ofTenant || p.once {
		at.since = c.arg(ids.From(ids.Lease, sent.Add(-liveFor)))
	}
	if p.ofTenant {
		at.tenants, at.limits = c.arg(count.tenants), c.arg(count.limits)
	}
	at.prints = issuedPrints(c, writes)
	p.prints = at.prints != ""
	addExchanges(c, rows)
	addLeases(c, rows)
	addLimits(c, rows, p)
	if p.held {
		flags(c, rows, "token_held", func(r leaseRow) bool { return r.of.Token.Held })
	}
	if p.bound {
		hashes(c, rows, "dpop_jkt", func(r leaseRow) []byte { return r.of.Token.Thumbprint })
	}
	addEvents(c, rows)
	batch.Queue(reserveLeases(c, p, at), c.args...).Query(func(found pgx.Rows) error {
		var place, held int
		var verdict, session string
		var ends time.Time
		_, err := pgx.ForEachRow(found, []any{&place, &verdict, &session, &ends, &held}, func() error {
			row := rows[place]
			w := writes[row.exchange]
			if held >= 0 {
				count.held[string(w.reserve.Whose)] = held
			}
			w.reserve.SessionID, w.reserve.SessionExpiresAt = session, ends.UTC()
			// Several grants may be refused for several reasons. What is wrong with the
			// exchange is wrong for each of them; of the rest the first is told.
			if w.err == nil {
				w.err = refusal(verdict, row.Policy+"/"+row.Grant, ends)
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

func texts(c *columns, rows []leaseRow, name string, value func(leaseRow) string) {
	c.add(name, "text", column(rows, value))
}

func times(c *columns, rows []leaseRow, name string, value func(leaseRow) time.Time) {
	c.add(name, "timestamptz", column(rows, value))
}

func hashes(c *columns, rows []leaseRow, name string, value func(leaseRow) []byte) {
	c.add(name, "bytea", column(rows, value))
}

func numbers(c *columns, rows []leaseRow, name string, value func(leaseRow) int) {
	c.add(name, "int", column(rows, func(r leaseRow) int32 { return int32(value(r)) })) //nolint:gosec // bounded by policy and configuration
}

func flags(c *columns, rows []leaseRow, name string, value func(leaseRow) bool) {
	c.add(name, "boolean", column(rows, value))
}

func addExchanges(c *columns, rows []leaseRow) {
	numbers(c, rows, "exchange", func(r leaseRow) int { return r.exchange })
	numbers(c, rows, "place", func(r leaseRow) int { return r.place })
	texts(c, rows, "provider", func(r leaseRow) string { return r.of.Session.Provider })
	texts(c, rows, "issuer", func(r leaseRow) string { return r.of.Session.Issuer })
	hashes(c, rows, "digest", func(r leaseRow) []byte { return r.of.Session.TokenDigest[:] })
	times(c, rows, "now", func(r leaseRow) time.Time { return r.of.Now })
	texts(c, rows, "subject", func(r leaseRow) string { return r.of.Session.Subject })
	texts(c, rows, "own_session", func(r leaseRow) string { return r.of.opens() })
	flags(c, rows, "once", func(r leaseRow) bool { return r.of.Once })
	hashes(c, rows, "jti", func(r leaseRow) []byte { return r.of.jti() })
	hashes(c, rows, "whose", func(r leaseRow) []byte { return r.of.Whose })
	hashes(c, rows, "job_key", func(r leaseRow) []byte { return r.of.JobKey })
	texts(c, rows, "request_id", func(r leaseRow) string { return r.of.RequestID })
	texts(c, rows, "ip", func(r leaseRow) string { return r.of.IP })
	// The token of an exchange, with its first lease.
	hashes(c, rows, "session_token", func(r leaseRow) []byte { return r.of.Token.Hash[:] })
	texts(c, rows, "token_key", func(r leaseRow) string { return r.of.Token.KeyID })
	c.add("token_grants", "text", column(rows, func(r leaseRow) *string {
		if !r.first || r.of.Token.Held {
			return nil
		}
		grants := strings.Join(r.of.Token.Grants, " ")
		return &grants
	}))
	times(c, rows, "asked", func(r leaseRow) time.Time { return r.of.retry().Asked })
	hashes(c, rows, "retry_key", func(r leaseRow) []byte { return r.of.retry().Key })
	hashes(c, rows, "request", func(r leaseRow) []byte { return r.of.retry().Request })
}

func addLeases(c *columns, rows []leaseRow) {
	texts(c, rows, "id", func(r leaseRow) string { return r.ID })
	texts(c, rows, "policy", func(r leaseRow) string { return r.Policy })
	texts(c, rows, "grant_name", func(r leaseRow) string { return r.Grant })
	texts(c, rows, "job", func(r leaseRow) string { return r.Job })
	texts(c, rows, "policy_digest", func(r leaseRow) string { return r.PolicyDigest })
	texts(c, rows, "lease_issuer", func(r leaseRow) string { return r.Issuer })
	texts(c, rows, "role", func(r leaseRow) string { return r.Role })
	texts(c, rows, "kind", func(r leaseRow) string { return r.Kind })
	texts(c, rows, "target", func(r leaseRow) string { return r.Target })
	texts(c, rows, "revocation", func(r leaseRow) string { return string(r.Revocation) })
	flags(c, rows, "issued", func(r leaseRow) bool { return r.Issued })
	times(c, rows, "expires_at", func(r leaseRow) time.Time { return r.ExpiresAt })
	times(c, rows, "max_expires_at", func(r leaseRow) time.Time { return r.MaxExpiresAt })
	numbers(c, rows, "ttl_seconds", func(r leaseRow) int { return int(r.TTL / time.Second) })
	flags(c, rows, "renewable", func(r leaseRow) bool { return r.Renewable })
	times(c, rows, "issue_deadline", func(r leaseRow) time.Time { return r.IssueDeadline })
	times(c, rows, "settled_at", func(r leaseRow) time.Time { return r.SettledAt })
	texts(c, rows, "rules", func(r leaseRow) string {
		return strings.Join(column(r.Rules, func(r Rule) string { return r.ID }), " ")
	})
	numbers(c, rows, "asked_ttl_seconds", func(r leaseRow) int { return int(min(r.AskedTTL, maxAsked) / time.Second) })
	texts(c, rows, "signing_key", func(r leaseRow) string { return r.SigningKey })
}

func addLimits(c *columns, rows []leaseRow, p parts) {
	if p.ofGrant {
		numbers(c, rows, "of_grant", func(r leaseRow) int { return r.ofGrant })
		numbers(c, rows, "grant_most", func(r leaseRow) int { return r.MaxActive })
	}
	if p.ofJob {
		numbers(c, rows, "of_grant_and_job", func(r leaseRow) int { return r.ofGrantAndJob })
		numbers(c, rows, "grant_and_job_most", func(r leaseRow) int { return r.MaxActivePerJob })
		numbers(c, rows, "of_job", func(r leaseRow) int { return r.ofJob })
		numbers(c, rows, "job_most", func(r leaseRow) int { return r.of.MaxPerJob })
	}
	if p.ofTenant {
		numbers(c, rows, "of_tenant", func(r leaseRow) int { return r.ofTenant })
		numbers(c, rows, "tenant_most", func(r leaseRow) int { return r.of.MaxPerTenant })
	}
}

// addEvents adds the event of each lease, and with the first lease of an exchange
// that may open its session the event of that.
func addEvents(c *columns, rows []leaseRow) {
	texts(c, rows, "event", func(r leaseRow) string { return r.event.ID })
	texts(c, rows, "event_body", func(r leaseRow) string { return r.event.Body })
	hashes(c, rows, "event_leaf", func(r leaseRow) []byte { return r.event.Leaf[:] })
	hashes(c, rows, "event_mac", func(r leaseRow) []byte { return r.event.MAC[:] })
	texts(c, rows, "event_key", func(r leaseRow) string { return r.event.KeyID })
	opened := func(name string, value func(*audit.Event) string) {
		c.add(name, "text", column(rows, func(r leaseRow) *string {
			if r.opened == nil {
				return nil
			}
			v := value(r.opened)
			return &v
		}))
	}
	sums := func(name string, value func(*audit.Event) []byte) {
		hashes(c, rows, name, func(r leaseRow) []byte {
			if r.opened == nil {
				return nil
			}
			return value(r.opened)
		})
	}
	opened("opened_event", func(e *audit.Event) string { return e.ID })
	opened("opened_body", func(e *audit.Event) string { return e.Body })
	sums("opened_leaf", func(e *audit.Event) []byte { return e.Leaf[:] })
	sums("opened_mac", func(e *audit.Event) []byte { return e.MAC[:] })
}

// issuedPrints are the fingerprints of what is issued already, as an item of FROM;
// "" where there is none.
func issuedPrints(c *columns, writes []*write) string {
	var prints printRows
	for _, w := range writes {
		for _, l := range w.reserve.Leases {
			prints.add(l.ID, l.Fingerprints, w.reserve.Now)
		}
	}
	return prints.table(c)
}

// printRows are fingerprints as columns.
type printRows struct {
	sums, anchors                 [][]byte
	leases, fields, keys, schemes []string
	times                         []time.Time
}

func (p *printRows) add(lease string, prints []Fingerprint, at time.Time) {
	for _, f := range prints {
		p.sums, p.anchors = append(p.sums, f.Sum[:]), append(p.anchors, f.Anchor)
		p.leases, p.fields = append(p.leases, lease), append(p.fields, f.Field)
		p.keys, p.schemes = append(p.keys, f.KeyID), append(p.schemes, f.Scheme)
		p.times = append(p.times, at)
	}
}

// table adds the fingerprints to a statement's parameters: an item of FROM by the
// name of f, "" where there are none.
func (p *printRows) table(c *columns) string {
	if len(p.sums) == 0 {
		return ""
	}
	own := &columns{args: c.args}
	own.add("fingerprint", "bytea", p.sums)
	own.add("lease_id", "text", p.leases)
	own.add("field", "text", p.fields)
	own.add("key_id", "text", p.keys)
	own.add("scheme", "text", p.schemes)
	own.add("created_at", "timestamptz", p.times)
	own.add("anchor", "bytea", p.anchors)
	c.args = own.args
	return own.table("f")
}
