package reconciler

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Orphan is a credential of this installation without a live lease.
type Orphan struct {
	ID        string
	Issuer    string
	Name      string // on the target
	LeaseID   string // ""; nothing tells
	Why       string
	CreatedAt *time.Time // by the target; nil: it doesn't say
	FoundAt   time.Time
	Attempts  int
	LastError string
	Revoked   bool

	events int
}

const orphanColumns = `id, issuer, name, lease_id, why, created_at, found_at, attempts, coalesce(last_error, ''), state = 'revoked', events`

// scanOrphan scans orphanColumns, and more columns behind them.
func scanOrphan(row pgx.Row, more ...any) (o Orphan, err error) {
	err = row.Scan(append([]any{
		&o.ID, &o.Issuer, &o.Name, &o.LeaseID, &o.Why, &o.CreatedAt, &o.FoundAt, &o.Attempts, &o.LastError, &o.Revoked, &o.events,
	}, more...)...)
	return o, err
}

// recordCandidates puts what has no live lease on record, once each, and with its
// event as soon as it is old enough.
func (c *comparison) recordCandidates(ctx context.Context, all []candidate) error {
	seen := map[string]bool{}
	batch := &pgx.Batch{}
	now := c.config.Store.Now()
	var unrecorded []Orphan
	for _, x := range all {
		if seen[x.Name] {
			continue // an issuer that repeats itself
		}
		seen[x.Name] = true
		var created *time.Time
		if !x.CreatedAt.IsZero() {
			created = &x.CreatedAt
		}
		// Where nobody says since when, it is since we saw it first.
		batch.Queue(`
INSERT INTO orphans AS o (id, tenant, issuer, name, lease_id, why, created_at, found_at, seen_in, state, events) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)
ON CONFLICT (tenant, issuer, name) WHERE ended_at IS NULL DO UPDATE SET seen_in = $9, why = $6, lease_id = $5,
    state = CASE WHEN $10 = 'found' OR (NOT $11 AND o.found_at <= $12) THEN 'found' ELSE o.state END
RETURNING `+orphanColumns+`, state`,
			ids.New(ids.Orphan, now), c.config.Tenant, c.run.Issuer, x.Name, x.LeaseID, x.why, created, now, c.run.ID, x.state, x.since, c.run.StartedAt.Add(-c.config.Grace)).
			QueryRow(func(row pgx.Row) error {
				var state string
				o, err := scanOrphan(row, &state)
				if err == nil && state == stateFound && o.events == 0 {
					unrecorded = append(unrecorded, o)
				}
				return err
			})
	}
	if len(seen) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil || len(unrecorded) == 0 {
			return err
		}
		return c.found(ctx, tx, unrecorded, now)
	})
	if err != nil {
		return unavailable("recording orphans", err)
	}
	return nil
}

// found writes the first event of each.
func (c *comparison) found(ctx context.Context, tx pgx.Tx, orphans []Orphan, now time.Time) error {
	events, names := make([]audit.Event, len(orphans)), make([]string, len(orphans))
	for i, o := range orphans {
		var err error
		if events[i], err = c.event(o, audit.OrphanFound, now); err != nil {
			return err
		}
		names[i] = o.ID
	}
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE orphans SET events = 1 WHERE id = ANY($1)`, names)
	audit.InsertIf(batch, events, "true")
	return tx.SendBatch(ctx, batch).Close()
}

func (c *comparison) event(o Orphan, kind audit.Type, now time.Time) (audit.Event, error) {
	return c.config.Audit.Event(audit.Entry{
		At: now, Type: kind, Subject: o.ID, Count: o.events + 1, Actor: c.run.Actor,
		Data: map[string]any{"issuer": o.Issuer, "name": o.Name, "lease": o.LeaseID, "why": o.Why, "reconciliation": c.run.ID},
	})
}

// settle ends what this run didn't list any more.
func (c *comparison) settle(ctx context.Context) error {
	const gone = `UPDATE orphans SET state = 'gone', ended_at = $4 WHERE tenant = $1 AND issuer = $2 AND ended_at IS NULL AND seen_in <> $3`
	if _, err := c.config.Pool.Exec(ctx, gone, c.config.Tenant, c.run.Issuer, c.run.ID, c.config.Store.Now()); err != nil {
		return unavailable("ending orphans that are gone", err)
	}
	return nil
}

func (c *comparison) countSeen(ctx context.Context) (found, young int, err error) {
	const count = `
SELECT count(*) FILTER (WHERE state = 'found'), count(*) FILTER (WHERE state = 'young') FROM orphans
WHERE tenant = $1 AND issuer = $2 AND ended_at IS NULL AND seen_in = $3`
	if err := c.config.Pool.QueryRow(ctx, count, c.config.Tenant, c.run.Issuer, c.run.ID).Scan(&found, &young); err != nil {
		return 0, 0, unavailable("counting orphans", err)
	}
	return found, young, nil
}

// nextOrphans reads some orphans of this run, by their ids.
func (c *comparison) nextOrphans(ctx context.Context, after string, limit int) ([]Orphan, error) {
	const next = `
SELECT ` + orphanColumns + ` FROM orphans
WHERE tenant = $1 AND issuer = $2 AND ended_at IS NULL AND seen_in = $3 AND state = 'found' AND id > $4 ORDER BY id LIMIT $5`
	rows, err := c.config.Pool.Query(ctx, next, c.config.Tenant, c.run.Issuer, c.run.ID, after, limit)
	if err != nil {
		return nil, unavailable("reading orphans", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Orphan, error) { return scanOrphan(row) })
	if err != nil {
		return nil, unavailable("reading orphans", err)
	}
	return found, nil
}

// endOrphan writes the end of one: with an event when it was taken back.
func (c *comparison) endOrphan(ctx context.Context, o Orphan, state string) error {
	now := c.config.Store.Now()
	err := pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		events := o.events
		if state == stateRevoked {
			events++
		}
		batch.Queue(`UPDATE orphans SET state = $2, ended_at = $3, events = $4 WHERE id = $1 AND ended_at IS NULL AND events = $5`, o.ID, state, now, events, o.events).
			Exec(func(tag pgconn.CommandTag) error {
				if tag.RowsAffected() != 1 {
					return fmt.Errorf("%w: %s has changed", errLost, o.ID)
				}
				return nil
			})
		if state == stateRevoked {
			event, err := c.event(o, audit.OrphanRevoked, now)
			if err != nil {
				return err
			}
			audit.InsertIf(batch, []audit.Event{event}, "true")
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return unavailable("recording what came of "+o.ID, err)
	}
	return nil
}

func (c *comparison) failOrphan(ctx context.Context, o Orphan, failure error) error {
	const fail = `UPDATE orphans SET attempts = attempts + 1, last_error = $2 WHERE id = $1 AND ended_at IS NULL`
	if _, err := c.config.Pool.Exec(ctx, fail, o.ID, cut(failure.Error(), maxText)); err != nil {
		return unavailable("recording what came of "+o.ID, err)
	}
	return nil
}
