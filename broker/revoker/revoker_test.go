package revoker_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// fixture is a broker whose own revoker rests, and a store and a revoker of ours.
type fixture struct {
	*brokertest.Broker
	store *leases.Store
	*revoker.Revoker
	seen *observer
}

// observer counts what a revoker says.
type observer struct {
	revoked, failed, stuck atomic.Int32
	longest                atomic.Int64 // lag
}

func (o *observer) Revoked(_ string, lag time.Duration) {
	o.revoked.Add(1)
	for before := o.longest.Load(); int64(lag) > before && !o.longest.CompareAndSwap(before, int64(lag)); before = o.longest.Load() {
	}
}

func (o *observer) Failed(_ string, stuck bool) {
	o.failed.Add(1)
	if stuck {
		o.stuck.Add(1)
	}
}

func newFixture(t *testing.T, options brokertest.Options) *fixture {
	t.Helper()
	options.Idle = true
	f := &fixture{Broker: brokertest.New(t, options), seen: &observer{}}
	f.store = f.newStore(t)
	f.Revoker = f.another(t, f.seen)
	return f
}

func (f *fixture) newStore(t *testing.T) *leases.Store {
	t.Helper()
	store, err := leases.Open(t.Context(), leases.Config{
		Pool: f.Base.Pool, Audit: f.Base.Recorder, Handles: f.Base.Root.RowSealer(), Claims: f.Base.Root.Hasher(keys.SessionClaims), Installation: f.Base.Installation, Tenant: instance.Tenant, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// another is one more revoker on the same database.
func (f *fixture) another(t *testing.T, seen *observer) *revoker.Revoker {
	t.Helper()
	r, err := revoker.New(revoker.Config{
		Store: f.newStore(t), Installation: f.Base.Installation, Observe: seen, RevokeTime: 2 * time.Second,
		Issuers: map[string]issuers.Issuer{brokertest.IssuerDB: f.DB, brokertest.IssuerOther: f.Other},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run lets revokers work until the test ends.
func run(t *testing.T, revokers ...*revoker.Revoker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, r := range revokers {
		running.Go(func() { r.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (f *fixture) get(t *testing.T, id string) *leases.Lease {
	t.Helper()
	l, err := f.store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (f *fixture) begin(t *testing.T, id string) {
	t.Helper()
	if _, err := f.store.BeginRevoke(t.Context(), []string{id}, leases.Why{Actor: "test", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	f.due(id)
}

// due makes a lease due, also for a store that believes the database's clock to
// be a little behind. One that a running revoker has taken back meanwhile stays so.
func (f *fixture) due(id string) {
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second' WHERE id = $1 AND due_at IS NOT NULL`, id)
}

func (f *fixture) once(t *testing.T, want int) {
	t.Helper()
	if worked, err := f.RunOnce(t.Context(), brokertest.IssuerDB); err != nil || worked != want {
		t.Fatalf("worked on %d, want %d: %v", worked, want, err)
	}
}

func (f *fixture) dueAt(t *testing.T, id string) time.Time {
	t.Helper()
	var at time.Time
	if err := f.Base.Pool.QueryRow(t.Context(), `SELECT due_at FROM leases WHERE id = $1`, id).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestRetriesForEver(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	id := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	f.begin(t, id)
	f.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error { return issuers.ErrRejected }})
	const tries = 40
	for i := range tries {
		f.once(t, 1)
		pause := time.Until(f.dueAt(t, id))
		if pause <= 0 || pause > 5*time.Minute || (i > 10 && pause < 2*time.Minute) {
			t.Fatalf("after try %d it waits for %s", i+1, pause)
		}
		f.once(t, 0) // not before its time
		if l := f.get(t, id); l.State != leases.Revoking || l.Attempts != i+1 || l.Stuck != (i >= 32) {
			t.Fatalf("after try %d: %s, %d attempts, stuck %v", i+1, l.State, l.Attempts, l.Stuck)
		}
		f.due(id)
	}
	f.DB.Set(brokertest.Hooks{})
	f.once(t, 1)
	if l := f.get(t, id); l.State != leases.Revoked || l.Stuck || l.LastError != "" {
		t.Errorf("%s, stuck %v, %q", l.State, l.Stuck, l.LastError)
	}
	if f.seen.failed.Load() != tries || f.seen.revoked.Load() != 1 || f.seen.stuck.Load() != tries-32 {
		t.Errorf("%d failed, %d stuck, %d revoked", f.seen.failed.Load(), f.seen.stuck.Load(), f.seen.revoked.Load())
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for failures := range 2000 {
		whole := min(500*time.Millisecond<<min(failures, 12), 5*time.Minute)
		if got := revoker.Backoff(failures); got < whole/2 || got >= whole {
			t.Fatalf("after %d failures %s, want between half of %s and all of it", failures, got, whole)
		}
	}
}

// TestStuckWhenBlocked, and what a target says, in whatever bytes, is on record.
func TestStuckWhenBlocked(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain": "it owns a table", "long": strings.Repeat("x", 999) + strings.Repeat("é", 600), "odd": "it owns \x00 a table \xff\xfe", "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, brokertest.Options{})
			id := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
			f.begin(t, id)
			f.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
				return fmt.Errorf("%w: %s", issuers.ErrBlocked, text)
			}})
			f.once(t, 1)
			l := f.get(t, id)
			if !l.Stuck || l.Attempts != 1 || !strings.HasPrefix(l.LastError, "revocation blocked: ") || len(l.LastError) > 1100 || l.State != leases.Revoking {
				t.Fatalf("%s, stuck %v, %d attempts, %q", l.State, l.Stuck, l.Attempts, l.LastError)
			}
			// Later than one whose target is only away, which comes again within half a second.
			if wait := time.Until(f.dueAt(t, id)); wait < time.Second || wait > 5*time.Second {
				t.Errorf("a stuck one is tried again in %s", wait)
			}
			f.DB.Set(brokertest.Hooks{})
			f.due(id)
			f.once(t, 1)
			if l := f.get(t, id); l.State != leases.Revoked || l.Stuck {
				t.Errorf("%s, stuck %v", l.State, l.Stuck)
			}
		})
	}
}

// TestNotFoundIsNoAnswerBeforeSettled: a create that is still on its way must
// not land behind a revocation that was called done.
func TestNotFoundIsNoAnswerBeforeSettled(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{IssueTime: 2 * time.Second})
	f.DB.Set(brokertest.Hooks{Issue: func(context.Context, *issuers.IssueRequest) error { return issuers.ErrUnavailable }})
	if a := f.TryExchange(f.Job(), "payments/deploy-db"); a.Status != 502 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var id string
	if err := f.Base.Pool.QueryRow(t.Context(), `SELECT id FROM leases`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	settled := f.get(t, id).SettledAt
	f.once(t, 1)
	if l := f.get(t, id); l.State != leases.Revoking || l.Stuck || !f.dueAt(t, id).Equal(settled) {
		t.Fatalf("%s, stuck %v, due at %s, want revoking and due at %s", l.State, l.Stuck, f.dueAt(t, id), settled)
	}
	// Asked before that time, answered after it: still no answer.
	asked := make(chan struct{})
	f.DB.Set(brokertest.Hooks{Revoked: func(ctx context.Context, _ *issuers.RevokeRequest) error {
		close(asked)
		for f.store.Now().Before(settled.Add(10 * time.Millisecond)) {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}})
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second', settled_at = now() + interval '1 second' WHERE id = $1 AND due_at IS NOT NULL`, id)
	settled = f.get(t, id).SettledAt
	f.once(t, 1)
	<-asked
	if l := f.get(t, id); l.State != leases.Revoking {
		t.Fatalf("a question that was asked too early was answered: %s", l.State)
	}
	f.DB.Set(brokertest.Hooks{})
	f.due(id)
	f.once(t, 1)
	if l := f.get(t, id); l.State != leases.Revoked {
		t.Errorf("%s", l.State)
	}
}

func TestDeadTargetKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	dead := f.Exchange(f.Job(), "payments/other-db").Credentials[0].LeaseID
	var live []string
	for range 12 { // more than there are workers
		live = append(live, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID)
	}
	hanging, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.Other.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		once.Do(func() { close(hanging) })
		<-release // not even when it is told to
		return issuers.ErrUnavailable
	}})
	f.begin(t, dead)
	run(t, f.Revoker)
	<-hanging
	for _, id := range live {
		f.begin(t, id)
	}
	f.Notify(brokertest.IssuerDB)
	brokertest.Poll(t, "the other target's credentials are taken back", func() bool { return len(f.DB.Live()) == 0 })
	if l := f.get(t, dead); l.State != leases.Revoking {
		t.Errorf("the dead target's lease is %s", l.State)
	}
	close(release)
	f.Other.Set(brokertest.Hooks{})
	brokertest.Poll(t, "it is taken back when its target is back", func() bool { return len(f.Other.Live()) == 0 })
}

// TestBreaker: a target that doesn't answer is tried with one lease at a time, what
// ends meanwhile is no longer active, and when it is back all of it goes.
func TestBreaker(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	const n = 40
	var held []string
	for range n {
		held = append(held, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID)
	}
	var at, most, calls atomic.Int32
	var silent atomic.Bool
	silent.Store(true)
	f.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		if !silent.Load() {
			return nil
		}
		if now := at.Add(1); calls.Add(1) > 24 && now > most.Load() { // those that were under way when it broke are done
			most.Store(now)
		}
		defer at.Add(-1)
		return issuers.ErrUnavailable
	}})
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second'`)
	run(t, f.Revoker)
	brokertest.Poll(t, "all are on record as being revoked", func() bool {
		return f.Count(`SELECT count(*) FROM leases WHERE state = 'revoking'`) == n
	})
	brokertest.Poll(t, "it is tried again", func() bool { return f.seen.failed.Load() > 6 })
	if tried := f.Count(`SELECT count(*) FROM leases WHERE attempts > 0`); tried > n-4 {
		t.Errorf("%d of %d were tried on a target that doesn't answer", tried, n)
	}
	if most.Load() > 1 {
		t.Errorf("it was asked %d things at once", most.Load())
	}
	silent.Store(false)
	brokertest.Poll(t, "all are taken back", func() bool { return len(f.DB.Live()) == 0 })
	brokertest.Poll(t, "and on record", func() bool {
		return f.Count(`SELECT count(*) FROM leases WHERE state = 'revoked'`) == len(held)
	})
}

