package limit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/limit"
)

// clock is the time of a test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestRate(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := limit.NewRate(6, c.Now)
	steps := []struct {
		pass  time.Duration
		key   string
		takes int // that go through
		wait  time.Duration
	}{
		{0, "a", 6, 10 * time.Second},
		{0, "b", 6, 10 * time.Second}, // has its own
		{5 * time.Second, "a", 0, 5 * time.Second},
		{5 * time.Second, "a", 1, 10 * time.Second},
		{30 * time.Second, "a", 3, 10 * time.Second},
		{time.Hour, "a", 6, 10 * time.Second},  // no more than a minute's is kept
		{-time.Hour, "a", 0, 10 * time.Second}, // a clock that was set back locks nobody out for long
		{10 * time.Second, "a", 1, 10 * time.Second},
	}
	for i, s := range steps {
		c.step(s.pass)
		for n := range s.takes {
			if wait := r.Left(s.key); wait != 0 {
				t.Errorf("step %d: %s left after %d", i, wait, n)
			}
			if wait := r.Take(s.key); wait != 0 {
				t.Errorf("step %d: take %d has to wait %s", i, n+1, wait)
			}
		}
		if wait := r.Take(s.key); wait != s.wait {
			t.Errorf("step %d: wait %s, want %s", i, wait, s.wait)
		}
	}
	if none := limit.NewRate(0, c.Now); none.Take("a") != 0 || none.Left("a") != 0 {
		t.Error("no limit limits")
	}
}

func TestRateIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	r := limit.NewRate(50, newClock().Now)
	var through int
	var mu sync.Mutex
	var running sync.WaitGroup
	for range 200 {
		running.Go(func() {
			if r.Take("a") == 0 {
				mu.Lock()
				through++
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if through != 50 {
		t.Errorf("%d went through", through)
	}
}

// TestOtherKeysResetNobody, and hardly hinder anybody.
func TestOtherKeysResetNobody(t *testing.T) {
	t.Parallel()
	r := limit.NewRate(2, newClock().Now)
	for range 2 {
		r.Take("a")
	}
	for i := range 10_000 {
		r.Take(fmt.Sprint("stranger ", i))
	}
	if r.Take("a") == 0 {
		t.Error("a key got its bucket back")
	}
	hindered := 0
	for i := range 1000 {
		if r.Take(fmt.Sprint("newcomer ", i)) != 0 {
			hindered++
		}
	}
	if hindered > 100 {
		t.Errorf("%d of 1000 newcomers were hindered by 10,000 strangers", hindered)
	}
}

var errBad = errors.New("a bad token")

func bad(err error) bool { return errors.Is(err, errBad) }

func TestGate(t *testing.T) {
	t.Parallel()
	good, wrong := func(bool) error { return nil }, func(bool) error { return errBad }
	away := errors.New("the provider is away")
	for name, c := range map[string]struct {
		floods, asks string
		same         bool
	}{
		"the same address":       {"192.0.2.1", "192.0.2.1", true},
		"another address":        {"192.0.2.1", "192.0.2.2", false},
		"the same, mapped":       {"192.0.2.1", "::ffff:192.0.2.1", true},
		"the same /64":           {"2001:db8::1", "2001:db8::ffff:1", true},
		"another /64":            {"2001:db8::1", "2001:db8:0:1::1", false},
		"the same link, by zone": {"fe80::1%eth0", "fe80::2%eth1", true},
		"no address":             {"", "", true},
	} {
		g := limit.NewGate(3, 1, newClock().Now)
		for i := range 3 {
			if err := g.Check(t.Context(), c.floods, wrong, bad); !errors.Is(err, errBad) {
				t.Errorf("%s: failure %d: %v", name, i+1, err)
			}
		}
		err := g.Check(t.Context(), c.asks, wrong, bad)
		if often, ok := errors.AsType[*limit.Error](err); ok != c.same || (ok && (often.After != 20*time.Second || often.Limit != limit.FailedTokens)) {
			t.Errorf("%s: one failure more: %v", name, err)
		}
		if err := g.Check(t.Context(), c.asks, good, bad); err != nil {
			t.Errorf("%s: a good token: %v", name, err)
		}
		_ = g.Check(t.Context(), c.asks, func(quick bool) error {
			if quick != c.same {
				t.Errorf("%s: told to be quick: %t", name, quick)
			}
			return nil
		}, bad)
		if err := g.Check(t.Context(), c.asks, func(bool) error { return away }, bad); !errors.Is(err, away) {
			t.Errorf("%s: what is not the token's fault: %v", name, err)
		}
	}
	g := limit.NewGate(0, 0, newClock().Now)
	for range 1000 {
		if err := g.Check(t.Context(), "192.0.2.1", wrong, bad); !errors.Is(err, errBad) {
			t.Fatalf("no limit limits: %v", err)
		}
	}
}

// TestGateBoundsWhatAFloodTakes: one check at a time of an address over its
// limit, and nobody else waits for it.
func TestGateBoundsWhatAFloodTakes(t *testing.T) {
	t.Parallel()
	g := limit.NewGate(1, 1, newClock().Now)
	const flood = "192.0.2.1"
	_ = g.Check(t.Context(), flood, func(bool) error { return errBad }, bad)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	var at, most int
	var mu sync.Mutex
	running.Go(func() {
		_ = g.Check(t.Context(), flood, func(bool) error {
			close(inside)
			<-goOn
			return errBad
		}, bad)
	})
	<-inside
	for range 20 {
		running.Go(func() {
			_ = g.Check(t.Context(), flood, func(bool) error {
				mu.Lock()
				at++
				most = max(most, at)
				mu.Unlock()
				mu.Lock()
				at--
				mu.Unlock()
				return errBad
			}, bad)
		})
	}
	if err := g.Check(t.Context(), "192.0.2.2", func(bool) error { return nil }, bad); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Check(gone, flood, func(bool) error { return nil }, bad); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
	close(goOn)
	running.Wait()
	if most != 1 {
		t.Errorf("%d checks at once", most)
	}
	if err := g.Check(t.Context(), flood, func(bool) error { return nil }, bad); err != nil {
		t.Errorf("a good token from there: %v", err)
	}
}
