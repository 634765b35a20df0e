package sealing_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
)

var errCrash = errors.New("the program died here")

// crashAt lets so many steps through, and then dies at each.
func crashAt(steps int) func(string) error {
	return func(string) error {
		if steps == 0 {
			return errCrash
		}
		steps--
		return nil
	}
}

func openRoot(t testing.TB, pool *pgxpool.Pool, sealer keys.Sealer) *keys.Root {
	t.Helper()
	root, err := installation.OpenRoot(t.Context(), pool, sealer, installationID)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func fingerprintOf(root *keys.Root) string {
	return fmt.Sprintf("%x", root.Hasher(keys.SessionTokens).Sum("test", nil))
}

func adopt(t testing.TB, pool *pgxpool.Pool, sealer keys.Sealer, again bool) *sealing.Wrapping {
	t.Helper()
	w := &sealing.Wrapping{Pool: pool, Sealer: sealer, Installation: installationID}
	if err := w.Adopt(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	return w
}

// older makes an installation with a root and some data keys under a sealing key,
// and values that they sealed.
func older(t testing.TB, pool *pgxpool.Pool, sealer keys.Sealer, dataKeys int) (*keys.Root, [][]byte) {
	t.Helper()
	root := openRoot(t, pool, sealer)
	adopt(t, pool, sealer, false)
	var sealed [][]byte
	for i := range dataKeys {
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: sealer})
		sealed = append(sealed, seal(t, s, fmt.Sprint(i), "secret"))
		if i < dataKeys-1 {
			exec(t, pool, `UPDATE data_keys SET retired_at = now() WHERE retired_at IS NULL`)
		}
	}
	return root, sealed
}

func TestRewrapIsInterruptedAtEachStep(t *testing.T) {
	t.Parallel()
	pool, former, next := newPool(t), newHSM(t), newHSM(t)
	root, sealed := older(t, pool, former, 4)
	both := keys.AlsoOpen(next, former)
	for step := 0; ; step++ {
		w := &sealing.Wrapping{Pool: pool, Sealer: both, Installation: installationID, Checkpoint: crashAt(min(step, 1))}
		err := w.Adopt(t.Context(), false)
		if err == nil {
			_, _, err = w.RunOnce(t.Context())
		}
		// Whatever happened, everything opens.
		if fingerprintOf(openRoot(t, pool, both)) != fingerprintOf(root) {
			t.Fatalf("step %d: another root", step)
		}
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: both})
		for i := range sealed {
			mustOpen(t, s, fmt.Sprint(i), sealed[i], "secret")
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errCrash) || step > 20 {
			t.Fatalf("step %d: %v", step, err)
		}
		// One step more than it came to.
		w.Checkpoint = crashAt(1)
		if step > 0 {
			if _, _, err := w.RunOnce(t.Context()); err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
		}
	}
	p, err := (&sealing.Wrapping{Pool: pool, Sealer: both, Installation: installationID}).Progress(t.Context())
	if err != nil || p != (sealing.Progress{Total: 5, Done: 5}) {
		t.Errorf("progress %+v, %v", p, err)
	}
	// The former key isn't needed any more.
	if fingerprintOf(openRoot(t, pool, next)) != fingerprintOf(root) {
		t.Error("another root")
	}
	alone := newSealer(t, sealing.Config{Pool: pool, Sealer: next})
	for i := range sealed {
		mustOpen(t, alone, fmt.Sprint(i), sealed[i], "secret")
	}
	if _, err := installation.OpenRoot(t.Context(), pool, former, installationID); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("with the former key alone: %v", err)
	}
}

// TestOldConfigurationUndoesNothing lets brokers with the former and with the
// next key work at once.
func TestOldConfigurationUndoesNothing(t *testing.T) {
	t.Parallel()
	pool, former, next := newPool(t), newHSM(t), newHSM(t)
	_, sealed := older(t, pool, former, 3)
	oldBroker := newSealer(t, sealing.Config{Pool: pool, Sealer: keys.AlsoOpen(former, next)})
	newBroker := newSealer(t, sealing.Config{Pool: pool, Sealer: keys.AlsoOpen(next, former)})
	adopt(t, pool, keys.AlsoOpen(next, former), false)
	adopt(t, pool, keys.AlsoOpen(former, next), false) // it starts once more
	var running sync.WaitGroup
	for range 4 {
		for _, s := range []*sealing.Sealer{oldBroker, newBroker} {
			running.Go(func() {
				if _, err := s.RunOnce(t.Context(), true); err != nil {
					t.Error(err)
				}
			})
		}
	}
	running.Wait()
	c, err := oldBroker.RunOnce(t.Context(), true)
	if err != nil || c.Rewrapped != 0 || c.Progress != (sealing.Progress{Total: 4, Done: 4}) {
		t.Errorf("%+v, %v", c, err)
	}
	for i := range sealed {
		mustOpen(t, oldBroker, fmt.Sprint(i), sealed[i], "secret")
		mustOpen(t, newBroker, fmt.Sprint(i), sealed[i], "secret")
	}
	if n := count(t, pool, `SELECT count(*) FROM data_keys WHERE sealing_key <> $1`, next.KeyID()); n != 0 {
		t.Errorf("%d data keys are wrapped by the former key", n)
	}
	// Said on purpose, the former is taken up again.
	back := adopt(t, pool, keys.AlsoOpen(former, next), true)
	if n, p, err := back.RunOnce(t.Context()); err != nil || n != 4 || p.Done != 4 {
		t.Errorf("back: %d, %+v, %v", n, p, err)
	}
}

func TestProgressTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	pool, former, next := newPool(t), newHSM(t), newHSM(t)
	_, sealed := older(t, pool, former, 2)
	w := adopt(t, pool, next, false)
	n, p, err := w.RunOnce(t.Context())
	if err != nil || n != 0 || p != (sealing.Progress{Total: 3, Unreadable: 3}) {
		t.Errorf("%d, %+v, %v", n, p, err)
	}
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: next})
	if _, err := s.Open(t.Context(), row("0"), sealed[0]); !errors.Is(err, sealing.ErrUnavailable) || !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("opening without the former key: %v", err)
	}
	former.set(true)
	w.Sealer = keys.AlsoOpen(next, former)
	if _, _, err := w.RunOnce(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("with an HSM that is away: %v", err)
	}
	former.set(false)
	status, err := w.Status(t.Context())
	if err != nil || status.Latest != next.KeyID() || len(status.DataKeys) != 2 || status.Progress.Done != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestDestroysWhatNothingRefersTo(t *testing.T) {
	t.Parallel()
	pool, token := newPool(t), newHSM(t)
	_, sealed := older(t, pool, token, 5)
	exec(t, pool, `UPDATE data_keys SET retired_at = now() - interval '25 hours' WHERE retired_at IS NOT NULL`)
	ids := make([]string, len(sealed))
	for i := range sealed {
		ids[i], _ = keys.DataKeyOf(sealed[i])
	}
	// The first is needed by a lease; the second by one that has ended; of the third
	// nobody knows where its values stand; the fourth was retired just now.
	putLease(t, pool, "0", "active", sealed[0])
	putLease(t, pool, "1", "expired", sealed[1])
	exec(t, pool, `UPDATE data_keys SET purpose = 'unheard of' WHERE id = $1`, ids[2])
	exec(t, pool, `UPDATE data_keys SET retired_at = now() WHERE id = $1`, ids[3])
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: token})
	c, err := s.RunOnce(t.Context(), true)
	if err != nil || c.Destroyed != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	for i, gone := range []bool{false, true, false, false, false} {
		if n := count(t, pool, `SELECT count(*) FROM data_keys WHERE id = $1 AND destroyed_at IS NOT NULL`, ids[i]); (n == 1) != gone {
			t.Errorf("data key %d: destroyed is %v, want %v", i, n == 1, gone)
		}
	}
	mustOpen(t, s, "0", sealed[0], "secret")
	if _, err := s.Open(t.Context(), row("1"), sealed[1]); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("under a destroyed data key: %v", err)
	}
}

func TestRunWorksUntilItIsStopped(t *testing.T) {
	t.Parallel()
	pool, former, next := newPool(t), newHSM(t), newHSM(t)
	older(t, pool, former, 3)
	adopt(t, pool, next, false)
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: keys.AlsoOpen(next, former)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	eventually(t, "all is wrapped anew", func() bool {
		return count(t, pool, `SELECT count(*) FROM data_keys WHERE sealing_key <> $1`, next.KeyID()) == 0
	})
	cancel()
	<-done
}

func putLease(t testing.TB, pool *pgxpool.Pool, id, state string, handle []byte) {
	t.Helper()
	exec(t, pool, `
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, ended_at, handle, rules, events)
VALUES ($1, 'main', 'ses', '', 'p', 'g', 'j', 'd', 'db', 'r', 'k', 'db.example:5432', 'immediate', 'github', 's', $2,
    now(), now() + interval '1 hour', now() + interval '1 hour', 60, false, now(), now(),
    CASE WHEN $2 = 'active' THEN now() + interval '1 hour' END, CASE WHEN $2 <> 'active' THEN now() END, $3, '{}', 2)`, id, state, handle)
}

// renamed is a sealing key that was restored into a token where it has another id.
type renamed struct{ keys.Sealer }

func (renamed) KeyID() string { return "another id" }

func TestRestoredUnderAnotherID(t *testing.T) {
	t.Parallel()
	pool, token := newPool(t), newHSM(t)
	root, sealed := older(t, pool, token, 2)
	restored := renamed{token.Sealer}
	if fingerprintOf(openRoot(t, pool, restored)) != fingerprintOf(root) {
		t.Error("another root")
	}
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: restored})
	mustOpen(t, s, "0", sealed[0], "secret")
	mustOpen(t, s, "new", seal(t, s, "new", "x"), "x")
	w := adopt(t, pool, restored, false)
	n, p, err := w.RunOnce(t.Context())
	if err != nil || n != 3 || p != (sealing.Progress{Total: 3, Done: 3}) {
		t.Errorf("%d, %+v, %v", n, p, err)
	}
	mustOpen(t, newSealer(t, sealing.Config{Pool: pool, Sealer: restored}), "1", sealed[1], "secret")
}
