package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// fixture is a broker, and a reconciler of ours on its database.
type fixture struct {
	*brokertest.Broker
	*reconciler.Reconciler
	store *leases.Store
	t     testing.TB
}

func newFixture(t *testing.T, change ...func(*reconciler.Config)) *fixture {
	t.Helper()
	f := &fixture{Broker: brokertest.New(t, brokertest.Options{}), t: t}
	f.Reconciler = f.another(change...)
	return f
}

// another is one more reconciler on the same database.
func (f *fixture) another(change ...func(*reconciler.Config)) *reconciler.Reconciler {
	f.t.Helper()
	store, err := leases.Open(f.t.Context(), leases.Config{
		Pool: f.Base.Pool, Audit: f.Base.Recorder, Handles: f.Base.Root.RowSealer(), Claims: f.Base.Root.Hasher(keys.SessionClaims), Installation: f.Base.Installation, Tenant: instance.Tenant, Now: time.Now,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(store.Close)
	f.store = store
	config := reconciler.Config{
		Pool: f.Base.Pool, Store: store, Audit: f.Base.Recorder, Installation: f.Base.Installation, Tenant: instance.Tenant, Every: time.Hour, PageSize: 3,
		Targets: map[string]reconciler.Target{brokertest.IssuerDB: {Issuer: f.DB, Address: "db.example"}, brokertest.IssuerOther: {Issuer: f.Other}},
	}
	for _, c := range change {
		c(&config)
	}
	r, err := reconciler.New(config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(r.Close)
	return r
}

// plant makes a credential on the target that was made some time ago, and returns
// the id of the lease that there isn't.
func (f *fixture) plant(age time.Duration) string {
	f.t.Helper()
	made := time.Now().Add(-age)
	id := ids.New(ids.Lease, made)
	f.DB.Plant(issuers.Lease{Installation: f.Base.Installation, Tenant: instance.Tenant, ID: id, IssuedAt: made, IssueDeadline: made.Add(time.Minute)})
	f.t.Cleanup(func() { f.DB.Drop(id) }) // what a test leaves, the examination at its end would find
	return id
}

func (f *fixture) once(options reconciler.Options) *reconciler.Run {
	f.t.Helper()
	run, err := f.RunOnce(f.t.Context(), brokertest.IssuerDB, options)
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

func (f *fixture) want(run *reconciler.Run, listed, orphans, revoked, missing int) {
	f.t.Helper()
	if run.Listed != listed || run.Orphans != orphans || run.Revoked != revoked || run.Missing != missing {
		f.t.Fatalf("listed %d, orphans %d, revoked %d, missing %d; want %d, %d, %d, %d: %+v", run.Listed, run.Orphans, run.Revoked, run.Missing, listed, orphans, revoked, missing, run)
	}
	if n := f.Count(`SELECT count(*) FROM reconciliations WHERE id = $1 AND ended_at IS NOT NULL AND listed = $2 AND orphans = $3 AND revoked = $4 AND missing = $5 AND coalesce(error, '') = $6`,
		run.ID, listed, orphans, revoked, missing, run.Error); n != 1 {
		f.t.Errorf("the run is not on record as it was: %+v", run)
	}
}

func (f *fixture) events(kind, subject string) int {
	f.t.Helper()
	return f.Count(`SELECT count(*) FROM audit_events WHERE type = $1 AND ($2 = '' OR subject = $2)`, kind, subject)
}

func (f *fixture) exchange() string {
	f.t.Helper()
	return f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
}

func stands(f *fixture, id string) bool {
	return slices.Contains(f.DB.Live(), id)
}

func TestOrphansAreFoundThenTakenBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var held []string
	for range 4 {
		held = append(held, f.exchange())
	}
	orphan, young := f.plant(time.Hour), f.plant(time.Second)
	foreign := ids.New(ids.Lease, time.Now().Add(-time.Hour))
	f.DB.Plant(issuers.Lease{Installation: "otherotherot", ID: foreign})
	t.Cleanup(func() { f.DB.Drop(foreign) })

	run := f.once(reconciler.Options{DryRun: true})
	f.want(run, 6, 1, 0, 0)
	if run.Young != 1 || !stands(f, orphan) || f.events("orphan.found", "") != 1 {
		t.Errorf("a dry run: %+v, the orphan stands: %t, %d events", run, stands(f, orphan), f.events("orphan.found", ""))
	}
	report, err := f.Report(t.Context(), brokertest.IssuerDB, 10)
	if err != nil || report.OrphansTotal != 1 || report.Orphans[0].LeaseID != orphan || report.Orphans[0].Why != "there is no such lease" || report.Orphans[0].Revoked {
		t.Errorf("%+v, %v", report, err)
	}
	f.want(f.once(reconciler.Options{DryRun: true}), 6, 1, 0, 0)
	if f.events("orphan.found", "") != 1 {
		t.Error("what was found twice has two events")
	}

	f.want(f.once(reconciler.Options{Actor: "admin adm_1 x"}), 6, 1, 1, 0)
	if stands(f, orphan) || !stands(f, young) || !stands(f, foreign) {
		t.Errorf("stand: orphan %t, young %t, another installation's %t", stands(f, orphan), stands(f, young), stands(f, foreign))
	}
	for _, id := range held {
		if !stands(f, id) {
			t.Errorf("the credential of live lease %s was taken", id)
		}
	}
	if f.events("orphan.revoked", report.Orphans[0].ID) != 1 || f.events("target.reconciling", "") != 1 {
		t.Error("the revocation, or who asked for it, has no event")
	}
	f.want(f.once(reconciler.Options{}), 5, 0, 0, 0)
	if n := f.Count(`SELECT count(*) FROM orphans WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = orphans.id)`); n != 0 {
		t.Errorf("%d orphans miss events", n)
	}
}

// TestEndedLeaseIsNoLiveOne: what stands although its lease has ended is one too,
// a while after.
func TestEndedLeaseIsNoLiveOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.exchange()
	l, err := f.store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.BeginRevoke(t.Context(), []string{id}, leases.Why{Actor: "test", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	brokertest.Poll(t, "its revocation", func() bool {
		return !stands(f, id) && f.Count(`SELECT count(*) FROM leases WHERE id = $1 AND state = 'revoked'`, id) == 1
	})
	f.DB.Plant(l.Named(f.Base.Installation))
	if run := f.once(reconciler.Options{}); run.Orphans != 0 || run.Young != 1 {
		t.Errorf("a lease that has just ended: %+v", run)
	}
	f.Exec(`UPDATE leases SET ended_at = ended_at - interval '1 hour' WHERE id = $1`, id)
	f.want(f.once(reconciler.Options{}), 1, 1, 1, 0)
}

func TestMissingCredentialsAreMarkedAndFoundAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var held []string
	for range 5 {
		held = append(held, f.exchange())
	}
	l, err := f.store.Get(t.Context(), held[1])
	if err != nil {
		t.Fatal(err)
	}
	f.DB.Drop(held[1])
	f.DB.Drop(held[3])
	f.want(f.once(reconciler.Options{DryRun: true}), 3, 0, 0, 2)
	f.want(f.once(reconciler.Options{}), 3, 0, 0, 2)
	report, err := f.Report(t.Context(), brokertest.IssuerDB, 1)
	if err != nil || report.MissingTotal != 2 || len(report.Missing) != 1 || report.Missing[0].LeaseID != held[1] {
		t.Errorf("%+v, %v", report, err)
	}
	if f.events("lease.missing", held[1]) != 1 || f.events("lease.missing", held[3]) != 1 || f.events("lease.missing", "") != 2 {
		t.Error("each that is gone has one event, and nothing else")
	}
	if got, err := f.store.Get(t.Context(), held[1]); err != nil || got.State != leases.Active {
		t.Errorf("a marked lease is %s, %v: it ends at its time", got.State, err)
	}
	f.DB.Plant(l.Named(f.Base.Installation))
	f.want(f.once(reconciler.Options{}), 4, 0, 0, 1)
	// A lease that is being taken back is not missed.
	if _, err := f.store.BeginRevoke(t.Context(), []string{held[3]}, leases.Why{Actor: "test", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	f.want(f.once(reconciler.Options{}), 4, 0, 0, 0)
}

// TestNoMoreThanAFewWithoutAnOperator: a wrong database must not wipe a target.
func TestNoMoreThanAFewWithoutAnOperator(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exchange()
	for range 11 {
		f.plant(time.Hour)
	}
	run, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{})
	if !errors.Is(err, reconciler.ErrTooMany) || !strings.Contains(err.Error(), "--target db --yes") {
		t.Fatalf("%v, want ErrTooMany and what to do", err)
	}
	f.want(run, 12, 11, 0, 0)
	if len(f.DB.Live()) != 12 {
		t.Error("some were taken back")
	}
	f.DB.Drop(f.DB.Live()[0]) // the oldest: an orphan
	f.want(f.once(reconciler.Options{}), 11, 10, 10, 0)
	for range 11 {
		f.plant(time.Hour)
	}
	f.want(f.once(reconciler.Options{Force: true, Actor: "admin adm_1 x"}), 12, 11, 11, 0)
}

// TestExchangesMeanwhile: of what is issued while targets are compared, nothing is
// taken, and nothing is missed.
func TestExchangesMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *reconciler.Config) { c.Grace = time.Nanosecond; c.PageSize = 2 })
	ctx, stop := context.WithCancel(t.Context())
	var begun atomic.Int64
	var working sync.WaitGroup
	for range 2 {
		working.Go(func() {
			for ctx.Err() == nil {
				res := f.Exchange(f.Job(), "payments/deploy-db", "payments/read-db")
				begun.Add(1)
				if a := f.Do("POST", "/v1/leases/"+res.Credentials[1].LeaseID+"/revoke", res.Session.Token, nil); a.Status >= 300 {
					t.Errorf("giving back: %d %s", a.Status, a.Body)
				}
			}
		})
	}
	for runs := 0; runs < 5 || begun.Load() < 8; runs++ {
		run, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{})
		// One that ended between the list and the look at the leases is there to be taken
		// back without a grace: it was already.
		if run == nil || run.Missing != 0 || (err != nil && run.Orphans == 0) {
			t.Errorf("%+v, %v", run, err)
		}
	}
	stop()
	working.Wait()
	if n := f.Count(`SELECT count(*) FROM leases WHERE state = 'active'`); n == 0 || n != len(f.DB.Live()) {
		t.Errorf("%d active leases, and %d credentials", n, len(f.DB.Live()))
	}
	if n := f.events("lease.missing", ""); n != 0 {
		t.Errorf("%d leases were missed", n)
	}
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 6 {
		f.plant(time.Hour)
	}
	hold, listing := make(chan struct{}), make(chan struct{}, 100)
	f.DB.Set(brokertest.Hooks{List: func(context.Context, *issuers.ListRequest) (*issuers.ListResponse, error) {
		listing <- struct{}{}
		<-hold
		return nil, nil //nolint:nilnil // the target answers
	}})
	begun, done, err := f.Reconciler.Start(t.Context(), brokertest.IssuerDB, reconciler.Options{Actor: "admin adm_1 x"})
	if err != nil {
		t.Fatal(err)
	}
	<-listing
	second := f.another()
	if _, err := second.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{}); !errors.Is(err, reconciler.ErrBusy) {
		t.Errorf("a second one: %v, want ErrBusy", err)
	}
	if _, err := second.RunOnce(t.Context(), brokertest.IssuerOther, reconciler.Options{}); err != nil {
		t.Errorf("another target: %v", err)
	}
	// The first one's broker stands still for longer than its claim: the second takes over.
	f.Exec(`UPDATE reconciliation_claims SET until = now() - interval '1 second' WHERE issuer = 'db'`)
	f.DB.Set(brokertest.Hooks{})
	f.want(must(second.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{}))(t), 6, 6, 6, 0)
	close(hold)
	<-done
	if n := f.Count(`SELECT count(*) FROM reconciliations WHERE id = $1 AND error LIKE '%another broker took over%' AND revoked = 0`, begun.ID); n != 1 {
		t.Error("the first one didn't notice that it had lost its claim")
	}
	if f.events("orphan.revoked", "") != 6 {
		t.Errorf("%d of 6 have an event of their revocation", f.events("orphan.revoked", ""))
	}
}

