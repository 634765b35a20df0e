package leases

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	settleTimeout  = 15 * time.Second
	settleInterval = 200 * time.Millisecond
)

// unknown says that a transaction was sent and nobody knows what became of it: no
// answer came, or that of a server that was going down. An ERROR is an answer: it
// was rolled back.
func unknown(err error) bool {
	if err == nil || pgconn.SafeToRetry(err) {
		return false
	}
	var pg *pgconn.PgError
	return !errors.As(err, &pg) || fatal(pg)
}

// settle finds out what became of writes whose transaction was sent and not
// answered, and tells those who wait. What is found as it was written was
// committed. What is not found never will be, once two things are sure: that the
// transaction doesn't run any more (it holds the lock by the number as long as it
// does), and that it can't begin any more (it writes nothing where it begins later
// than MaxSkew after it was sent). An activation can't land late either: who is
// refused here ends the lease, and one that has begun to end is never activated.
//
// Were a server to stop for longer than that between the beginning of a
// transaction and its lock, the leases would stand there, and end like any other:
// their credentials were given to nobody.
func (s *Store) settle(ctx context.Context, writes []*write, sent time.Time, number int64, lost error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	pending := writes
	var failure error
	for first := true; len(pending) > 0 && (first || pause(ctx, settleInterval, nil)); first = false {
		// Asked before it is looked: what is true now stays true.
		over := s.Now().After(sent.Add(MaxSkew + settleInterval))
		var found map[string]landed
		if found, failure = s.readBack(ctx, pending, number); failure != nil {
			continue
		}
		var left []*write
		for _, w := range pending {
			switch {
			case w.foundIn(found):
				close(w.done)
			case over || w.activate != nil:
				w.err = unavailable("the connection was lost, and it was not written", lost)
				close(w.done)
			default:
				left = append(left, w)
			}
		}
		pending = left
	}
	for _, w := range pending {
		w.err = fmt.Errorf("the connection was lost, and what was written is not known: %w: %w", ErrUnavailable, errors.Join(lost, failure))
		close(w.done)
	}
}

// landed is a lease that was found.
type landed struct {
	session string
	ends    time.Time
	state   State
}

func (s *Store) readBack(ctx context.Context, writes []*write, number int64) (map[string]landed, error) {
	var leaseIDs []string
	for _, w := range writes {
		leaseIDs = append(leaseIDs, w.leaseIDs()...)
	}
	low, high := span(leaseIDs)
	found := map[string]landed{}
	err := s.inTx(ctx, "reading back", func(tx pgx.Tx) error {
		// Waits for the transaction while it runs.
		if _, err := tx.Exec(ctx, lockNumbers, []int64{number}); err != nil {
			return unavailable("reading back", err)
		}
		const read = `
SELECT l.id, l.session_id, s.expires_at, l.state FROM leases l CROSS JOIN LATERAL (SELECT expires_at FROM sessions WHERE id = l.session_id OFFSET 0) s
WHERE l.tenant = $1 AND l.id = ANY($2) AND l.id BETWEEN $3 AND $4`
		rows, err := tx.Query(ctx, read, s.config.Tenant, leaseIDs, low, high)
		if err != nil {
			return unavailable("reading back", err)
		}
		var id string
		var l landed
		if _, err := pgx.ForEachRow(rows, []any{&id, &l.session, &l.ends, &l.state}, func() error {
			found[id] = l
			return nil
		}); err != nil {
			return unavailable("reading back", err)
		}
		return commitBehind(ctx, tx)
	})
	return found, err
}

// commitBehind commits a transaction that waits, as every other one does, for the
// synchronous standby where there is one: what was read in it is there too then,
// since it stands before this commit in the server's log.
func commitBehind(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT pg_logical_emit_message(true, 'daypass', '')`); err != nil {
		return unavailable("reading back", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return unavailable("reading back", err)
	}
	return nil
}

func (w *write) leaseIDs() []string {
	if w.reserve != nil {
		return column(w.reserve.Leases, func(l NewLease) string { return l.ID })
	}
	return column(w.activate.Leases, func(l Minted) string { return l.ID })
}

// foundIn says whether a write was committed as it was meant, and takes down what
// its statement would have told. A lease that has begun to end since is none to
// answer with.
func (w *write) foundIn(found map[string]landed) bool {
	want := Active
	for i, id := range w.leaseIDs() {
		l, ok := found[id]
		if w.reserve != nil {
			if want = Issuing; w.reserve.Leases[i].Issued {
				want = Active
			}
			w.reserve.SessionID, w.reserve.SessionExpiresAt = l.session, l.ends.UTC()
		}
		if !ok || l.state != want {
			return false
		}
	}
	w.err = nil
	return true
}
