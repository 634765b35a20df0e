package leases

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// Standing is how a lease stands.
type Standing struct {
	ID      string
	State   State
	EndedAt *time.Time
}

// Live says that something may be on a target for it: it is about to be made, in
// use, or being taken back.
func (s Standing) Live() bool { return !s.State.Ended() }

// StandingOf looks leases up by their ids, those of all tenants and issuers: what
// is asked for may have been made on the same server by any of them. Those that
// there is no lease of are left out.
func (s *Store) StandingOf(ctx context.Context, leaseIDs []string) (map[string]Standing, error) {
	if len(leaseIDs) == 0 {
		return nil, nil
	}
	const find = `SELECT id, state, ended_at FROM leases WHERE id = ANY($1) AND id BETWEEN $2 AND $3`
	rows, err := s.config.Pool.Query(ctx, find, leaseIDs, slices.Min(leaseIDs), slices.Max(leaseIDs))
	if err != nil {
		return nil, unavailable("reading how leases stand", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Standing])
	if err != nil {
		return nil, unavailable("reading how leases stand", err)
	}
	found := make(map[string]Standing, len(all))
	for _, l := range all {
		found[l.ID] = l
	}
	return found, nil
}

// ActiveLease is an active lease in the order of due times.
type ActiveLease struct {
	DueAt time.Time
	ID    string
}

// ActiveOf reads a page of an issuer's active leases. What is renewed meanwhile
// may come twice; none is left out that stays active.
func (s *Store) ActiveOf(ctx context.Context, issuer string, after ActiveLease, limit int) ([]ActiveLease, error) {
	const page = `
SELECT due_at, id FROM leases
WHERE tenant = $1 AND issuer = $2 AND due_at IS NOT NULL AND due_at >= $3 AND (due_at, id) > ($3, $4) AND state = 'active'
ORDER BY due_at, id LIMIT $5`
	rows, err := s.config.Pool.Query(ctx, page, s.config.Tenant, issuer, after.DueAt, after.ID, limit)
	if err != nil {
		return nil, unavailable("reading active leases", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ActiveLease])
	if err != nil {
		return nil, unavailable("reading active leases", err)
	}
	return found, nil
}

// MarkMissing puts on record that the credentials of leases are on their target no
// more, of those that are active still. It ends none: the revoker does at its
// time. It returns how many were not marked before.
func (s *Store) MarkMissing(ctx context.Context, issuer string, leaseIDs []string) (marked int, err error) {
	err = s.inTx(ctx, "marking missing credentials", func(tx pgx.Tx) error {
		const active = `
SELECT l.id, l.events FROM leases l
WHERE l.tenant = $1 AND l.issuer = $2 AND l.id = ANY($3) AND l.id BETWEEN $4 AND $5 AND l.state = 'active'
  AND NOT EXISTS (SELECT FROM missing_credentials m WHERE m.lease_id = l.id)
ORDER BY l.id FOR UPDATE OF l`
		rows, err := tx.Query(ctx, active, s.config.Tenant, issuer, leaseIDs, slices.Min(leaseIDs), slices.Max(leaseIDs))
		if err != nil {
			return unavailable("marking missing credentials", err)
		}
		type counted struct {
			ID     string
			Events int
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counted])
		if err != nil {
			return unavailable("marking missing credentials", err)
		}
		if marked = len(found); marked == 0 {
			return nil
		}
		now := s.Now()
		events := make([]audit.Event, len(found))
		for i, l := range found {
			if events[i], err = s.config.Audit.Event(audit.Entry{At: now, Type: audit.LeaseMissing, Subject: l.ID, Count: l.Events + 1, Actor: "daypassd", Data: map[string]any{"issuer": issuer}}); err != nil {
				return err
			}
		}
		batch := &pgx.Batch{}
		missing := column(found, func(l counted) string { return l.ID })
		batch.Queue(`UPDATE leases SET events = events + 1 WHERE id = ANY($1) AND id BETWEEN $2 AND $3`, missing, missing[0], missing[len(missing)-1])
		batch.Queue(`INSERT INTO missing_credentials (lease_id, tenant, issuer, since) SELECT id, $2, $3, $4 FROM unnest($1::text[]) AS missed(id) ON CONFLICT DO NOTHING`,
			missing, s.config.Tenant, issuer, now)
		audit.InsertIf(batch, events, `EXISTS (SELECT FROM leases l WHERE l.id = e.subject AND l.events = e.count)`)
		return commitBatch(ctx, tx, batch)
	})
	return marked, err
}

// UnmarkMissing takes the marks of MarkMissing back, of credentials that stand
// after all.
func (s *Store) UnmarkMissing(ctx context.Context, leaseIDs []string) error {
	if _, err := s.config.Pool.Exec(ctx, `DELETE FROM missing_credentials WHERE lease_id = ANY($1)`, leaseIDs); err != nil {
		return unavailable("unmarking missing credentials", err)
	}
	return nil
}

// Missing is a live lease whose credential is on its target no more.
type Missing struct {
	LeaseID string
	Since   time.Time // when it was first missed
}

// TidyMissing drops the marks of an issuer's leases that have ended or are about
// to, and counts the others.
func (s *Store) TidyMissing(ctx context.Context, issuer string) (left int, err error) {
	const tidy = `
WITH over AS (
    DELETE FROM missing_credentials m WHERE m.tenant = $1 AND m.issuer = $2
      AND NOT EXISTS (SELECT FROM leases l WHERE l.id = m.lease_id AND l.state = 'active') RETURNING 1
)
SELECT (SELECT count(*) FROM missing_credentials WHERE tenant = $1 AND issuer = $2) - (SELECT count(*) FROM over)`
	if err := s.config.Pool.QueryRow(ctx, tidy, s.config.Tenant, issuer).Scan(&left); err != nil {
		return 0, unavailable("counting missing credentials", err)
	}
	return left, nil
}

// MissingOf reads an issuer's leases whose credential is gone, and how many there
// are in all.
func (s *Store) MissingOf(ctx context.Context, issuer string, limit int) (found []Missing, total int, err error) {
	const list = `
SELECT m.lease_id, m.since, count(*) OVER () FROM missing_credentials m
WHERE m.tenant = $1 AND m.issuer = $2 AND EXISTS (SELECT FROM leases l WHERE l.id = m.lease_id AND l.state = 'active')
ORDER BY m.lease_id LIMIT $3`
	rows, err := s.config.Pool.Query(ctx, list, s.config.Tenant, issuer, limit)
	if err != nil {
		return nil, 0, unavailable("listing missing credentials", err)
	}
	found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Missing, err error) {
		err = row.Scan(&m.LeaseID, &m.Since, &total)
		return m, err
	})
	if err != nil {
		return nil, 0, unavailable("listing missing credentials", err)
	}
	return found, total, nil
}
