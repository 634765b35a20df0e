package leases

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// One clock decides, the database's. A broker looks at it every few seconds and
// reckons in between with a clock that nobody sets (Go's monotonic one). Two
// things make it refuse to issue and to renew:
//
//   - Its own clock is more than MaxSkew off. What is written is right all the
//     same, but job tokens, certificates and signing keys are looked at by it.
//   - The database's clock is behind the highest time that it ever showed. It was
//     set back, or a standby that is late was promoted. What was to end by now
//     would live longer.
//
// The highest time stands in a row, so that it comes along to a standby and is
// known to a broker that has just started, and in each broker's memory, which is
// more exact. The row is raised beside the exchanges, never in their transactions.
const (
	// MaxSkew is how far the broker's idea of the time may be from the database's.
	MaxSkew = 2 * time.Second

	clockInterval = 5 * time.Second
	// clockAgain is how soon a clock that is wrong, or can't be read, is looked at
	// again; and clockPause the least between two looks that somebody asked for.
	clockAgain = time.Second
	clockPause = 100 * time.Millisecond
	// stepNoticed is what our clock may move against the monotonic one before it
	// counts as set by somebody.
	stepNoticed = 500 * time.Millisecond
	// raiseAfter bounds how often the row changes, whatever the number of brokers.
	raiseAfter = time.Second
)

const (
	readClock = `SELECT clock_timestamp(), coalesce((SELECT highest FROM clock), 'epoch')`

	// Losing the last of these does no harm: the brokers remember, and the next one
	// comes soon. So it waits for no disk and no standby.
	raiseClock = `
INSERT INTO clock (highest) SELECT $1 WHERE set_config('synchronous_commit', 'off', true) <> ''
ON CONFLICT (one) DO UPDATE SET highest = excluded.highest WHERE clock.highest < excluded.highest - $2::interval`
)

// ClockError says that nothing is issued or renewed because of a clock. It is an
// ErrUnavailable.
type ClockError struct {
	// Detail says whose clock it is, and by how much.
	Detail string
}

// Error implements error.
func (e *ClockError) Error() string { return e.Detail }

// Unwrap makes it an ErrUnavailable.
func (*ClockError) Unwrap() error { return ErrUnavailable }

// clock is what a store knows of the time.
type clock struct {
	now       func() time.Time     // ours
	elapsed   func() time.Duration // monotonic, since the store was opened
	measuring sync.Mutex
	seen      atomic.Pointer[moment]
	wake      chan struct{} // one place
}

// moment is what one look at the database's clock told.
type moment struct {
	elapsed time.Duration // when, on the monotonic clock
	there   time.Time     // by the database
	offset  time.Duration // database minus ours
	highest time.Time     // that we know of, as it has moved on since
	row     time.Time     // as it was read
	held    time.Time     // what the row ought to be, where we know better; zero: we don't
	wrong   *ClockError   // nil: both clocks are right
}

func (m *moment) at(elapsed time.Duration) time.Time { return m.there.Add(elapsed - m.elapsed) }

func newClock(config *Config) *clock {
	c := &clock{now: config.Now, elapsed: config.Elapsed, wake: make(chan struct{}, 1)}
	if c.elapsed == nil {
		opened := config.Now()
		c.elapsed = func() time.Duration { return config.Now().Sub(opened) }
	}
	return c
}

// Now is the time by the database's clock. What is written with it is refused by
// the database when it is off by more than MaxSkew.
func (s *Store) Now() time.Time {
	return s.clock.seen.Load().at(s.clock.elapsed()).UTC().Truncate(time.Microsecond)
}

// Later is the time by which leases end: that of Now, or, while the database's
// clock is behind the highest time that it ever showed, that one as it has moved
// on since. A clock that fell back lets no credential live longer.
func (s *Store) Later() time.Time {
	m, now := s.clock.seen.Load(), s.Now()
	if highest := m.highest.Add(s.clock.elapsed() - m.elapsed).UTC().Truncate(time.Microsecond); highest.After(now) {
		return highest
	}
	return now
}

// CheckClock returns a ClockError while nothing may be issued or renewed. It asks
// nobody: it says what the last look told, and whether our clock was set since.
func (s *Store) CheckClock() error {
	m := s.clock.seen.Load()
	offset := s.ClockOffset()
	if (offset - m.offset).Abs() > stepNoticed {
		s.clock.look() // somebody set our clock, or the machine slept
	}
	if m.wrong != nil {
		return m.wrong
	}
	if offset.Abs() > MaxSkew {
		return offBy(offset)
	}
	return nil
}

// ClockOffset is the database's clock minus ours, as far as is known.
func (s *Store) ClockOffset() time.Duration {
	return s.clock.seen.Load().at(s.clock.elapsed()).Sub(s.clock.now().Round(0))
}

