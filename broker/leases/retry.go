package leases

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// Supersede makes room for a try of an exchange that Reserve answered with
// ErrRetry: what earlier tries obtained begins to end, their session tokens with
// it, and where the job token opens one session only, that session is given up
// for the next. It returns the leases that it ended. A crash after it leaves the
// job with nothing, and the next try finds no earlier one.
func (s *Store) Supersede(ctx context.Context, r *Reservation) ([]*Lease, error) {
	why := Why{Actor: JobActor(r.Session.Provider, r.Session.Subject), Reason: "a retry of its exchange took its place"}
	var ended []*Lease
	err := s.inTx(ctx, "making room for a retry", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockNumbers, []int64{lockOf("retry", r.Retry.Key)}); err != nil {
			return unavailable("making room for a retry", err)
		}
		const earlier = `SELECT hash, session_id FROM session_tokens WHERE retry_key = $1 AND created_at > $2::timestamptz - $3::interval AND created_at < $2 ORDER BY session_id`
		rows, err := tx.Query(ctx, earlier, r.Retry.Key, r.Retry.Asked, RetryLife)
		if err != nil {
			return unavailable("looking for earlier tries", err)
		}
		var hashes [][]byte
		var sessions []string
		var hash []byte
		var session string
		if _, err := pgx.ForEachRow(rows, []any{&hash, &session}, func() error {
			hashes, sessions = append(hashes, slices.Clone(hash)), append(sessions, session)
			return nil
		}); err != nil {
			return unavailable("looking for earlier tries", err)
		}
		if r.Once {
			for _, id := range slices.Compact(sessions) {
				if err := s.giveUp(ctx, tx, id, why); err != nil {
					return err
				}
			}
		}
		now := s.Now()
		const end = `UPDATE session_tokens SET retry_key = NULL, revoked_at = coalesce(revoked_at, $2) WHERE hash = ANY($1)`
		if _, err := tx.Exec(ctx, end, hashes, now); err != nil {
			return unavailable("making room for a retry", err)
		}
		if rows, err = tx.Query(ctx, selectLeases+` WHERE l.session_id = ANY($1) AND l.session_token = ANY($2) ORDER BY l.id FOR UPDATE OF l`, sessions, hashes); err != nil {
			return unavailable("making room for a retry", err)
		}
		if ended, err = pgx.CollectRows(rows, scanLease); err != nil {
			return unavailable("making room for a retry", err)
		}
		return s.endAll(ctx, tx, ended, why, now)
	})
	return ended, err
}

// Undo begins to end the leases of an exchange that failed after it was
// reserved. Where its job token opens one session only, the token may come again.
func (s *Store) Undo(ctx context.Context, r *Reservation, why Why) error {
	leaseIDs := column(r.Leases, func(l NewLease) string { return l.ID })
	return s.inTx(ctx, "undoing an exchange", func(tx pgx.Tx) error {
		if r.Once {
			if err := s.giveUp(ctx, tx, r.SessionID, why); err != nil {
				return err
			}
		}
		_, err := s.beginRevoke(ctx, tx, leaseIDs, why)
		return err
	})
}

// giveUp ends a session that brought its job nothing, and leaves no tombstone of
// its token: it may open another one. One that somebody gave back stays as it is.
func (s *Store) giveUp(ctx context.Context, tx pgx.Tx, sessionID string, why Why) error {
	const lock = `SELECT events FROM sessions WHERE tenant = $1 AND id = $2 AND revoked_at IS NULL FOR UPDATE`
	var events int
	err := tx.QueryRow(ctx, lock, s.config.Tenant, sessionID).Scan(&events)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return unavailable("giving up a session", err)
	}
	now := s.Now()
	event, err := s.config.Audit.Event(audit.Entry{
		At: now, Type: audit.SessionRevoked, Subject: sessionID, Count: events + 1, Actor: why.Actor,
		Data: map[string]any{"reason": why.Reason, "token": "may come again"},
	})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE sessions SET revoked_at = $2, events = $3, token_digest = sha256(token_digest || convert_to(id, 'UTF8')), jti = NULL WHERE id = $1`,
		sessionID, now, event.Count)
	audit.InsertIf(batch, []audit.Event{event}, "true")
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return unavailable("giving up a session", err)
	}
	return nil
}

// RecordReusedJTI puts on record that a job token came with the jti of another.
// It opened no session: the event stands under the id that its session would
// have had.
func (s *Store) RecordReusedJTI(ctx context.Context, session *Session, at time.Time) error {
	event, err := s.config.Audit.Event(audit.Entry{
		At: at, Type: audit.TokenReusedJTI, Subject: session.ID, Count: 1, Actor: JobActor(session.Provider, session.Subject),
		Data: map[string]any{"provider": session.Provider, "jti_sha256": hex.EncodeToString(session.JTI), "token_sha256": hex.EncodeToString(session.TokenDigest[:])},
	})
	if err != nil {
		return err
	}
	return s.inTx(ctx, "recording a reused jti", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		return commitBatch(ctx, tx, batch)
	})
}
