package fsck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// counted is a table, other than leases, whose rows count their events.
type counted struct {
	table, prefix, noun string
	end                 audit.Type // the event that an ended one has once; "" where rows don't end
	ended               string     // SQL that says whether one has
}

//nolint:gochecknoglobals // tables that are read only
var (
	sessionRows    = counted{"sessions", ids.Session, "session", audit.SessionRevoked, "revoked_at IS NOT NULL"}
	adminTokenRows = counted{"admin_tokens", ids.AdminToken, "admin token", audit.AdminTokenRevoked, "revoked_at IS NOT NULL"}
	secretRows     = counted{"secrets", ids.Secret, "static secret", "", "false"}
	leakRows       = counted{"leaks", ids.Leak, "leak", "", "false"}
)

const selectCounted = `
SELECT c.id, c.events, c.ended, e.events, e.places, e.first, e.last, e.ends
FROM (SELECT id, events, %s AS ended FROM %s WHERE tenant = $4 AND %s) c CROSS JOIN LATERAL (
    SELECT count(*) AS events, count(DISTINCT e.count) AS places, coalesce(min(e.count), 0) AS first, coalesce(max(e.count), 0) AS last,
        count(*) FILTER (WHERE e.type = $5) AS ends
    FROM audit_events e WHERE e.subject = c.id AND e.id >= $3) e
ORDER BY c.id`

func (r *run) countedPage(c counted) func(context.Context, string) (*look, error) {
	sql := fmt.Sprintf(selectCounted, c.ended, c.table, `id > $1 ORDER BY id LIMIT $2`)
	return func(ctx context.Context, after string) (*look, error) {
		return r.lookAtCounted(ctx, c, sql, after, r.config.Batch, eventsSince(c.prefix, after), r.config.Tenant, string(c.end))
	}
}

func (r *run) countedByID(c counted) func(context.Context, []string) (*look, error) {
	sql := fmt.Sprintf(selectCounted, c.ended, c.table, `id = ANY($1) AND id >= $2`)
	return func(ctx context.Context, rowIDs []string) (*look, error) {
		first := slices.Min(rowIDs)
		return r.lookAtCounted(ctx, c, sql, rowIDs, first, eventsSince(c.prefix, first), r.config.Tenant, string(c.end))
	}
}

func (r *run) lookAtCounted(ctx context.Context, c counted, sql string, args ...any) (*look, error) {
	rows, err := r.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	seen := &look{}
	var id string
	var events, ends int
	var ended bool
	var on recorded
	_, err = pgx.ForEachRow(rows, []any{&id, &events, &ended, &on.events, &on.places, &on.from, &on.to, &ends}, func() error {
		seen.rows, seen.last = seen.rows+1, id
		if older(id, r.events) {
			return nil
		}
		where := c.noun + " " + id
		if what := on.missing(events); what != "" {
			seen.suspect(id, Finding{Check: CheckEvents, Where: where, What: what, Hint: hintTampered})
		}
		if want := map[bool]int{true: 1}[ended]; c.end != "" && ends != want {
			seen.suspect(id, Finding{Check: CheckEnd, Where: where, What: fmt.Sprintf("it has %d events %s, not %d", ends, c.end, want), Hint: hintTampered})
		}
		return nil
	})
	return seen, err
}

// reference is a table whose rows are of another one's.
type reference struct {
	table, noun, of string
	id              string // its column that names the other row
	key             string // SQL of a text that is unique, and sorts as the columns of by do
	by              string
	args            string // from such a text to the columns of by
	exists          string
}

//nolint:gochecknoglobals // tables that are read only
var (
	tokenReferences = reference{
		table: "session_tokens", noun: "session token", of: "session", id: `t.session_id`, key: `encode(t.hash, 'hex')`, by: `t.hash`, args: `decode(%s, 'hex')`,
		exists: `SELECT FROM sessions s WHERE s.id = t.session_id`,
	}
	printReferences = reference{
		table: "fingerprints", noun: "fingerprint", of: "lease", id: `t.lease_id`, key: `encode(t.fingerprint, 'hex') || t.lease_id`, by: `t.fingerprint, t.lease_id`,
		args: `decode(left(%[1]s, 64), 'hex'), substr(%[1]s, 65)`, exists: `SELECT FROM leases l WHERE l.id = t.lease_id`,
	}
)

