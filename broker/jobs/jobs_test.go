package jobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

type fixture struct {
	*brokertest.Broker
	store *leases.Store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Broker: brokertest.New(t, brokertest.Options{Idle: true})}
	var err error
	f.store, err = leases.Open(t.Context(), leases.Config{
		Pool: f.Base.Pool, Audit: f.Base.Recorder, Handles: f.Base.Root.RowSealer(), Claims: f.Base.Root.Hasher(keys.SessionClaims),
		Installation: f.Base.Installation, Tenant: instance.Tenant, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.store.Close)
	return f
}

func (f *fixture) jobs(t *testing.T, page int) *jobs.Jobs {
	t.Helper()
	j, err := jobs.New(jobs.Config{
		Pool: f.Base.Pool, Store: f.store, Audit: f.Base.Recorder, Tenant: instance.Tenant, Notify: func(string) {}, Page: page, Settle: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func (f *fixture) revoker(t *testing.T) *revoker.Revoker {
	t.Helper()
	r, err := revoker.New(revoker.Config{
		Store: f.store, Installation: f.Base.Installation, Issuers: map[string]issuers.Issuer{brokertest.IssuerDB: f.DB, brokertest.IssuerOther: f.Other},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func why() leases.Why { return leases.Why{Actor: "admin", Reason: "broken into"} }

func (f *fixture) step(t *testing.T, j *jobs.Jobs) {
	t.Helper()
	if _, err := j.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestGoesOnAfterACrash: whoever walked dies with its claim, another goes on, and
// each lease is begun and ended once. What was issued later is not touched.
func TestGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.jobs(t, 3)
	var held []string
	for range 10 {
		held = append(held, f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID)
	}
	other := f.Exchange(f.Job(), "payments/other-db").Credentials[0].LeaseID
	job, err := first.Create(t.Context(), jobs.Selector{Issuer: brokertest.IssuerDB}, why())
	if err != nil || job.Matched != len(held) || job.AtLeast {
		t.Fatalf("%+v %v", job, err)
	}
	f.step(t, first)
	begun, err := first.Get(t.Context(), job.ID)
	if err != nil || begun.Begun == 0 || begun.Begun == len(held) {
		t.Fatalf("after one step %+v %v", begun, err)
	}
	// It claims the job once more, and is gone.
	f.Exec(`UPDATE revocation_jobs SET claimed_until = now() + interval '1 hour'`)
	second := f.jobs(t, 3)
	f.step(t, second)
	if again, err := second.Get(t.Context(), job.ID); err != nil || again.Begun != begun.Begun {
		t.Fatalf("a job that somebody is at went on: %+v %v", again, err)
	}
	f.Exec(`UPDATE revocation_jobs SET claimed_until = now() - interval '1 minute'`)
	r := f.revoker(t)
	brokertest.Poll(t, "the job is done", func() bool {
		f.Exec(`UPDATE revocation_jobs SET claimed_until = now() - interval '1 minute' WHERE state = 'running'`)
		f.step(t, second)
		if _, err := r.RunOnce(t.Context(), brokertest.IssuerDB); err != nil {
			t.Fatal(err)
		}
		job, err = second.Get(t.Context(), job.ID)
		return err == nil && job.State == jobs.Done
	})
	if job.Begun != len(held) || job.Ended != len(held) || job.Failed != 0 {
		t.Errorf("%+v", job)
	}
	if n := f.Count(`SELECT count(*) FROM audit_events WHERE type = 'lease.revoking' AND body LIKE '%broken into%'`); n != len(held) {
		t.Errorf("%d leases were begun on record, want %d", n, len(held))
	}
	if l, err := f.store.Get(t.Context(), other); err != nil || l.State != leases.Active {
		t.Errorf("another issuer's is %v, %v", l.State, err)
	}
	if n := f.Count(`SELECT count(*) FROM audit_events WHERE subject LIKE 'job_%'`); n != 2 {
		t.Errorf("%d events of the job, want that it was made and that it is done", n)
	}
	if n := f.Count(`SELECT count(*) FROM revocation_queue`); n != 0 {
		t.Errorf("%d are left in the queue", n)
	}
}

// TestDueComesFirst: what comes to its end is taken before what a job revokes, and
// what a paused job has begun stays where it is.
func TestDueComesFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, r := f.jobs(t, 100), f.revoker(t)
	for range 20 {
		f.Exchange(f.Job(), "payments/deploy-db")
	}
	job, err := j.Create(t.Context(), jobs.Selector{Policy: "payments", Grant: "deploy-db"}, why())
	if err != nil {
		t.Fatal(err)
	}
	f.step(t, j)
	if n := f.Count(`SELECT count(*) FROM leases WHERE state = 'revoking'`); n != 20 {
		t.Fatalf("%d are no longer good for anything, want 20", n)
	}
	if paused, err := j.Pause(t.Context(), job.ID, "admin"); err != nil || paused.State != jobs.Paused {
		t.Fatalf("%+v %v", paused, err)
	}
	if n, err := r.RunOnce(t.Context(), brokertest.IssuerDB); n != 0 || err != nil {
		t.Fatalf("of a paused job %d were taken: %v", n, err)
	}
	if resumed, err := j.Resume(t.Context(), job.ID, "admin"); err != nil || resumed.State != jobs.Running {
		t.Fatalf("%+v %v", resumed, err)
	}
	own := f.Exchange(f.Job(), "payments/read-db").Credentials[0].LeaseID
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second' WHERE id = $1`, own)
	claimed, _, err := f.store.Claim(t.Context(), brokertest.IssuerDB, 8, time.Minute)
	if err != nil || len(claimed) != 1 || claimed[0].ID != own {
		t.Fatalf("first comes %v, want what is due: %v", claimed, err)
	}
	queued, took, err := f.store.ClaimQueued(t.Context(), brokertest.IssuerDB, 8, time.Minute)
	if err != nil || len(queued) != 8 || took != 8 {
		t.Fatalf("then come %d, want 8 of the job: %v", len(queued), err)
	}
	if err := f.store.Release(t.Context(), append(queued, claimed...)); err != nil {
		t.Fatal(err)
	}
	if n := f.Count(`SELECT count(*) FROM leases WHERE state = 'revoking' AND due_at <= now() + interval '2 seconds'`); n != 9 {
		t.Errorf("%d are due after they were given back, want 9", n)
	}
	brokertest.Poll(t, "all are taken back", func() bool {
		if _, err := r.RunOnce(t.Context(), brokertest.IssuerDB); err != nil {
			t.Fatal(err)
		}
		return len(f.DB.Live()) == 0
	})
}

// TestTakenFromTheQueueByOneThatDied: another broker takes it over when the claim
// runs out, not before, and each lease ends once.
func TestTakenFromTheQueueByOneThatDied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, r := f.jobs(t, 100), f.revoker(t)
	const n = 6
	for range n {
		f.Exchange(f.Job(), "payments/deploy-db")
	}
	job, err := j.Create(t.Context(), jobs.Selector{Issuer: brokertest.IssuerDB}, why())
	if err != nil {
		t.Fatal(err)
	}
	f.step(t, j)
	dead, _, err := f.store.ClaimQueued(t.Context(), brokertest.IssuerDB, n-2, time.Hour)
	if err != nil || len(dead) != n-2 {
		t.Fatalf("%d were taken: %v", len(dead), err)
	}
	for want := range 2 {
		if worked, err := r.RunOnce(t.Context(), brokertest.IssuerDB); err != nil || worked != 2-2*want {
			t.Fatalf("%d were worked on while the claims of the dead one hold: %v", worked, err)
		}
	}
	if n := len(f.DB.Live()); n != len(dead) {
		t.Errorf("%d users are left, want those that it had claimed", n)
	}
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second' WHERE due_at > now()`) // an hour later
	brokertest.Poll(t, "the job is done", func() bool {
		f.Exec(`UPDATE revocation_jobs SET claimed_until = now() - interval '1 minute' WHERE state = 'running'`)
		f.step(t, j)
		if _, err := r.RunOnce(t.Context(), brokertest.IssuerDB); err != nil {
			t.Fatal(err)
		}
		job, err = j.Get(t.Context(), job.ID)
		return err == nil && job.State == jobs.Done
	})
	if done, err := f.store.Complete(t.Context(), dead[0].Lease); err != nil || done {
		t.Errorf("one that was dead ended it again: %v %v", done, err)
	}
	if got := f.Count(`SELECT count(*) FROM audit_events WHERE type = 'lease.revoked'`); got != n || job.Ended != n || len(f.DB.Live()) != 0 {
		t.Errorf("%d ends on record of %d leases, %d users left, %+v", got, n, len(f.DB.Live()), job)
	}
}

// TestThousands: three thousand leases, two who walk and two who revoke.
func TestThousands(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 3000
	id := f.Exchange(f.Job(), "payments/sign").Credentials[0].LeaseID
	f.Exec(`
INSERT INTO leases SELECT (jsonb_populate_record(l, jsonb_build_object('id', left(l.id, 24) || lpad(n::text, 6, '0')))).*
FROM leases l, generate_series(2, $2::int) n WHERE l.id = $1`, id, n)
	f.Exec(`
INSERT INTO audit_events SELECT (jsonb_populate_record(e, jsonb_build_object('id', left(e.id, 24) || lpad(n::text, 6, '0'), 'subject', left($1, 24) || lpad(n::text, 6, '0')))).*
FROM audit_events e, generate_series(2, $2::int) n WHERE e.subject = $1`, id, n)
	job, err := f.jobs(t, 250).Create(t.Context(), jobs.Selector{Issuer: brokertest.IssuerJWT}, why())
	if err != nil || job.Matched != n {
		t.Fatalf("%+v %v", job, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	for range 2 {
		go func() {
			f.jobs(t, 250).Run(ctx)
			ended <- struct{}{}
		}()
	}
	brokertest.Poll(t, "the job is done", func() bool {
		job, err = f.jobs(t, 250).Get(t.Context(), job.ID)
		return err == nil && job.State == jobs.Done
	})
	cancel()
	<-ended
	<-ended
	if job.Begun != n || job.Ended != n {
		t.Errorf("%+v", job)
	}
	if got := f.Count(`SELECT count(DISTINCT subject) FROM audit_events WHERE type = 'lease.expired' AND body LIKE '%broken into%'`); got != n {
		t.Errorf("%d have an end of their own, want %d", got, n)
	}
	f.Exec(`DELETE FROM audit_events WHERE subject LIKE left($1, 24) || '%' AND subject <> $1`, id) // copies verify as nobody's
	f.Exec(`DELETE FROM leases WHERE id <> $1`, id)
}

// TestOverHTTP: who may, and what is refused.
func TestOverHTTP(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Exchange(f.Job(), "payments/deploy-db")
	viewer, operator := f.Admin("viewer"), f.Admin("operator")
	for body, want := range map[string]int{
		`{"reason":"x"}`: 400, `{"selector":{},"reason":"x"}`: 400, `{"selector":{"policy":"payments"},"all":true,"reason":"x"}`: 400,
		`{"selector":{"policy":"payments"}}`: 400, `{"selector":{"color":"red"},"reason":"x"}`: 400, `{"selector":{"state":"revoked"},"reason":"x"}`: 400,
		`{"selector":{"policy":"payments"},"dry_run":true}`: 200, `{"all":true,"reason":"x"}`: 202,
	} {
		if a := f.Do(http.MethodPost, "/v1/leases/revoke", operator, json.RawMessage(body)); a.Status != want {
			t.Errorf("%s: %d %s, want %d", body, a.Status, a.Body, want)
		}
	}
	if a := f.Do(http.MethodPost, "/v1/leases/revoke", viewer, json.RawMessage(`{"all":true,"reason":"x"}`)); a.Status != 403 {
		t.Errorf("a viewer: %d %s", a.Status, a.Body)
	}
	var id string
	if err := f.Base.Pool.QueryRow(t.Context(), `SELECT id FROM revocation_jobs`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/v1/jobs": 200, "/v1/jobs/" + id: 200, "/v1/jobs/job_none": 404, "/v1/jobs?cursor=x": 400, "/v1/leases?stuck=true": 200, "/v1/leases?state=stuck": 200, "/v1/leases?stuck=no": 400} {
		if a := f.Do(http.MethodGet, path, viewer, nil); a.Status != want {
			t.Errorf("%s: %d %s, want %d", path, a.Status, a.Body, want)
		}
	}
	for i, verb := range []string{"pause", "pause", "resume"} {
		if a := f.Do(http.MethodPost, fmt.Sprintf("/v1/jobs/%s/%s", id, verb), operator, nil); a.Status != 200 {
			t.Errorf("%d %s: %d %s", i, verb, a.Status, a.Body)
		}
	}
}
