package leases

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// write is one exchange's part of a transaction: either a reservation or an
// activation. Writes that arrive while all writers are busy join the next
// transaction: one commit, one round trip. One that arrives alone goes at once.
type write struct {
	reserve  *Reservation
	activate *Activation
	err      error         // of this write; read after done is closed
	again    bool          // it was sent twice: see cameLate
	done     chan struct{} // closed when the transaction's outcome is known
}

// submit waits for the outcome. When ctx ends first, the write goes on and its
// outcome is unknown: the caller must treat the lease as one to be revoked.
func (s *Store) submit(ctx context.Context, w *write) error {
	w.done = make(chan struct{})
	select {
	case s.queue <- w:
		if len(s.queue) >= crowd {
			tell(s.turns.crowded)
		}
	case <-ctx.Done():
		return unavailable("waiting for a place in a transaction", ctx.Err())
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return unavailable("waiting for a commit", ctx.Err())
	}
}

const (
	// crowd is how many writes must wait before a transaction begins beside one that
	// is under way. Two small ones cost Postgres, and the broker, far more than one of
	// both: what arrives meanwhile joins the next.
	crowd = 32
	// They wait all the same when they are fewer: twice as long as the last
	// transaction took, within these bounds. One that waits for a lock, or for a
	// connection that is dead, holds up others no longer than that.
	leastPatience = 10 * time.Millisecond
	mostPatience  = 200 * time.Millisecond
)

// turns decides when the next transaction begins.
type turns struct {
	next    chan struct{} // held by the writer who collects for it
	freed   chan struct{} // a transaction ended
	crowded chan struct{} // many wait
	busy    atomic.Int32
	took    atomic.Int64 // the last one, in nanoseconds
}

func newTurns() *turns {
	return &turns{next: make(chan struct{}, 1), freed: make(chan struct{}, 1), crowded: make(chan struct{}, 1)}
}

// wait returns when a transaction may begin: at once while none is under way.
func (t *turns) wait(waiting func() int) {
	if t.busy.Load() == 0 || waiting() >= crowd {
		return
	}
	enough := time.NewTimer(min(max(2*time.Duration(t.took.Load()), leastPatience), mostPatience))
	defer enough.Stop()
	for t.busy.Load() > 0 && waiting() < crowd {
		select {
		case <-t.freed:
		case <-t.crowded:
		case <-enough.C:
			return
		}
	}
}

func (t *turns) begin() { t.busy.Add(1) }

func (t *turns) end(took time.Duration) {
	t.took.Store(int64(took))
	t.busy.Add(-1)
	tell(t.freed)
}

// tell wakes one who listens, now or next.
func tell(who chan struct{}) {
	select {
	case who <- struct{}{}:
	default:
	}
}

func (s *Store) writeLoop(ctx context.Context) {
	for {
		writes := s.collect(ctx)
		if writes == nil {
			return
		}
		began := s.config.Now()
		s.commit(ctx, writes)
		s.turns.end(s.config.Now().Sub(began))
	}
}

// collect waits for writes, and for their turn; nil when the store closes.
func (s *Store) collect(ctx context.Context) []*write {
	select {
	case <-ctx.Done():
		return nil
	case s.turns.next <- struct{}{}:
	}
	defer func() { <-s.turns.next }()
	var first *write
	select {
	case <-ctx.Done():
		return nil
	case first = <-s.queue:
	}
	s.turns.wait(func() int { return len(s.queue) })
	s.turns.begin()
	writes := []*write{first}
	for len(writes) < maxBatch {
		select {
		case w := <-s.queue:
			writes = append(writes, w)
		default:
			return writes
		}
	}
	return writes
}

// commit writes a batch in one transaction. Expected conflicts are results of
// the statements; an unexpected one is tried again write by write, so that one
// bad row never fails its neighbours.
func (s *Store) commit(ctx context.Context, writes []*write) {
	writes, later := apart(writes)
	if len(later) > 0 {
		defer s.commit(ctx, later)
	}
	sent, err := s.commitOnce(ctx, writes)
	if !sent.at.IsZero() && unknown(err) {
		// Not here: others have nothing to do with it.
		s.done.Go(func() { s.settle(ctx, writes, sent.at, sent.number, err) })
		return
	}
	if err != nil && len(writes) > 1 && refused(err) {
		for _, w := range writes {
			s.commit(ctx, []*write{w})
		}
		return
	}
	if err != nil && !refused(err) {
		s.wrote(err)
		s.clock.look() // it may be another server from now on
	} else {
		s.wrote(nil)
	}
	var again []*write
	for _, w := range writes {
		if err != nil {
			w.err = unavailable("committing", err)
		}
		if s.cameLate(w) {
			again = append(again, w)
			continue
		}
		close(w.done)
	}
	if len(again) > 0 {
		s.commit(ctx, again)
	}
}

// cameLate says once of a write that its transaction began so long after it was
// sent that it could not be told from one with a wrong clock, and that the clocks
// are right: a connection that has just been opened prepares its statements first,
// which takes a busy server its time. Nothing was written.
func (s *Store) cameLate(w *write) bool {
	var clock *ClockError
	if w.again || !errors.As(w.err, &clock) || s.CheckClock() != nil {
		return false
	}
	w.again = true
	return true
}

// apart keeps two tries of one exchange out of one transaction, in which neither
// would see the other.
func apart(writes []*write) (now, later []*write) {
	var seen map[string]bool
	for _, w := range writes {
		if w.reserve == nil || w.reserve.Retry == nil {
			now = append(now, w)
			continue
		}
		key := string(w.reserve.Retry.Key)
		if seen[key] {
			later = append(later, w)
			continue
		}
		if seen == nil {
			seen = map[string]bool{}
		}
		seen[key] = true
		now = append(now, w)
	}
	return now, later
}

// refused says that Postgres rolled the transaction back because of what was
// in it (conflicts with other transactions included), rather than being away.
func refused(err error) bool {
	var pg *pgconn.PgError
	var connecting *pgconn.ConnectError
	return !errors.As(err, &connecting) && errors.As(err, &pg) && !fatal(pg) && (!transient(pg.Code) || pg.Code[:2] == "40" || pg.Code == "55P03")
}

// dispatch is when a transaction was sent, and the number that it holds a lock by
// until it ends.
type dispatch struct {
	at     time.Time
	number int64
}

// commitOnce sends all statements at once. Postgres runs what comes before one
// Sync as one transaction, each statement with a snapshot of its own.
func (s *Store) commitOnce(ctx context.Context, writes []*write) (sent dispatch, err error) {
	// The callers' contexts don't count here: they share the transaction.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	var reservations []*write
	var activations []*write
	for _, w := range writes {
		w.err = nil
		if w.reserve != nil {
			reservations = append(reservations, w)
		} else {
			activations = append(activations, w)
		}
	}
	conn, err := s.config.Pool.Acquire(ctx) // before the clock is read: it may take its time
	if err != nil {
		return sent, err
	}
	defer conn.Release()
	sent = dispatch{at: s.Now(), number: lockOf("write", []byte(writes[0].leaseIDs()[0]))}
	// Every transaction takes its locks in the same order: names of what is
	// counted, sessions, leases, and among each by name.
	batch := &pgx.Batch{}
	if len(reservations) > 0 {
		s.queueReservations(batch, reservations, sent)
	}
	if len(activations) > 0 {
		s.queueActivations(batch, activations)
	}
	return sent, conn.SendBatch(ctx, batch).Close()
}
