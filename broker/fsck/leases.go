package fsck

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// leaseRow is a lease beside what must fit it, all of one statement.
type leaseRow struct {
	id         string
	state      leases.State
	issuer     string
	expiresAt  time.Time
	settledAt  time.Time
	dueAt      *time.Time
	endedAt    *time.Time
	stuck      bool
	lastError  string
	hasSession bool
	events     int
	recorded   recorded
	now        time.Time // of the database
}

// recorded are the events of one subject, as far as they are on record.
type recorded struct {
	events   int // how many
	places   int // how many different counts they have
	from, to int // the lowest and the highest; 0 without events
	ends     []string
}

const (
	// $3 is before every event of these leases: events are never older than what
	// they are of, so that partitions from before needn't be searched.
	selectLeases = `
SELECT l.id, l.state, l.issuer, l.expires_at, l.settled_at, l.due_at, l.ended_at, l.stuck, coalesce(l.last_error, ''), l.events,
    EXISTS (SELECT FROM sessions s WHERE s.id = l.session_id), clock_timestamp(), e.events, e.places, e.first, e.last, e.ends
FROM (%s) l CROSS JOIN LATERAL (
    SELECT count(*) AS events, count(DISTINCT e.count) AS places, coalesce(min(e.count), 0) AS first, coalesce(max(e.count), 0) AS last,
        coalesce(array_agg(e.type ORDER BY e.count, e.id) FILTER (WHERE e.type IN ('lease.revoked', 'lease.expired', 'lease.forgotten')), '{}') AS ends
    FROM audit_events e WHERE e.subject = l.id AND e.id >= $3) e
ORDER BY l.id`

	// slack is how far two clocks may have been apart that made a row's id and that
	// of an event of it.
	slack = time.Hour
)

func (r *run) leasePage(ctx context.Context, after string) (*look, error) {
	return r.lookAtLeases(ctx, fmt.Sprintf(selectLeases, `SELECT * FROM leases WHERE id > $1 AND tenant = $4 ORDER BY id LIMIT $2`),
		after, r.config.Batch, eventsSince(ids.Lease, after), r.config.Tenant)
}

func (r *run) leasesByID(ctx context.Context, leaseIDs []string) (*look, error) {
	return r.lookAtLeases(ctx, fmt.Sprintf(selectLeases, `SELECT * FROM leases WHERE id = ANY($1) AND id BETWEEN $2 AND $4`),
		leaseIDs, slices.Min(leaseIDs), eventsSince(ids.Lease, slices.Min(leaseIDs)), slices.Max(leaseIDs))
}

// eventsSince is before every event of rows from this id on; "" is before them all.
func eventsSince(prefix, id string) string {
	return ids.From(ids.Event, ids.Time(prefix, id).Add(-slack))
}

func (r *run) lookAtLeases(ctx context.Context, sql string, args ...any) (*look, error) {
	rows, err := r.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	seen := &look{}
	var l leaseRow
	_, err = pgx.ForEachRow(rows, []any{
		&l.id, &l.state, &l.issuer, &l.expiresAt, &l.settledAt, &l.dueAt, &l.endedAt, &l.stuck, &l.lastError, &l.events,
		&l.hasSession, &l.now, &l.recorded.events, &l.recorded.places, &l.recorded.from, &l.recorded.to, &l.recorded.ends,
	}, func() error {
		seen.rows, seen.last = seen.rows+1, l.id
		for _, f := range append(l.judge(r.config.Grace), l.judgeEvents(r.events)...) {
			f.Where = "lease " + l.id
			seen.suspect(l.id, f)
		}
		return nil
	})
	return seen, err
}