// TestOverdueIsStuck, also where nobody could try it; and a sweep of many says
// each end once.
func TestOverdueIsStuck(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	late := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	soon := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	f.begin(t, late)
	f.begin(t, soon)
	f.Exec(`UPDATE leases SET revoking_at = now() - interval '11 minutes' WHERE id = $1`, late)
	if n, err := f.MarkStuck(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d were marked: %v", n, err)
	}
	if n, err := f.MarkStuck(t.Context()); n != 0 || err != nil {
		t.Errorf("%d were marked again: %v", n, err)
	}
	found, next, err := f.store.Page(t.Context(), leases.Filter{Stuck: true, Limit: 10})
	if err != nil || len(found) != 1 || found[0].ID != late || next != "" || found[0].LastError == "" {
		t.Errorf("listed as stuck: %v %q %v", found, next, err)
	}
	f.once(t, 2)
	if l := f.get(t, late); l.State != leases.Revoked || l.Stuck {
		t.Errorf("it is %s, stuck %v", l.State, l.Stuck)
	}
}

// TestPanicIsAFailure: of an issuer with a mistake in it, nothing else suffers.
func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	id := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	f.begin(t, id)
	f.DB.Set(brokertest.Hooks{Panic: true})
	f.once(t, 1)
	if l := f.get(t, id); l.State != leases.Revoking || l.Attempts != 1 || l.LastError != "the issuer panicked" {
		t.Errorf("%s, %d attempts, %q", l.State, l.Attempts, l.LastError)
	}
	f.DB.Set(brokertest.Hooks{})
	f.due(id)
	f.once(t, 1)
}

