package sealing_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
)

func TestHSMIsAskedOnce(t *testing.T) {
	t.Parallel()
	pool, writer := newPool(t), newHSM(t)
	sealed := seal(t, newSealer(t, sealing.Config{Pool: pool, Sealer: writer}), "a", "secret")
	reader := &hsm{Sealer: writer.Sealer, block: make(chan struct{})}
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: reader})
	var running sync.WaitGroup
	for range 100 {
		running.Go(func() {
			if got, err := s.Open(t.Context(), row("a"), sealed); err != nil || string(got) != "secret" {
				t.Errorf("opened %q, %v", got, err)
			}
		})
	}
	eventually(t, "the HSM is asked", func() bool { return reader.asked() > 0 })
	close(reader.block)
	running.Wait()
	for range 100 {
		mustOpen(t, s, "a", sealed, "secret")
	}
	if opens := reader.asked(); opens != 1 {
		t.Errorf("the HSM was asked %d times", opens)
	}
}

func TestCacheLife(t *testing.T) {
	t.Parallel()
	pool, token, clock := newPool(t), newHSM(t), newClock()
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: token, Now: clock.Now})
	sealed := seal(t, s, "a", "secret")
	opens := token.asked
	mustOpen(t, s, "a", sealed, "secret")
	if opens() != 0 {
		t.Error("the HSM was asked for a data key that had just been made")
	}
	clock.move(31 * time.Minute)
	mustOpen(t, s, "a", sealed, "secret") // at once, and opened anew behind it
	eventually(t, "the data key is opened anew", func() bool { return opens() == 1 })
	eventually(t, "it isn't asked for again", func() bool {
		mustOpen(t, s, "a", sealed, "secret")
		return opens() == 1
	})

	// The HSM goes away: what is opened lives to its end, and no longer.
	token.set(true)
	clock.move(45 * time.Minute)
	mustOpen(t, s, "a", sealed, "secret")
	seal(t, s, "b", "sealed while the HSM is away")
	clock.move(16 * time.Minute)
	if got, err := s.Open(t.Context(), row("a"), sealed); !errors.Is(err, sealing.ErrUnavailable) || errors.Is(err, keys.ErrOpen) || got != nil {
		t.Errorf("after its life: %q, %v", got, err)
	}
	if sealed, err := s.Seal(t.Context(), row("a"), nil); !errors.Is(err, sealing.ErrUnavailable) || sealed != nil {
		t.Errorf("sealing after its life: %v", err)
	}
	// One failure speaks for those that follow.
	before := opens()
	for range 20 {
		if _, err := s.Open(t.Context(), row("a"), sealed); !errors.Is(err, sealing.ErrUnavailable) {
			t.Error(err)
		}
	}
	if opens() > before+1 {
		t.Errorf("the HSM that is away was asked %d times more", opens()-before)
	}
	token.set(false)
	clock.move(2 * time.Second)
	mustOpen(t, s, "a", sealed, "secret")
	seal(t, s, "b", "again")
}

func TestHSMThatHangs(t *testing.T) {
	t.Parallel()
	pool, writer := newPool(t), newHSM(t)
	sealed := seal(t, newSealer(t, sealing.Config{Pool: pool, Sealer: writer}), "a", "secret")
	reader := &hsm{Sealer: writer.Sealer, block: make(chan struct{})}
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: reader, Wait: 100 * time.Millisecond})
	if _, err := s.Open(t.Context(), row("a"), sealed); !errors.Is(err, sealing.ErrUnavailable) {
		t.Errorf("a call that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Seal(ctx, row("a"), nil); !errors.Is(err, sealing.ErrUnavailable) {
		t.Errorf("a caller that went: %v", err)
	}
	close(reader.block)
}

func TestCacheSize(t *testing.T) {
	t.Parallel()
	pool, token := newPool(t), newHSM(t)
	writer := newSealer(t, sealing.Config{Pool: pool, Sealer: token})
	var sealed [][]byte
	for i := range 4 {
		place := row("a")
		place.Tenant = fmt.Sprintf("t%d", i)
		value, err := writer.Seal(t.Context(), place, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, value)
	}
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: token, CacheSize: 3})
	open := func(i int) int {
		t.Helper()
		before := token.asked()
		place := row("a")
		place.Tenant = fmt.Sprintf("t%d", i)
		if _, err := s.Open(t.Context(), place, sealed[i]); err != nil {
			t.Fatal(err)
		}
		after := token.asked()
		return after - before
	}
	for step, c := range []struct{ key, asked int }{{0, 1}, {1, 1}, {2, 1}, {0, 0}, {3, 1}, {0, 0}, {1, 1}, {3, 0}, {2, 1}} {
		if got := open(c.key); got != c.asked {
			t.Errorf("step %d: data key %d took %d calls of the HSM, want %d", step, c.key, got, c.asked)
		}
	}
}

func TestDestroyedDataKeyIsForgotten(t *testing.T) {
	t.Parallel()
	pool, token, clock := newPool(t), newHSM(t), newClock()
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: token, Now: clock.Now})
	sealed := seal(t, s, "a", "secret")
	exec(t, pool, `UPDATE data_keys SET retired_at = now(), destroyed_at = now(), wrapped = NULL`)
	mustOpen(t, s, "a", sealed, "secret")
	clock.move(31 * time.Minute)
	eventually(t, "the destroyed data key is forgotten", func() bool {
		_, err := s.Open(t.Context(), row("a"), sealed)
		return errors.Is(err, keys.ErrOpen)
	})
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	pool, token := newPool(t), newHSM(t)
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: token})
	sealed := seal(t, s, "a", "secret")
	pool.Close()
	mustOpen(t, s, "a", sealed, "secret")
	seal(t, s, "a", "still")
	fresh := newSealer(t, sealing.Config{Pool: pool, Sealer: token})
	if _, err := fresh.Open(t.Context(), row("a"), sealed); !errors.Is(err, sealing.ErrUnavailable) {
		t.Errorf("opening: %v", err)
	}
	if _, err := fresh.Seal(t.Context(), row("a"), nil); !errors.Is(err, sealing.ErrUnavailable) {
		t.Errorf("sealing: %v", err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s := newSealer(t, sealing.Config{Pool: newPool(t), Sealer: newHSM(t)})
	sealed := seal(t, s, "a", "secret")
	s.Close()
	if _, err := s.Open(t.Context(), row("a"), sealed); !errors.Is(err, sealing.ErrUnavailable) {
		t.Errorf("opening: %v", err)
	}
}

func BenchmarkSealRow(b *testing.B) {
	s := newSealer(b, sealing.Config{Pool: newPool(b), Sealer: newHSM(b), Now: time.Now})
	value := make([]byte, 64)
	for b.Loop() {
		if _, err := s.Seal(b.Context(), row("lse_01"), value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenRow(b *testing.B) {
	s := newSealer(b, sealing.Config{Pool: newPool(b), Sealer: newHSM(b), Now: time.Now})
	sealed := seal(b, s, "lse_01", string(make([]byte, 64)))
	for b.Loop() {
		if _, err := s.Open(b.Context(), row("lse_01"), sealed); err != nil {
			b.Fatal(err)
		}
	}
}
