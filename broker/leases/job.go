package leases

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// RevokeJob begins to end all that the job of a lease holds, whichever of its
// tokens it was obtained with. The sessions that it was obtained in end too: their
// tokens, and the job tokens that opened them, bring nothing more. A lease from before jobs were on record
// stands for its session.
func (s *Store) RevokeJob(ctx context.Context, leaseID string, why Why) ([]*Lease, error) {
	var ended []*Lease
	err := s.inTx(ctx, "revoking job", func(tx pgx.Tx) error {
		// The sessions first, in the order in which reservations lock them: one that
		// holds a session ends before we look for its leases.
		const find = `
WITH one AS (SELECT session_id, whose, job_key FROM leases WHERE tenant = $1 AND id = $2)
SELECT s.id, s.events, s.revoked_at IS NOT NULL FROM sessions s WHERE s.id IN (
    SELECT session_id FROM one UNION
    SELECT l.session_id FROM leases l JOIN one ON l.whose = one.whose AND l.job_key = one.job_key WHERE l.ended_at IS NULL AND l.state <> 'revoking')
ORDER BY s.token_digest FOR UPDATE`
		rows, err := tx.Query(ctx, find, s.config.Tenant, leaseID)
		if err != nil {
			return unavailable("revoking job", err)
		}
		type found struct {
			ID      string
			Events  int
			Revoked bool
		}
		sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
		if err != nil {
			return unavailable("revoking job", err)
		}
		if len(sessions) == 0 {
			return fmt.Errorf("%w: %s", ErrNotFound, leaseID)
		}
		now := s.Now()
		ids := column(sessions, func(f found) string { return f.ID })
		batch := &pgx.Batch{}
		for _, f := range sessions {
			if f.Revoked {
				continue
			}
			event, err := s.config.Audit.Event(audit.Entry{
				At: now, Type: audit.SessionRevoked, Subject: f.ID, Count: f.Events + 1, Actor: why.Actor, Data: map[string]any{"reason": why.Reason},
			})
			if err != nil {
				return err
			}
			batch.Queue(`UPDATE sessions SET revoked_at = $2, events = $3 WHERE id = $1`, f.ID, now, event.Count)
			audit.InsertIf(batch, []audit.Event{event}, "true")
		}
		batch.Queue(selectLeases+` WHERE l.session_id = ANY($1) AND (l.id = $2 OR l.ended_at IS NULL) ORDER BY l.id FOR UPDATE OF l`, ids, leaseID).
			Query(func(rows pgx.Rows) (err error) {
				ended, err = pgx.CollectRows(rows, scanLease)
				return err
			})
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return unavailable("revoking job", err)
		}
		return s.endAll(ctx, tx, ended, why, now)
	})
	return ended, err
}
