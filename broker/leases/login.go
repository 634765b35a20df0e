package leases

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Login is a job token that becomes a session token without a lease: those come
// one by one, each in a reservation of its own whose Token is Held.
type Login struct {
	Reservation // Leases is empty; Joined is false

	Mount, Role string // where it logged in
	Digest      string // of the set of policies that let it
}

// joining is a login's session as its transaction finds it.
type joining struct {
	id      string
	expires time.Time
	revoked bool
	events  int
}

// Login puts a login on record: the session, unless its job token opened one
// before, its session token, and the event of each. It returns ErrReplayed,
// ErrReusedJTI, a ClockError or ErrUnavailable, and then nothing was written that
// anybody holds. One transaction: logins are few beside what they are for.
func (s *Store) Login(ctx context.Context, l *Login) error {
	if err := s.CheckClock(); err != nil {
		return err
	}
	l.Leases = nil
	if err := s.recordReservation(&l.Reservation); err != nil {
		return err
	}
	err := s.inTx(ctx, "logging in", func(tx pgx.Tx) error {
		o, err := s.openFor(ctx, tx, l)
		if err != nil {
			return err
		}
		l.SessionID, l.SessionExpiresAt = o.id, o.expires.UTC()
		batch := &pgx.Batch{}
		if o.id == l.Session.ID {
			audit.InsertIf(batch, l.events, "true")
		}
		event, err := s.config.Audit.Event(audit.Entry{
			At: l.Now, Type: audit.SessionLogin, Subject: o.id, Count: o.events + 1, Actor: JobActor(l.Session.Provider, l.Session.Subject),
			Data: map[string]any{"mount": l.Mount, "role": l.Role, "grants": l.Token.Grants, "policy_digest": l.Digest, "request_id": l.RequestID},
		})
		if err != nil {
			return err
		}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		batch.Queue(`UPDATE sessions SET events = $2 WHERE id = $1`, o.id, event.Count)
		batch.Queue(`INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at, mount, role) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			l.Token.Hash[:], l.Token.KeyID, o.id, l.Token.Grants, l.Now, l.Mount, l.Role)
		return commitBatch(ctx, tx, batch)
	})
	if l.Once && err != nil && l.SessionID == l.Session.ID {
		s.unuse(ctx, l)
	}
	return err
}

// openFor opens the session of a login, or finds the one that its job token opened
// before, and holds its row.
func (s *Store) openFor(ctx context.Context, tx pgx.Tx, l *Login) (*joining, error) {
	batch := &pgx.Batch{}
	queueSessions(batch, s.config.Tenant, []*write{{reserve: &l.Reservation}}, s.Now())
	o := &joining{}
	var none bool
	const find = `
SELECT id, expires_at, revoked_at IS NOT NULL, events FROM sessions
WHERE tenant = $1 AND provider = $2 AND issuer = $3 AND token_digest = $4 FOR UPDATE`
	batch.Queue(find, s.config.Tenant, l.Session.Provider, l.Session.Issuer, l.Session.TokenDigest[:]).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&o.id, &o.expires, &o.revoked, &o.events)
		if none = errors.Is(err, pgx.ErrNoRows); none {
			return nil
		}
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, unavailable("logging in", err)
	}
	switch {
	case none:
		return nil, s.whyNotOpened(ctx, tx, l)
	case o.revoked || !o.expires.After(l.Now):
		return nil, ErrReplayed
	case l.Once && o.id != l.Session.ID:
		return nil, s.whyNotOnce(ctx, tx, o.id)
	}
	return o, nil
}

// whyNotOpened tells what kept a session from being opened.
func (s *Store) whyNotOpened(ctx context.Context, tx pgx.Tx, l *Login) error {
	var reused bool
	if l.Session.JTI != nil {
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM sessions WHERE jti = $1)`, l.Session.JTI).Scan(&reused); err != nil {
			return unavailable("logging in", err)
		}
	}
	if reused {
		return ErrReusedJTI
	}
	s.clock.look()
	return &ClockError{Detail: fmt.Sprintf("the broker's idea of the time and the database's clock were more than %s apart; the clock is looked at anew", MaxSkew)}
}

// whyNotOnce tells a token that was used from one whose exchange is still under
// way, or being undone: see reserveLeases.
func (s *Store) whyNotOnce(ctx context.Context, tx pgx.Tx, session string) error {
	var used bool
	from := s.Now().Add(-liveFor)
	const look = `
SELECT EXISTS (SELECT FROM audit_events e WHERE e.subject = $1 AND e.type = $2 AND e.id > $4) OR EXISTS (
    SELECT FROM leases l JOIN audit_events e ON e.subject = l.id WHERE l.session_id = $1 AND l.id > $5 AND e.type = $3 AND e.id > $4)`
	if err := tx.QueryRow(ctx, look, session, string(audit.SessionLogin), string(audit.LeaseIssued), ids.From(ids.Event, from), ids.From(ids.Lease, from)).Scan(&used); err != nil {
		return unavailable("logging in", err)
	}
	if used {
		return ErrReplayed
	}
	return fmt.Errorf("%w: another exchange of this job token is under way, or is being undone", ErrUnavailable)
}

// unuse lets a job token that may come once come again after a login whose commit
// may have been lost: nobody has the session token that it made.
func (s *Store) unuse(ctx context.Context, l *Login) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	err := s.inTx(ctx, "giving up a login", func(tx pgx.Tx) error {
		why := Why{Actor: "daypassd", Reason: "its login could not be answered"}
		if err := s.giveUp(ctx, tx, l.Session.ID, why); err != nil {
			return err
		}
		return commitBehind(ctx, tx)
	})
	if err != nil {
		s.config.Logger.WarnContext(ctx, "a login failed, and whether its job token was used up is not known", "session", l.Session.ID, "error", err)
	}
}

