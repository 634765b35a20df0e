package revoker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/issuers"
)

const workers = 8

// turnstile is a target on which each revocation takes one turn, which the test
// gives: time as the target counts it, however slow the machine is.
type turnstile struct {
	turns   chan struct{}
	waiting atomic.Int32
	begun   atomic.Int32
}

func newTurnstile() *turnstile { return &turnstile{turns: make(chan struct{})} }

func (s *turnstile) pass() {
	s.begun.Add(1)
	s.waiting.Add(1)
	<-s.turns
}

// give gives a turn to one that waits.
func (s *turnstile) give() {
	s.turns <- struct{}{}
	s.waiting.Add(-1)
}

// revokerOf is one for a target that takes its time.
func (f *fixture) revokerOf(t *testing.T, of ...string) *revoker.Revoker {
	t.Helper()
	config := revoker.Config{Store: f.newStore(t), Installation: f.Base.Installation, Observe: f.seen, RevokeTime: 5 * time.Minute, Workers: workers, Issuers: map[string]issuers.Issuer{}}
	for _, name := range of {
		config.Issuers[name] = f.DB
	}
	r, err := revoker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// copies makes n leases out of one, as if they had been issued with it.
func (f *fixture) copies(t *testing.T, id string, n int) {
	t.Helper()
	f.Exec(`
INSERT INTO leases SELECT (jsonb_populate_record(l, jsonb_build_object('id', left(l.id, 24) || lpad(n::text, 6, '0'), 'settled_at', l.issued_at))).*
FROM leases l, generate_series(1, $2::int) n WHERE l.id = $1`, id, n)
	t.Cleanup(func() { // they verify as nobody's
		f.Exec(`DELETE FROM audit_events WHERE subject LIKE left($1, 24) || '______' AND subject <> $1 AND subject IN (SELECT id FROM leases WHERE settled_at = issued_at)`, id)
		f.Exec(`DELETE FROM leases WHERE settled_at = issued_at AND id <> $1`, id)
	})
}

// TestMassRevocationDelaysNobody: thousands of leases that a job revokes, on a target
// that takes its time for each, cost one that comes to its end by itself no more than
// what was claimed already.
func TestMassRevocationDelaysNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	const n = 3000
	f.copies(t, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID, n-1)
	j, err := jobs.New(jobs.Config{
		Pool: f.Base.Pool, Store: f.store, Audit: f.Base.Recorder, Tenant: instance.Tenant, Notify: func(string) {}, Page: 1000, Settle: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	job, err := j.Create(t.Context(), jobs.Selector{Issuer: brokertest.IssuerDB}, leases.Why{Actor: "admin", Reason: "broken into"})
	if err != nil || job.Matched != n {
		t.Fatalf("%+v %v", job, err)
	}
	brokertest.Poll(t, "all are in the queue", func() bool {
		if _, err := j.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		return f.Count(`SELECT count(*) FROM revocation_queue WHERE waiting`) == n
	})
	own := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	target, came := newTurnstile(), make(chan int32, 1)
	f.DB.Set(brokertest.Hooks{Revoke: func(_ context.Context, req *issuers.RevokeRequest) error {
		if req.Lease.ID == own {
			came <- target.begun.Load()
			return nil
		}
		target.pass()
		return nil
	}})
	r := f.revokerOf(t, brokertest.IssuerDB)
	run(t, r)
	t.Cleanup(func() { close(target.turns) }) // before run's
	for range 5 * workers {
		target.give()
	}
	brokertest.Poll(t, "its workers are busy", func() bool { return target.waiting.Load() == workers })
	f.due(own)
	before := target.begun.Load()
	r.Notify(brokertest.IssuerDB)
	for turns := 0; ; turns++ {
		select {
		case at := <-came:
			// At work and claimed ahead: that is all that may come before it.
			if at-before > 2*workers {
				t.Errorf("%d that a job revokes came before what was due", at-before)
			}
			return
		case target.turns <- struct{}{}:
		case <-time.After(2 * time.Minute):
			t.Fatalf("after %d turns it has not come", turns)
		}
	}
}

// TestBacklogIsTakenAtFullSpeed: what came to its end while its target was away is
// taken back in no more turns, from the first that succeeds, than the bare calls
// take times 1.25.
func TestBacklogIsTakenAtFullSpeed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	const n = 240
	f.copies(t, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID, n-1)
	var away atomic.Bool
	away.Store(true)
	target := newTurnstile()
	f.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		if away.Load() {
			return issuers.ErrUnavailable
		}
		target.pass()
		return nil
	}})
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second'`)
	run(t, f.revokerOf(t, brokertest.IssuerDB))
	released := false
	t.Cleanup(func() {
		if !released {
			close(target.turns)
		}
	})
	brokertest.Poll(t, "it is away, and that is known", func() bool {
		return f.seen.failed.Load() > 6 && f.Count(`SELECT count(*) FROM leases WHERE state = 'revoking'`) == n
	})
	// As after hours of it, when tries are far apart.
	f.Exec(`UPDATE leases SET due_at = now() + interval '4 minutes' WHERE attempts > 0`)
	away.Store(false)
	brokertest.Poll(t, "the first try of a target that is back", func() bool { return target.waiting.Load() > 0 })
	rounds, left := 0, n
	for left > 0 {
		at := together(target, min(workers, left))
		if rounds == 0 {
			at = 1 // finds out that it is back
		}
		for range at {
			target.give()
		}
		left -= at
		rounds++
	}
	if bare := n / workers; rounds*4 > bare*5 {
		t.Errorf("%d turns for what bare calls do in %d", rounds, bare)
	}
	brokertest.Poll(t, "all are on record", func() bool { return f.Count(`SELECT count(*) FROM leases WHERE state = 'revoked'`) == n })
	close(target.turns)
	released = true
}

