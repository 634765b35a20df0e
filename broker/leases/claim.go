package leases

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Claimed is a lease that one revoker has taken on, for a while.
type Claimed struct {
	*Lease
	Handle []byte
	Until  time.Time // nobody else takes it before
}

// Claim takes up to limit leases of an issuer that are due: never finished,
// come to their end, or to be revoked. No other broker takes them before the
// claim runs out. Those of which nothing outside has to be undone end here.
func (s *Store) Claim(ctx context.Context, issuer string, limit int, claim time.Duration) (claimed []Claimed, expired []Swept, err error) {
	return s.claim(ctx, claiming{issuer: issuer, limit: limit, claim: claim, which: dueLeases})
}

// BeginDue begins to end up to limit leases of an issuer that are due, and claims
// none: they stay due. It keeps the record true while a target is away: what has
// come to its end is no longer active, whoever asks. begun counts those that ended
// here too, since nothing outside has to be undone.
func (s *Store) BeginDue(ctx context.Context, issuer string, limit int) (begun int, expired []Swept, err error) {
	claimed, expired, err := s.claim(ctx, claiming{issuer: issuer, limit: limit, which: dueLeases + ` AND l.state IN ('issuing', 'active')`})
	return len(claimed) + len(expired), expired, err
}

// claiming is how leases are claimed.
type claiming struct {
	issuer string
	limit  int
	claim  time.Duration // 0: they are begun, and stay due
	which  string
}

const dueLeases = ` WHERE l.tenant = $1 AND l.issuer = $2 AND l.due_at <= $3`

func (s *Store) claim(ctx context.Context, c claiming) (claimed []Claimed, expired []Swept, err error) {
	var due []*Lease
	var until time.Time
	err = s.inTx(ctx, "claiming due leases", func(tx pgx.Tx) error {
		now := s.Later()
		rows, err := tx.Query(ctx, selectLeases+c.which+` ORDER BY l.due_at LIMIT $4 FOR UPDATE OF l SKIP LOCKED`, s.config.Tenant, c.issuer, now, c.limit)
		if err != nil {
			return unavailable("claiming due leases", err)
		}
		if due, err = pgx.CollectRows(rows, scanLease); err != nil {
			return unavailable("claiming due leases", err)
		}
		if len(due) == 0 {
			return nil
		}
		until = now.Add(c.claim)
		return s.endDue(ctx, tx, due, until)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, l := range due {
		if l.State.Ended() {
			expired = append(expired, Swept{ID: l.ID, ExpiresAt: l.ExpiresAt})
			continue
		}
		claimed = append(claimed, s.opened(ctx, l, until, c.claim > 0))
	}
	return claimed, expired, nil
}

// opened is a claimed lease with what it takes to take it back.
func (s *Store) opened(ctx context.Context, l *Lease, until time.Time, open bool) Claimed {
	c := Claimed{Lease: l, Until: until}
	if open && l.sealedHandle != nil {
		// A handle that can't be opened is no reason to leave the credential
		// alive: issuers revoke by the lease's id alone where they must.
		var err error
		if c.Handle, err = s.config.Handles.Open(ctx, s.handleRow(l.ID), l.sealedHandle); err != nil {
			s.config.Logger.ErrorContext(ctx, "what revokes a lease could not be unsealed; revoking by its id", "lease", l.ID, "error", err)
		}
	}
	return c
}

// endDue ends each lease for its own reason, and commits. Those whose time is up
// and that leave nothing to undo outside end together, as in a sweep.
func (s *Store) endDue(ctx context.Context, tx pgx.Tx, due []*Lease, until time.Time) error {
	slices.SortFunc(due, func(a, b *Lease) int { return cmp.Compare(a.ID, b.ID) })
	now := s.Later()
	batch := &pgx.Batch{}
	var changes []change
	var again, over []string
	for _, l := range due {
		why := Why{Actor: "daypassd", Reason: "it came to its end"}
		switch {
		case l.State == Revoking:
			again = append(again, l.ID)
			continue
		case l.State == Active && l.endsHere():
			over = append(over, l.ID)
			l.State, l.EndedAt = Expired, &now
			continue
		case l.State == Issuing:
			why.Reason = "it was never finished"
		}
		c, err := s.end(l, why, until, now)
		if err != nil {
			return err
		}
		if c != nil {
			changes = append(changes, *c)
		}
	}
	if len(again) > 0 {
		low, high := span(again)
		batch.Queue(`UPDATE leases SET due_at = $2 WHERE id = ANY($1) AND id BETWEEN $3 AND $4 AND state = 'revoking'`, again, until, low, high)
	}
	if len(over) > 0 {
		low, high := span(over)
		batch.Queue(`UPDATE leases SET state = 'expired', due_at = NULL, ended_at = $2 WHERE id = ANY($1) AND id BETWEEN $3 AND $4`, over, now, low, high)
		if err := s.queueExpired(batch, over, now); err != nil {
			return err
		}
	}
	if len(changes) > 0 {
		queueChanges(batch, changes)
	}
	return commitBatch(ctx, tx, batch)
}

// MaxSweep is how many leases one sweep ends at the most. It bounds the event
// that names them.
const MaxSweep = 1000

// sweepDue ends leases without reading them: their ids are all that it returns.
// The ids are an array, so that whatever the planner believes of their number,
// each is looked up by the primary key; their bounds leave other partitions
// aside. What is due is asked for without a bound: Postgres would read a range of
// ids, which is all that lives, instead of the few that are due.
const sweepDue = `
WITH due AS MATERIALIZED (
    SELECT l.id FROM leases l
    WHERE l.tenant = $1 AND l.issuer = $2 AND l.due_at <= $3 AND l.state = 'active' AND l.revocation IN ('expiry', 'introspection')
    ORDER BY l.due_at LIMIT $4 FOR UPDATE OF l SKIP LOCKED)
UPDATE leases l SET state = 'expired', due_at = NULL, ended_at = $3 WHERE l.id = ANY (ARRAY(SELECT id FROM due)) AND l.id BETWEEN (SELECT min(id) FROM due) AND (SELECT max(id) FROM due) RETURNING l.id, l.expires_at`

// Swept is a lease that came to its end, and left nothing to undo outside.
type Swept struct {
	ID        string
	ExpiresAt time.Time
}

// Sweep ends up to limit of an issuer's leases that came to their end and leave
// nothing to undo outside. One event names them all: that they would end then
// stands in the event of each one's issue already, nobody decided anything, and
// an event for each would cost more than all the rest of the sweep.
func (s *Store) Sweep(ctx context.Context, issuer string, limit int) (swept []Swept, err error) {
	err = s.inTx(ctx, "sweeping expired leases", func(tx pgx.Tx) error {
		now := s.Later()
		rows, err := tx.Query(ctx, sweepDue, s.config.Tenant, issuer, now, min(limit, MaxSweep))
		if err != nil {
			return unavailable("sweeping expired leases", err)
		}
		if swept, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Swept]); err != nil {
			return unavailable("sweeping expired leases", err)
		}
		if len(swept) == 0 {
			return nil
		}
		batch := &pgx.Batch{}
		if err := s.queueExpired(batch, column(swept, func(l Swept) string { return l.ID }), now); err != nil {
			return err
		}
		return commitBatch(ctx, tx, batch)
	})
	if err != nil {
		return nil, err
	}
	return swept, nil
}