func offBy(offset time.Duration) *ClockError {
	way := "behind"
	if offset < 0 {
		way = "ahead of"
	}
	return &ClockError{Detail: fmt.Sprintf("this broker's clock is %s %s the database's, and may be %s off: nothing is issued or renewed here until one of them is set right",
		rounded(offset.Abs()), way, MaxSkew)}
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// look has the clock looked at soon. It never blocks.
func (c *clock) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// MeasureClock looks at the database's clock now, and raises the highest. The
// store does it by itself every few seconds.
func (s *Store) MeasureClock(ctx context.Context) error {
	s.clock.measuring.Lock()
	defer s.clock.measuring.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	conn, err := s.config.Pool.Acquire(ctx) // before the clock is read: connecting takes its time
	if err != nil {
		return unavailable("reading the database's clock", err)
	}
	defer conn.Release()
	began := s.clock.elapsed()
	var there, row time.Time
	if err := conn.QueryRow(ctx, readClock).Scan(&there, &row); err != nil {
		return unavailable("reading the database's clock", err)
	}
	took := s.clock.elapsed() - began
	ours := s.clock.now().Round(0).Add(-took / 2)
	next, raise := judge(s.clock.seen.Load(), &look{elapsed: began + took/2, there: there, row: row, ours: ours, unsure: took / 2})
	s.clock.seen.Store(next)
	if raise.IsZero() {
		return nil
	}
	// A broker starts, and knows the time, on a database that takes no writes.
	_, err = conn.Exec(ctx, raiseClock, raise, raiseAfter)
	s.raised(err)
	return nil
}

// look is one look at the clocks: there and row as the database gave them, ours
// at the same moment, give or take unsure.
type look struct {
	elapsed          time.Duration
	there, row, ours time.Time
	unsure           time.Duration
}

// judge says what a look tells after what was known before (nil: nothing), and
// what the row is to be raised to; zero: it stays.
func judge(before *moment, l *look) (next *moment, raise time.Time) {
	next = &moment{elapsed: l.elapsed, there: l.there, offset: l.there.Sub(l.ours), highest: l.row, row: l.row}
	if before != nil && !l.row.Before(before.row) { // else a person set the row back: what we remember is void
		next.recall(before, l)
	}
	latest := next.row
	if next.held.After(latest) {
		latest = next.held
		raise = latest
	}
	if behind := latest.Sub(next.there); behind-l.unsure > MaxSkew {
		next.wrong = &ClockError{Detail: fmt.Sprintf("the database's clock is %s behind the latest time that it ever showed: it was set back, or a standby with a late clock was promoted; "+
			"nothing is issued or renewed until it is past that time", rounded(behind))}
		return next, raise
	}
	if next.offset.Abs()-l.unsure > MaxSkew {
		next.wrong = offBy(next.offset)
		return next, raise
	}
	// Two clocks agree: what the database's shows now is the highest. One that leapt
	// ahead alone is not believed, so that it heals when it is set right.
	next.highest, next.held = next.there, time.Time{}
	if raise.IsZero() && next.there.Sub(l.row) > raiseAfter {
		raise = next.there
	}
	return next, raise
}

// recall adds what was known before.
func (m *moment) recall(before *moment, l *look) {
	if remembered := before.highest.Add(l.elapsed - before.elapsed); remembered.After(m.highest) {
		m.highest = remembered
	}
	// A slow answer tells less than what was reckoned, unless it contradicts it.
	if reckoned := before.at(l.elapsed); before.wrong == nil && l.unsure > clockPause && l.there.Sub(reckoned).Abs() <= l.unsure {
		m.there, m.offset = reckoned, reckoned.Sub(l.ours)
	}
	// When we see it fall, what we remember goes to the row. From there on the row
	// alone says when it is over, here and at the others, and stands still.
	m.held = before.held
	if before.wrong == nil && m.highest.Sub(m.there)-l.unsure > MaxSkew {
		m.held = m.highest
	}
}

// clockLoop looks at the clock every few seconds, every second while it is wrong
// or can't be read, and soon where somebody asks for it.
func (s *Store) clockLoop(ctx context.Context) {
	for wait := clockInterval; ; {
		if !pause(ctx, wait, s.clock.wake) || !pause(ctx, clockPause, nil) {
			return
		}
		before := s.clock.seen.Load().wrong
		err := s.MeasureClock(ctx)
		if err != nil && ctx.Err() == nil {
			s.config.Logger.WarnContext(ctx, "the database's clock could not be read", "error", err)
		}
		wrong := s.clock.seen.Load().wrong
		switch {
		case wrong != nil && before == nil:
			s.config.Logger.ErrorContext(ctx, "a clock is wrong", "error", wrong)
		case wrong == nil && before != nil:
			s.config.Logger.InfoContext(ctx, "the clocks are right again")
		}
		if wait = clockInterval; err != nil || wrong != nil || s.Health() != nil {
			wait = clockAgain
		}
	}
}

// pause waits, or until somebody wakes it; false when ctx has ended.
func pause(ctx context.Context, wait time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return true
}