// together returns how many are at the target, once that is all that can be, or
// nobody has come for a long time: a turn that is not used counts all the same.
func together(target *turnstile, most int) int {
	deadline := time.Now().Add(10 * time.Second)
	for int(target.waiting.Load()) < most && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	return int(target.waiting.Load())
}

// TestEndsAreSeen: what leaves nothing to undo outside is counted, with its lag,
// whichever way it ends: found among what is due, swept, or while a target is away.
func TestEndsAreSeen(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	r := f.revokerOf(t, brokertest.IssuerJWT)
	for round := range int32(2) { // the second time it knows that there is something to sweep
		const n = 3
		for range n {
			f.Exchange(f.Job(), "payments/sign")
		}
		f.Exec(`UPDATE leases SET issued_at = issued_at - interval '1 hour', expires_at = now() - interval '1 minute', due_at = now() - interval '1 minute' WHERE state = 'active'`)
		if worked, err := r.RunOnce(t.Context(), brokertest.IssuerJWT); err != nil || worked != n {
			t.Fatalf("worked on %d: %v", worked, err)
		}
		if seen := f.seen.revoked.Load(); seen != (round+1)*n {
			t.Errorf("%d ends were seen after %d", seen, (round+1)*n)
		}
	}
	if lag := time.Duration(f.seen.longest.Load()); lag < time.Minute || lag > time.Hour {
		t.Errorf("a lag of %s was seen, and it was a minute", lag)
	}
	f.Exchange(f.Job(), "payments/sign")
	f.Exec(`UPDATE leases SET issued_at = issued_at - interval '1 hour', expires_at = now() - interval '1 minute', due_at = now() - interval '1 minute' WHERE state = 'active'`)
	if begun, expired, err := f.store.BeginDue(t.Context(), brokertest.IssuerJWT, 10); err != nil || begun != 1 || len(expired) != 1 {
		t.Errorf("%d begun, %v ended: %v", begun, expired, err)
	}
}
