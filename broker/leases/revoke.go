package leases

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

// Why says who ends a lease, and for what reason.
type Why struct {
	Actor  string
	Reason string
	// By names the token that was good for nothing else; "": it was none of these.
	By string
}

// data is what an event says of it.
func (w Why) data() map[string]any {
	data := map[string]any{"reason": w.Reason}
	if w.By != "" {
		data["by"] = w.By
	}
	return data
}

// change is one lease's step from the state that was read, under its row's
// lock, to the next, with the event that records it.
type change struct {
	id      string
	from    State
	state   State
	dueAt   *time.Time
	endedAt *time.Time
	event   audit.Event
}

const (
	changeLeases = `
UPDATE leases l SET state = c.state, due_at = c.due_at, ended_at = c.ended_at, events = c.count, stuck = false,
    revoking_at = CASE WHEN c.state = 'revoking' THEN c.at ELSE l.revoking_at END
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::timestamptz[]) AS c(id, was, state, due_at, ended_at, count, at)
WHERE l.id = c.id AND l.id = ANY ($1) AND l.id BETWEEN $8 AND $9 AND l.state = c.was AND l.events = c.count - 1`
)

// errOtherState: a lease was not as it was read, though its row was held.
var errOtherState = errors.New("a lease changed while its row was held")

func queueChanges(batch *pgx.Batch, changes []change) {
	leaseIDs := column(changes, func(c change) string { return c.id })
	low, high := span(leaseIDs)
	batch.Queue(changeLeases,
		leaseIDs,
		column(changes, func(c change) string { return string(c.from) }),
		column(changes, func(c change) string { return string(c.state) }),
		column(changes, func(c change) *time.Time { return c.dueAt }),
		column(changes, func(c change) *time.Time { return c.endedAt }),
		column(changes, func(c change) int32 { return int32(c.event.Count) }), //nolint:gosec // counts are small
		column(changes, func(c change) time.Time { return c.event.At }), low, high).Exec(func(tag pgconn.CommandTag) error {
		// Here the whole transaction fails rather than leave an event of nothing.
		if tag.RowsAffected() != int64(len(changes)) {
			return errOtherState
		}
		return nil
	})
	audit.InsertIf(batch, column(changes, func(c change) audit.Event { return c.event }), "true")
}

// end is the step that begins to end a live lease, or nil when it has begun
// before. Where nothing outside has to be undone, it is the last one too.
func (s *Store) end(l *Lease, why Why, due, now time.Time) (*change, error) {
	if l.State != Issuing && l.State != Active {
		return nil, nil
	}
	c := &change{id: l.ID, from: l.State, state: Revoking, dueAt: &due}
	kind := audit.LeaseRevoking
	if l.State == Active && l.endsHere() {
		c.state, c.dueAt, c.endedAt, kind = Expired, nil, &now, audit.LeaseExpired
		if l.Revocation == issuers.Introspection { // who asks from now on hears of it
			c.state, kind = Revoked, audit.LeaseRevoked
		}
	}
	event, err := s.config.Audit.Event(audit.Entry{
		At: now, Type: kind, Subject: l.ID, Count: l.events + 1, Actor: why.Actor, Data: why.data(),
	})
	if err != nil {
		return nil, err
	}
	c.event = event
	l.State, l.EndedAt, l.events = c.state, c.endedAt, l.events+1
	return c, nil
}

// endAll ends leases whose rows the transaction holds, and commits.
func (s *Store) endAll(ctx context.Context, tx pgx.Tx, ls []*Lease, why Why, due time.Time) error {
	now := s.Now()
	var changes []change
	for _, l := range ls {
		c, err := s.end(l, why, due, now)
		if err != nil {
			return err
		}
		if c != nil {
			changes = append(changes, *c)
		}
	}
	return commitChanges(ctx, tx, changes)
}

// BeginRevoke begins to end leases, whatever state they are in, and returns them
// as they are afterwards. Those that are being revoked already are made due at
// once. The revoker does the rest.
func (s *Store) BeginRevoke(ctx context.Context, leaseIDs []string, why Why) ([]*Lease, error) {
	var ended []*Lease
	err := s.inTx(ctx, "beginning to revoke", func(tx pgx.Tx) (err error) {
		ended, err = s.beginRevoke(ctx, tx, leaseIDs, why)
		return err
	})
	return ended, err
}

func (s *Store) beginRevoke(ctx context.Context, tx pgx.Tx, leaseIDs []string, why Why) ([]*Lease, error) {
	rows, err := tx.Query(ctx, selectLeases+` WHERE l.tenant = $1 AND l.id = ANY($2) ORDER BY l.id FOR UPDATE OF l`, s.config.Tenant, leaseIDs)
	if err != nil {
		return nil, unavailable("beginning to revoke", err)
	}
	ended, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, unavailable("beginning to revoke", err)
	}
	const again = `UPDATE leases SET due_at = $2 WHERE id = ANY($1) AND state = 'revoking' AND due_at > $2`
	if _, err := tx.Exec(ctx, again, leaseIDs, s.Now()); err != nil {
		return nil, unavailable("beginning to revoke", err)
	}
	return ended, s.endAll(ctx, tx, ended, why, s.Now())
}

