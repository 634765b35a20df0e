package leases_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/leases"
)

// clocks are those of a broker: one that people set, and one that nobody sets.
type clocks struct{ set atomic.Int64 }

func newClocks(t *testing.T) (*fixture, *clocks) {
	t.Helper()
	c, began := &clocks{}, time.Now()
	return newFixture(t, func(config *leases.Config) {
		config.Now = func() time.Time { return time.Now().Add(time.Duration(c.set.Load())) }
		config.Elapsed = func() time.Duration { return time.Since(began) }
	}), c
}

func (f *fixture) setHighest(t *testing.T, ahead time.Duration) {
	t.Helper()
	if _, err := f.pool.Exec(t.Context(), `UPDATE clock SET highest = clock_timestamp() + $1::interval`, ahead); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) measure(t *testing.T) {
	t.Helper()
	if err := f.MeasureClock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantClock(t *testing.T, err error, says string) {
	t.Helper()
	var clock *leases.ClockError
	if !errors.As(err, &clock) || !errors.Is(err, leases.ErrUnavailable) || !strings.Contains(clock.Detail, says) {
		t.Errorf("got %v, want a clock that is %q", err, says)
	}
}

// TestOwnClockIsSet: somebody sets the broker's clock, and nothing is given out
// from that moment on. The database's time is known all the while.
func TestOwnClockIsSet(t *testing.T) {
	f, c := newClocks(t)
	r := f.reserve(t, "deploy-db")
	f.activate(t, r)
	lease, err := f.Get(t.Context(), r.Leases[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	for step, says := range map[time.Duration]string{time.Hour: "ahead of", -time.Hour: "behind", 4 * time.Second: "ahead of"} {
		c.set.Store(int64(step))
		wantClock(t, f.CheckClock(), says)
		wantClock(t, f.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")), says)
		wantClock(t, f.Renew(t.Context(), lease, lease.ExpiresAt.Add(time.Minute), "a"), says)
		if apart := time.Since(f.Now()); apart.Abs() > time.Second {
			t.Errorf("the database's time is thought to be %s off", apart)
		}
		f.measure(t)
		wantClock(t, f.CheckClock(), says)
		c.set.Store(0)
		f.measure(t)
		if err := f.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")); err != nil {
			t.Errorf("the clock was set right: %v", err)
		}
	}
	c.set.Store(int64(time.Second))
	if err := f.CheckClock(); err != nil {
		t.Errorf("a second off: %v", err)
	}
}

// TestOwnClockIsNoticed without anybody asking for a look.
func TestOwnClockIsNoticed(t *testing.T) {
	f, c := newClocks(t)
	c.set.Store(int64(-time.Hour))
	wantClock(t, f.CheckClock(), "behind")
	c.set.Store(0)
	if err := f.CheckClock(); err != nil {
		deadline := time.Now().Add(time.Minute) // a look fell in between
		for f.CheckClock() != nil {
			if time.Now().After(deadline) {
				t.Fatalf("it is right again: %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestDatabaseClockFellBack: the row says that it was later once, as on a standby
// whose clock is late. Nothing is given out, and what ended by the later clock
// ends.
func TestDatabaseClockFellBack(t *testing.T) {
	f, _ := newClocks(t)
	r := f.reserve(t, "deploy-db") // for a minute
	f.activate(t, r)
	if claimed, _, err := f.Claim(t.Context(), "db", 10, time.Minute); err != nil || len(claimed) != 0 {
		t.Fatalf("claimed %v before its end: %v", claimed, err)
	}
	f.setHighest(t, time.Hour)
	started := f.join(t) // knows nothing but the row
	f.measure(t)
	for _, s := range []*leases.Store{f.Store, started} {
		wantClock(t, s.CheckClock(), "set back")
		if ahead := s.Later().Sub(s.Now()); ahead < 59*time.Minute || ahead > time.Hour {
			t.Errorf("the later clock is %s ahead", ahead)
		}
	}
	wantClock(t, f.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")), "set back")
	claimed, _, err := f.Claim(t.Context(), "db", 10, time.Minute)
	if err != nil || len(claimed) != 1 || claimed[0].ID != r.Leases[0].ID {
		t.Fatalf("claimed %v, want what ended by the later clock: %v", claimed, err)
	}
	if again, _, err := f.Claim(t.Context(), "db", 10, time.Minute); err != nil || len(again) != 0 {
		t.Errorf("claimed %v again within its claim: %v", again, err)
	}
	// An operator who knows that the clock was wrong then sets the row.
	f.setHighest(t, 0)
	f.measure(t)
	if err := f.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")); err != nil {
		t.Errorf("the row was set right: %v", err)
	}
	if !f.Later().Before(f.Now().Add(time.Second)) {
		t.Errorf("the later clock is still %s", f.Later())
	}
}

// TestHighestIsRaised by looking, and no more than once a second.
func TestHighestIsRaised(t *testing.T) {
	f, _ := newClocks(t)
	f.setHighest(t, -time.Minute)
	f.measure(t)
	const behind = `SELECT extract(epoch FROM clock_timestamp() - highest)::int FROM clock`
	if n := f.count(t, behind); n > 30 {
		t.Errorf("the highest is %d seconds old", n)
	}
	if _, err := f.pool.Exec(t.Context(), `DELETE FROM clock`); err != nil {
		t.Fatal(err)
	}
	f.measure(t)
	if n := f.count(t, `SELECT count(*) FROM clock WHERE highest > clock_timestamp() - interval '1 minute'`); n != 1 {
		t.Errorf("%d rows after it was lost", n)
	}
}

// TestJudge holds looks at made-up clocks against what must always be true.
func TestJudge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		w := &clockWorld{elapsed: 0, there: start, ours: start, row: start}
		j := leases.NewJudge()
		for range rapid.IntRange(1, 20).Draw(t, "looks") {
			passed := time.Duration(rapid.Int64Range(1, int64(20*time.Second)).Draw(t, "passed"))
			step := time.Duration(rapid.SampledFrom([]int64{0, 0, 0, 1, -1, 5, -5, 60, -60, 3600, -3600}).Draw(t, "step")) * time.Second
			ours := rapid.Bool().Draw(t, "ours steps")
			w.pass(passed, step, ours)
			wrong, later, raise := j.Look(w.elapsed, w.there, w.row, w.ours)
			if wrong == "" && w.there.Sub(w.ours).Abs() > leases.MaxSkew {
				t.Fatalf("the clocks are %s apart, and that is right", w.there.Sub(w.ours))
			}
			if wrong == "" && w.row.Sub(w.there) > leases.MaxSkew {
				t.Fatalf("the database's clock is %s behind its highest, and that is right", w.row.Sub(w.there))
			}
			if later.Before(w.there) || w.row.Sub(later) > leases.MaxSkew {
				t.Fatalf("the later clock shows %s, the database %s, the row %s", later, w.there, w.row)
			}
			if raise.After(w.seen) && raise.Sub(w.seen) > leases.MaxSkew {
				t.Fatalf("the row becomes %s, and two clocks that agreed would show no more than %s", raise, w.seen)
			}
			if raise.After(w.row) && rapid.Bool().Draw(t, "the write succeeds") {
				w.row = raise
			}
			// Right clocks that are past the highest are believed.
			w.pass(2*time.Hour, 0, false)
			w.ours = w.there
			w.agree()
			if wrong, _, raise := j.Look(w.elapsed, w.there, w.row, w.ours); wrong != "" && w.there.After(w.row) && w.there.After(raise) {
				t.Fatalf("both clocks are right, two hours later: %s (row %s)", wrong, raise)
			}
		}
	})
}

// clockWorld is what really is.
type clockWorld struct {
	elapsed          time.Duration
	there, ours, row time.Time
	seen             time.Time // the highest that both showed, as it has moved on since
}

func (w *clockWorld) pass(passed, step time.Duration, ours bool) {
	w.elapsed += passed
	w.there, w.ours = w.there.Add(passed), w.ours.Add(passed)
	if ours {
		w.ours = w.ours.Add(step)
	} else {
		w.there = w.there.Add(step)
	}
	w.seen = w.seen.Add(passed)
	w.agree()
}

func (w *clockWorld) agree() {
	if w.there.Sub(w.ours).Abs() <= leases.MaxSkew && w.there.After(w.seen) {
		w.seen = w.there
	}
}