// RevokeToken ends one session token and takes back what was obtained with it. The
// session and its other tokens stay as they are. It returns those leases.
func (s *Store) RevokeToken(ctx context.Context, held *Held, why Why) ([]*Lease, error) {
	var ended []*Lease
	err := s.inTx(ctx, "revoking a session token", func(tx pgx.Tx) error {
		// Session, token, leases: the order in which a reservation locks.
		var events int
		if err := tx.QueryRow(ctx, `SELECT events FROM sessions WHERE tenant = $1 AND id = $2 FOR UPDATE`, s.config.Tenant, held.ID).Scan(&events); err != nil {
			return unavailable("revoking a session token", err)
		}
		now := s.Now()
		tag, err := tx.Exec(ctx, `UPDATE session_tokens SET revoked_at = $2 WHERE hash = $1 AND revoked_at IS NULL`, held.TokenHash[:], now)
		if err != nil {
			return unavailable("revoking a session token", err)
		}
		if tag.RowsAffected() > 0 {
			event, err := s.config.Audit.Event(audit.Entry{
				At: now, Type: audit.SessionLogout, Subject: held.ID, Count: events + 1, Actor: why.Actor,
				Data: map[string]any{"reason": why.Reason, "mount": held.Mount, "role": held.Role},
			})
			if err != nil {
				return err
			}
			batch := &pgx.Batch{}
			batch.Queue(`UPDATE sessions SET events = $2 WHERE id = $1`, held.ID, event.Count)
			audit.InsertIf(batch, []audit.Event{event}, "true")
			if err := tx.SendBatch(ctx, batch).Close(); err != nil {
				return unavailable("revoking a session token", err)
			}
		}
		rows, err := tx.Query(ctx, selectLeases+` WHERE l.session_id = $1 AND l.session_token = $2 ORDER BY l.id FOR UPDATE OF l`, held.ID, held.TokenHash[:])
		if err != nil {
			return unavailable("revoking a session token", err)
		}
		if ended, err = pgx.CollectRows(rows, scanLease); err != nil {
			return unavailable("revoking a session token", err)
		}
		return s.endAll(ctx, tx, ended, why, now)
	})
	return ended, err
}
