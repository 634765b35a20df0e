package dpop

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestUse: of all that can be good at a time, each is taken once.
func TestUse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := &Verifier{}
		clock := now()
		used := map[string]time.Time{} // by key and id: iat
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			clock = clock.Add(time.Duration(rapid.IntRange(0, 90_000).Draw(t, "pass")) * time.Millisecond)
			p := &Proof{ID: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "id")), IssuedAt: clock.Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "off")) * time.Second).Truncate(time.Second)}
			p.Thumbprint[0] = byte(rapid.IntRange(0, 1).Draw(t, "key"))
			p.method, p.url = "GET", "https://a.example/"
			name := fmt.Sprint(p.Thumbprint[0], p.ID)
			if at, before := used[name]; before { // the same proof: the same iat
				p.IssuedAt = at
			}
			if p.Check(Request{Method: "GET", URL: p.url}, clock) != nil {
				continue // too old: whether it is remembered doesn't matter
			}
			err := v.Use(p, clock)
			if _, before := used[name]; before != (err != nil) {
				t.Errorf("%s: used before: %t, and %v", name, before, err)
			}
			used[name] = p.IssuedAt
		}
	})
}

func TestUseIsBounded(t *testing.T) {
	t.Parallel()
	v := &Verifier{}
	use := func(key, n int, at time.Time) error {
		p := &Proof{ID: fmt.Sprint(n)}
		p.Thumbprint[0], p.Thumbprint[1] = byte(key), byte(key>>8)
		return v.Use(p, at)
	}
	for n := range maxSeenOfKey {
		if err := use(0, n, now()); err != nil {
			t.Fatal(n, err)
		}
	}
	if err := use(0, maxSeenOfKey, now()); !errors.Is(err, ErrCrowded) {
		t.Errorf("one key takes all the room: %v", err)
	}
	if err := use(1, 0, now()); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := use(0, 0, now()); err == nil || errors.Is(err, ErrCrowded) {
		t.Errorf("what was seen is forgotten in the crowd: %v", err)
	}
	// All of the room: nobody's proof is forgotten for another.
	for key := 2; len(v.young.proofs) < maxSeen; key++ {
		for n := 0; n < maxSeenOfKey && len(v.young.proofs) < maxSeen; n++ {
			if err := use(key, n, now()); err != nil {
				t.Fatal(key, n, err)
			}
		}
	}
	if err := use(1000, 0, now()); !errors.Is(err, ErrCrowded) {
		t.Errorf("there is room without end: %v", err)
	}
	later := now().Add(2*Window + 2*time.Second)
	if err := use(1000, 0, later); err != nil || len(v.old.proofs) != maxSeen {
		t.Errorf("the room is never free again: %v", err)
	}
	if err := use(1000, 1, later.Add(time.Hour)); err != nil || len(v.old.proofs)+len(v.young.proofs) != 1 {
		t.Errorf("%v: %d and %d are remembered", err, len(v.old.proofs), len(v.young.proofs))
	}
	// A clock that was set back forgets nothing.
	if err := use(1000, 1, now()); err == nil {
		t.Error("used twice, with a clock that was set back between")
	}
}

func TestUseOnceOfMany(t *testing.T) {
	t.Parallel()
	v := &Verifier{}
	var taken atomic.Int32
	var running sync.WaitGroup
	for range 50 {
		running.Go(func() {
			if v.Use(&Proof{ID: "one"}, now()) == nil {
				taken.Add(1)
			}
		})
	}
	running.Wait()
	if taken.Load() != 1 {
		t.Errorf("taken %d times", taken.Load())
	}
}