// RevokeSession ends a session: its job token is used up from here on, and what
// was obtained with this session token is taken back. It returns those leases.
func (s *Store) RevokeSession(ctx context.Context, sessionID string, tokenHash [32]byte, why Why) ([]*Lease, error) {
	var ended []*Lease
	err := s.inTx(ctx, "revoking session", func(tx pgx.Tx) error {
		// The session first: a reservation that holds it ends before we look for its leases.
		const lock = `SELECT events, revoked_at IS NOT NULL FROM sessions WHERE tenant = $1 AND id = $2 FOR UPDATE`
		var events int
		var already bool
		if err := tx.QueryRow(ctx, lock, s.config.Tenant, sessionID).Scan(&events, &already); err != nil {
			return unavailable("revoking session", err)
		}
		now := s.Now()
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE session_tokens SET revoked_at = coalesce(revoked_at, $2) WHERE hash = $1`, tokenHash[:], now)
		if !already {
			event, err := s.config.Audit.Event(audit.Entry{
				At: now, Type: audit.SessionRevoked, Subject: sessionID, Count: events + 1, Actor: why.Actor, Data: why.data(),
			})
			if err != nil {
				return err
			}
			batch.Queue(`UPDATE sessions SET revoked_at = $2, events = $3 WHERE id = $1`, sessionID, now, events+1)
			audit.InsertIf(batch, []audit.Event{event}, "true")
		}
		batch.Queue(selectLeases+` WHERE l.session_id = $1 AND l.session_token = $2 ORDER BY l.id FOR UPDATE OF l`, sessionID, tokenHash[:]).
			Query(func(rows pgx.Rows) (err error) {
				ended, err = pgx.CollectRows(rows, scanLease)
				return err
			})
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return unavailable("revoking session", err)
		}
		return s.endAll(ctx, tx, ended, why, now)
	})
	return ended, err
}

// Forget gives up on a stuck revocation, for a reason that stays on record.
func (s *Store) Forget(ctx context.Context, id string, why Why) (*Lease, error) {
	var l *Lease
	err := s.inTx(ctx, "forgetting lease", func(tx pgx.Tx) (err error) {
		if l, err = s.lock(ctx, tx, id); err != nil {
			return err
		}
		if l.State != Revoking || !l.Stuck {
			return ErrNotStuck
		}
		now := s.Now()
		event, err := s.config.Audit.Event(audit.Entry{
			At: now, Type: audit.LeaseForgotten, Subject: id, Count: l.events + 1, Actor: why.Actor,
			Data: map[string]any{"reason": why.Reason, "last_error": l.LastError},
		})
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		queueChanges(batch, []change{{id: id, from: Revoking, state: Forgotten, endedAt: &now, event: event}})
		l.State, l.EndedAt, l.Stuck = Forgotten, &now, false
		return commitBatch(ctx, tx, batch)
	})
	return l, err
}

// Renew moves the end of an active lease, once the target has moved it already.
func (s *Store) Renew(ctx context.Context, l *Lease, expiresAt time.Time, actor string) error {
	if err := s.CheckClock(); err != nil {
		return err
	}
	event, err := s.config.Audit.Event(audit.Entry{
		At: s.Now(), Type: audit.LeaseRenewed, Subject: l.ID, Count: l.events + 1, Actor: actor, Data: map[string]any{"expires_at": expiresAt},
	})
	if err != nil {
		return err
	}
	err = s.inTx(ctx, "renewing lease", func(tx pgx.Tx) error {
		const renew = `UPDATE leases SET expires_at = $2, due_at = $2, events = $3 WHERE id = $1 AND state = 'active' AND events = $3 - 1`
		tag, err := tx.Exec(ctx, renew, l.ID, expiresAt, event.Count)
		if err != nil {
			return unavailable("renewing lease", err)
		}
		if tag.RowsAffected() == 0 {
			return ErrNotActive
		}
		batch := &pgx.Batch{}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		return commitBatch(ctx, tx, batch)
	})
	if err == nil {
		l.ExpiresAt, l.events = expiresAt, l.events+1
	}
	return err
}

func (s *Store) handleRow(lease string) keys.RowID {
	return keys.RowID{
		Installation: s.config.Installation, Tenant: s.config.Tenant, Table: "leases", Column: "handle",
		Row: lease, Version: "1", Purpose: "revocation handle",
	}
}

// rollbackTimeout is how long a transaction that came to nothing may take to end.
// Its connection is closed then, which ends it too.
const rollbackTimeout = 2 * time.Second

// inTx runs f in a transaction that f commits; what f leaves open is rolled back.
func (s *Store) inTx(ctx context.Context, doing string, f func(pgx.Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	tx, err := s.config.Pool.Begin(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer func() {
		// After a commit this does nothing. It must not hang on the caller's context, nor
		// on a server that says nothing.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if rollback := tx.Rollback(ending); rollback != nil && err == nil && !errors.Is(rollback, pgx.ErrTxClosed) {
			err = unavailable(doing, rollback)
		}
	}()
	return f(tx)
}

func commitBatch(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return unavailable("committing", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return unavailable("committing", err)
	}
	return nil
}

// truncate makes what a target said fit for a text column: short, and without
// what Postgres refuses in one.
func truncate(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
}

func commitChanges(ctx context.Context, tx pgx.Tx, changes []change) error {
	batch := &pgx.Batch{}
	if len(changes) > 0 {
		queueChanges(batch, changes)
	}
	return commitBatch(ctx, tx, batch)
}