func must(run *reconciler.Run, err error) func(*testing.T) *reconciler.Run {
	return func(t *testing.T) *reconciler.Run {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
}

func TestFailuresAreOnRecord(t *testing.T) {
	t.Parallel()
	found := func(f *fixture, after string, n int) *issuers.ListResponse {
		res := &issuers.ListResponse{Next: after + "x"}
		for i := range n {
			id := ids.New(ids.Lease, time.Now().Add(-time.Hour))
			res.Found = append(res.Found, issuers.Existing{Installation: f.Base.Installation, LeaseID: id, Name: fmt.Sprintf("%s-%d", id, i)})
		}
		return res
	}
	for name, test := range map[string]struct {
		hooks func(f *fixture) brokertest.Hooks
		want  string
	}{
		"away":  {func(*fixture) brokertest.Hooks { return brokertest.Hooks{Down: true} }, "nobody is at home"},
		"panic": {func(*fixture) brokertest.Hooks { return brokertest.Hooks{Panic: true} }, "panicked"},
		"more than asked for": {func(f *fixture) brokertest.Hooks {
			return brokertest.Hooks{List: func(context.Context, *issuers.ListRequest) (*issuers.ListResponse, error) {
				return found(f, "", 4), nil
			}}
		}, "lists 4 where 3 were asked for"},
		"circles": {func(f *fixture) brokertest.Hooks {
			return brokertest.Hooks{List: func(context.Context, *issuers.ListRequest) (*issuers.ListResponse, error) {
				return found(f, "", 1), nil
			}}
		}, "circles"},
		"no end": {func(f *fixture) brokertest.Hooks {
			return brokertest.Hooks{List: func(_ context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error) {
				return found(f, req.After, 3), nil
			}}
		}, "without an end"},
		"empty pages without an end": {func(f *fixture) brokertest.Hooks {
			return brokertest.Hooks{List: func(_ context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error) {
				return found(f, req.After, 0), nil
			}}
		}, "without one end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(c *reconciler.Config) { c.MaxListed = 20 })
			id := f.exchange()
			f.DB.Set(test.hooks(f))
			run, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{Force: true})
			f.DB.Set(brokertest.Hooks{})
			want := strings.ReplaceAll(test.want, "without one end", "one without an end")
			if err == nil || !strings.Contains(run.Error, want) || run.Revoked != 0 || run.Missing != 0 {
				t.Errorf("%+v, %v; want %q, and nothing taken back or missed", run, err, want)
			}
			if n := f.Count(`SELECT count(*) FROM reconciliations WHERE ended_at IS NOT NULL AND error IS NOT NULL`); n != 1 {
				t.Error("the failure is not on record")
			}
			if len(f.DB.Seen("Revoke")) != 0 || !stands(f, id) {
				t.Error("something was taken back after a list that failed")
			}
			if wait, err := f.Scheduled(t.Context(), brokertest.IssuerDB); err != nil || wait > 5*time.Minute {
				t.Errorf("it is tried again in %s, %v", wait, err)
			}
		})
	}
}