// judge says what is wrong with a lease.
func (l *leaseRow) judge(grace time.Duration) (wrong []Finding) {
	add := func(check, hint, what string, args ...any) {
		wrong = append(wrong, Finding{Check: check, What: fmt.Sprintf(what, args...), Hint: hint})
	}
	switch late := func(since time.Time) bool { return l.now.After(since.Add(grace)) }; {
	case l.state == leases.Active && late(l.expiresAt):
		add(CheckOverdue, hintOverdue, "it is active, and came to its end at %s", stamp(l.expiresAt))
	case l.state == leases.Issuing && late(l.settledAt):
		add(CheckOverdue, hintOverdue, "it was never finished, and nothing can be made for it since %s", stamp(l.settledAt))
	case l.state == leases.Revoking && l.dueAt != nil && late(*l.dueAt):
		add(CheckOverdue, hintOverdue, "it is to be taken back, and nobody has tried since %s", stamp(*l.dueAt))
	}
	if l.stuck {
		add(CheckStuck, "mend what the target says; `daypass lease revoke` tries again at once, `daypass lease forget` gives up", "taking it back keeps failing: %s", l.lastError)
	}
	if what := l.misfit(grace); what != "" {
		add(CheckState, hintTampered, "it is %s, and %s", l.state, what)
	}
	if !l.hasSession {
		add(CheckSession, hintTampered, "its session is not there")
	}
	return wrong
}

// judgeEvents says what is wrong with its events.
func (l *leaseRow) judgeEvents(since time.Time) (wrong []Finding) {
	if older(l.id, since) {
		return nil
	}
	if what := l.recorded.missing(l.events); what != "" {
		wrong = append(wrong, Finding{Check: CheckEvents, What: what, Hint: hintTampered})
	}
	if want := endsOf(l.state); !slices.Equal(l.recorded.ends, want) && !l.swept() {
		wrong = append(wrong, Finding{
			Check: CheckEnd, Hint: hintTampered,
			What: fmt.Sprintf("it is %s, and its events of an end are [%s], not [%s]", l.state, strings.Join(l.recorded.ends, ", "), strings.Join(want, ", ")),
		})
	}
	return wrong
}

const (
	hintOverdue  = "see whether a broker runs with this issuer configured, and what its log and /readyz say; `daypass lease revoke` asks for it at once"
	hintTampered = "no broker does this: find out who else writes to the database, and whether it was restored in part"
)

// swept says that a lease ran out by itself and was ended together with others, by
// one event for all of them (leases.expired): it has none of its own.
func (l *leaseRow) swept() bool {
	return l.state == leases.Expired && len(l.recorded.ends) == 0 && l.endedAt != nil && !l.endedAt.Before(l.expiresAt)
}

// endsOf are the events that say how a lease in a state ended: this is the one
// place to change where an end is recorded in another way.
func endsOf(state leases.State) []string {
	switch state {
	case leases.Revoked:
		return []string{string(audit.LeaseRevoked)}
	case leases.Expired:
		return []string{string(audit.LeaseExpired)}
	case leases.Forgotten:
		return []string{string(audit.LeaseForgotten)}
	default:
		return []string{}
	}
}

// misfit is what the table's constraints hold too, unless somebody dropped them.
func (l *leaseRow) misfit(grace time.Duration) string {
	switch {
	case l.state.Ended() && l.dueAt != nil:
		return "is due all the same"
	case !l.state.Ended() && l.dueAt == nil:
		return "the revoker will never look at it: it is not due"
	case l.state.Ended() && l.endedAt == nil:
		return "has no end on record"
	case !l.state.Ended() && l.endedAt != nil:
		return "has an end on record"
	case l.stuck && l.state != leases.Revoking:
		return "is marked as stuck"
	case l.state == leases.Active && l.dueAt.After(l.expiresAt.Add(grace)):
		return "the revoker looks at it long after its end only, at " + stamp(*l.dueAt)
	case l.state == leases.Issuing && l.dueAt.After(l.settledAt.Add(grace)):
		return "the revoker looks at it long after its deadline only, at " + stamp(*l.dueAt)
	}
	return ""
}

// missing says how events differ from a row that counts them.
func (r *recorded) missing(counted int) string {
	switch {
	case r.events < counted:
		return fmt.Sprintf("%d events are on record, and it counts %d", r.events, counted)
	case r.events > counted:
		return fmt.Sprintf("%d events are on record, and it counts no more than %d", r.events, counted)
	case r.places != r.events || r.events > 0 && (r.from != 1 || r.to != r.events):
		return fmt.Sprintf("its %d events have %d places, from %d to %d", r.events, r.places, r.from, r.to)
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
