package leases

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// EndLive begins to end some of what lives, and says how many those were. It is
// called until there are none, by one who has the database alone: `daypassd
// restore --promote`.
func (s *Store) EndLive(ctx context.Context, why Why) (ended int, err error) {
	err = s.inTx(ctx, "ending what lives", func(tx pgx.Tx) error {
		found, err := s.some(ctx, tx, `l.state IN ('issuing', 'active')`)
		if err != nil || len(found) == 0 {
			return err
		}
		ended = len(found)
		return s.endAll(ctx, tx, found, why, s.Now())
	})
	return ended, err
}

// ForgetAll ends every lease that hasn't ended, in the caller's transaction and
// without taking anything back: what they stand for is another installation's.
func (s *Store) ForgetAll(ctx context.Context, tx pgx.Tx, why Why) (forgotten int, err error) {
	for {
		found, err := s.some(ctx, tx, `l.state IN ('issuing', 'active', 'revoking')`)
		if err != nil || len(found) == 0 {
			return forgotten, err
		}
		now := s.Now()
		changes := make([]change, 0, len(found))
		for _, l := range found {
			event, err := s.config.Audit.Event(audit.Entry{
				At: now, Type: audit.LeaseForgotten, Subject: l.ID, Count: l.events + 1, Actor: why.Actor, Data: map[string]any{"reason": why.Reason},
			})
			if err != nil {
				return forgotten, err
			}
			changes = append(changes, change{id: l.ID, from: l.State, state: Forgotten, endedAt: &now, event: event})
		}
		batch := &pgx.Batch{}
		queueChanges(batch, changes)
		batch.Queue(`UPDATE leases SET handle = NULL WHERE id = ANY ($1)`, column(changes, func(c change) string { return c.id }))
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return forgotten, unavailable("forgetting leases", err)
		}
		forgotten += len(found)
	}
}

// some are the next leases of a kind that has an index, by their ids.
func (s *Store) some(ctx context.Context, tx pgx.Tx, which string) ([]*Lease, error) {
	rows, err := tx.Query(ctx, selectLeases+` WHERE l.tenant = $1 AND l.due_at IS NOT NULL AND `+which+` LIMIT $2 FOR UPDATE OF l`, s.config.Tenant, signedBatch)
	if err != nil {
		return nil, unavailable("reading live leases", err)
	}
	found, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, unavailable("reading live leases", err)
	}
	slices.SortFunc(found, func(a, b *Lease) int { return cmp.Compare(a.ID, b.ID) })
	return found, nil
}