// TestLiesAreLeftAlone: what isn't of this installation is told, and not touched,
// whatever the issuer answers.
func TestLiesAreLeftAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old := time.Now().Add(-time.Hour)
	foreign, nobodys := ids.New(ids.Lease, old), "lse_x"
	f.DB.Set(brokertest.Hooks{List: func(context.Context, *issuers.ListRequest) (*issuers.ListResponse, error) {
		return &issuers.ListResponse{Found: []issuers.Existing{
			{Installation: "otherotherot", LeaseID: foreign, Name: "dp_other", CreatedAt: old},
			{LeaseID: foreign, Name: "dp_nobody", CreatedAt: old},
			{Installation: f.Base.Installation, LeaseID: nobodys, Name: "dp\x1b[2J" + strings.Repeat("é", 1000), CreatedAt: old},
		}}, nil
	}})
	run, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{})
	if err == nil || !strings.Contains(err.Error(), "nothing tells which lease") || run.Alien != 2 || run.Listed != 1 || run.Orphans != 1 || run.Revoked != 0 {
		t.Errorf("%+v, %v", run, err)
	}
	if calls := f.DB.Seen("Revoke"); len(calls) != 0 {
		t.Errorf("the target was told to revoke %+v", calls)
	}
}

// TestAgeByOurOwnEyes: where a target doesn't say since when, or says what can't
// be, it is since we saw it first.
func TestAgeByOurOwnEyes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := ids.New(ids.Lease, time.Now())
	f.DB.Plant(issuers.Lease{Installation: f.Base.Installation, ID: id, IssuedAt: time.Now().Add(1000 * time.Hour)})
	for range 2 {
		if run := f.once(reconciler.Options{}); run.Young != 1 || run.Orphans != 0 {
			t.Fatalf("%+v", run)
		}
	}
	f.Exec(`UPDATE orphans SET found_at = found_at - interval '1 hour'`)
	f.want(f.once(reconciler.Options{}), 1, 1, 1, 0)
}