func (r *run) referencePage(f reference) func(context.Context, string) (*look, error) {
	sql := fmt.Sprintf(`SELECT %s, %s, EXISTS (%s) FROM %s t WHERE (%s) > (%s) ORDER BY %s LIMIT $2`, f.key, f.id, f.exists, f.table, f.by, fmt.Sprintf(f.args, "$1::text"), f.by)
	return func(ctx context.Context, after string) (*look, error) {
		return r.lookAtReferences(ctx, f, sql, after, r.config.Batch)
	}
}

func (r *run) referencesByKey(f reference) func(context.Context, []string) (*look, error) {
	columns := strings.ReplaceAll(f.by, "t.", "")
	sql := fmt.Sprintf(`
SELECT %s, %s, EXISTS (%s) FROM (SELECT %s FROM unnest($1::text[]) AS k) AS k(%s) JOIN %s t USING (%s)`, f.key, f.id, f.exists, fmt.Sprintf(f.args, "k"), columns, f.table, columns)
	return func(ctx context.Context, keys []string) (*look, error) { return r.lookAtReferences(ctx, f, sql, keys) }
}

func (r *run) lookAtReferences(ctx context.Context, f reference, sql string, args ...any) (*look, error) {
	rows, err := r.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	seen := &look{}
	var key, of string
	var exists bool
	_, err = pgx.ForEachRow(rows, []any{&key, &of, &exists}, func() error {
		seen.rows, seen.last = seen.rows+1, key
		if !exists && !older(of, r.rows) {
			// The keyed hash of a secret is none, but no log needs the whole of it.
			seen.suspect(key, Finding{Check: CheckReference, Where: f.noun + " " + key[:16] + "…", What: "its " + f.of + " is not there", Hint: hintTampered})
		}
		return nil
	})
	return seen, err
}

const selectEvents = `
SELECT e.id, e.at, e.tenant, e.type, e.subject, e.count, e.body, e.leaf, e.mac, e.key_id, CASE left(e.subject, 4)
    WHEN 'lse_' THEN EXISTS (SELECT FROM leases l WHERE l.id = e.subject)
    WHEN 'ses_' THEN e.type = 'token.jti_reused' OR EXISTS (SELECT FROM sessions s WHERE s.id = e.subject)
    ELSE true END
FROM audit_events e WHERE e.tenant = $2 AND `

func (r *run) eventPage(ctx context.Context, after string) (*look, error) {
	return r.lookAtEvents(ctx, selectEvents+`e.id > $1 ORDER BY e.id LIMIT $3`, after, r.config.Tenant, r.config.Batch)
}

func (r *run) eventsByID(ctx context.Context, eventIDs []string) (*look, error) {
	return r.lookAtEvents(ctx, selectEvents+`e.id = ANY($1) AND e.id BETWEEN $3 AND $4 ORDER BY e.id`, eventIDs, r.config.Tenant, slices.Min(eventIDs), slices.Max(eventIDs))
}

func (r *run) lookAtEvents(ctx context.Context, sql string, args ...any) (*look, error) {
	rows, err := r.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	seen := &look{}
	var e audit.Event
	var leaf, mac []byte
	var exists bool
	_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.At, &e.Tenant, &e.Type, &e.Subject, &e.Count, &e.Body, &leaf, &mac, &e.KeyID, &exists}, func() error {
		seen.rows, seen.last = seen.rows+1, e.ID
		copy(e.Leaf[:], leaf)
		copy(e.MAC[:], mac)
		if err := r.config.Verify(e); err != nil {
			seen.suspect(e.ID, Finding{
				Check: CheckEvent, Where: "audit event " + e.ID, What: err.Error(),
				Hint: "compare it with an export of the log; whoever can write to the database may have changed it",
			})
		}
		if !exists && !older(e.Subject, r.rows) {
			seen.suspect(e.ID, Finding{Check: CheckSubject, Where: "audit event " + e.ID, What: "what it is about is not there: " + e.Subject, Hint: hintTampered})
		}
		return nil
	})
	return seen, err
}