// TestNotifyWakesAtOnce: a loop that sleeps does so for up to a second.
func TestNotifyWakesAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	var held []string
	const rounds = 10
	for range rounds {
		held = append(held, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID)
	}
	run(t, f.Revoker)
	var slow int
	for i, id := range held {
		brokertest.Poll(t, "the loop sleeps", func() bool { return len(f.DB.Live()) == rounds-i })
		f.begin(t, id)
		began := time.Now()
		f.Notify(brokertest.IssuerDB)
		f.Notify("no such issuer")
		brokertest.Poll(t, "revoked", func() bool { return len(f.DB.Live()) < rounds-i })
		if time.Since(began) > 400*time.Millisecond {
			slow++
		}
	}
	if slow > rounds/3 { // one that wasn't woken would be slow more often than not
		t.Errorf("%d of %d were slow", slow, rounds)
	}
}

// TestStopFinishesWhatItBegan: a broker that is told to stop leaves no claim to run out.
func TestStopFinishesWhatItBegan(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	id := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	f.begin(t, id)
	began, release := make(chan struct{}), make(chan struct{})
	f.DB.Set(brokertest.Hooks{Revoke: func(ctx context.Context, _ *issuers.RevokeRequest) error {
		close(began)
		<-release
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		f.Run(ctx)
		close(ended)
	}()
	<-began
	cancel()
	close(release)
	<-ended
	if l := f.get(t, id); l.State != leases.Revoked {
		t.Errorf("it is %s", l.State)
	}
}

func TestUnknownIssuer(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	if _, err := f.RunOnce(t.Context(), "no such issuer"); err == nil {
		t.Error("no error")
	}
	if _, err := revoker.New(revoker.Config{}); err == nil {
		t.Error("a revoker of nothing was made")
	}
}