func (s *Store) queueExpired(batch *pgx.Batch, leaseIDs []string, now time.Time) error {
	event, err := s.config.Audit.Event(audit.Entry{
		At: now, Type: audit.LeasesExpired, Subject: ids.New(ids.Sweep, now), Count: 1, Actor: "daypassd", Data: map[string]any{"leases": leaseIDs},
	})
	if err == nil {
		audit.InsertIf(batch, []audit.Event{event}, "true")
	}
	return err
}

// Release gives claims back that nobody worked on.
func (s *Store) Release(ctx context.Context, claims []Claimed) error {
	const release = `
UPDATE leases l SET due_at = $3 FROM unnest($1::text[], $2::timestamptz[]) AS c(id, until)
WHERE l.id = c.id AND l.state = 'revoking' AND l.due_at = c.until`
	if _, err := s.config.Pool.Exec(ctx, release, column(claims, func(c Claimed) string { return c.ID }), column(claims, func(c Claimed) time.Time { return c.Until }), s.Later()); err != nil {
		return unavailable("giving claims back", err)
	}
	return nil
}

// Hasten makes all that was tried in vain for an issuer due at once: its target
// is back.
func (s *Store) Hasten(ctx context.Context, issuer string, within time.Duration) error {
	const hasten = `
UPDATE leases SET due_at = $3 WHERE tenant = $1 AND issuer = $2 AND state = 'revoking' AND attempts > 0 AND due_at > $3 AND due_at <= $4 AND NOT stuck`
	now := s.Later()
	if _, err := s.config.Pool.Exec(ctx, hasten, s.config.Tenant, issuer, now, now.Add(within)); err != nil {
		return unavailable("making revocations due", err)
	}
	return nil
}