// TestCopyDoesNothing: the credentials on the targets are the original's.
func TestCopyDoesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.plant(time.Hour)
	f.Exec(`UPDATE installation SET database_oid = '1'`)
	_, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{Force: true})
	f.Exec(`UPDATE installation SET database_oid = (SELECT oid::text FROM pg_database WHERE datname = current_database())`)
	if err == nil || !strings.Contains(err.Error(), "copy") || !stands(f, id) {
		t.Errorf("%v, and the credential stands: %t", err, stands(f, id))
	}
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *reconciler.Config) { c.DryRunFirst = true })
	first := f.plant(time.Hour)
	runs := func() int { return f.Count(`SELECT count(*) FROM reconciliations WHERE issuer = 'db'`) }
	tick := func(r *reconciler.Reconciler) {
		t.Helper()
		if _, err := r.Scheduled(t.Context(), brokertest.IssuerDB); err != nil {
			t.Fatal(err)
		}
	}
	second := f.another(func(c *reconciler.Config) { c.DryRunFirst = true })
	tick(f.Reconciler)
	tick(f.Reconciler)
	tick(second)
	if runs() != 1 || !stands(f, first) {
		t.Fatalf("%d runs, want 1 of the whole fleet; the orphan stands: %t, and nobody let it be taken", runs(), stands(f, first))
	}
	elapse := func() {
		f.Exec(`UPDATE reconciliations SET started_at = started_at - interval '2 hours', ended_at = ended_at - interval '2 hours'`)
	}
	elapse()
	f.once(reconciler.Options{DryRun: true, Actor: "admin adm_1 x"}) // doesn't count
	tick(second)
	if runs() != 3 || !stands(f, first) {
		t.Fatalf("%d runs, want 3, the last of them dry", runs())
	}
	f.want(f.once(reconciler.Options{Actor: "admin adm_1 x"}), 1, 1, 1, 0)
	next := f.plant(time.Hour)
	elapse()
	tick(f.Reconciler)
	if runs() != 5 || stands(f, next) {
		t.Errorf("%d runs, want 5; the schedule takes back from here on: %t", runs(), !stands(f, next))
	}
}

func TestWhatCanNotBeCompared(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *reconciler.Config) {
		c.Targets["blind"] = reconciler.Target{Issuer: struct{ issuers.Issuer }{c.Targets[brokertest.IssuerDB].Issuer}}
	})
	if _, err := f.RunOnce(t.Context(), "blind", reconciler.Options{}); !errors.Is(err, reconciler.ErrCannotList) {
		t.Errorf("%v, want ErrCannotList", err)
	}
	if _, err := f.RunOnce(t.Context(), "nobody", reconciler.Options{}); !errors.Is(err, reconciler.ErrUnknown) {
		t.Errorf("%v, want ErrUnknown", err)
	}
	all, err := f.Targets(t.Context())
	if err != nil || len(all) != 3 || all[0].Issuer != "blind" || all[0].CanList || !all[1].CanList || all[1].Last != nil {
		t.Errorf("%+v, %v", all, err)
	}
}
