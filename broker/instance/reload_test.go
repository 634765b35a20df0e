package instance_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

func renamed(name string) string {
	return strings.ReplaceAll(brokertest.Policies, "policy: payments", "policy: "+name)
}

func elsewhere(policy string) string {
	return strings.ReplaceAll(policy, "refs/heads/main", "refs/heads/release")
}

// TestFleetConfirmation: what an operator confirms on one broker, the others go
// on with by themselves.
func TestFleetConfirmation(t *testing.T) {
	t.Parallel()
	files := map[string]string{"payments.yaml": renamed("payments"), "second.yaml": renamed("second")}
	first := brokertest.New(t, brokertest.Options{Policies: files})
	second := brokertest.New(t, brokertest.Options{Policies: files, Join: first})
	brokers := []*brokertest.Broker{first, second}
	delete(files, "second.yaml")
	var waits *reloader.ConfirmationError
	for _, b := range brokers {
		b.SetPolicies(files)
		for range 2 {
			if _, err := b.Reload(); !errors.As(err, &waits) || len(waits.Removes) != 1 {
				t.Fatalf("%v", err)
			}
		}
		if n := len(b.Log.Lines(`a set of policies waits for an operator's confirmation; the former one stays in force (hint: POST /v1/policies/reload {"confirm": "DIGEST"})`)); n != 1 {
			t.Errorf("the log says %d times that it waits", n)
		}
		b.Exchange(b.Job(), "second/sign")
	}
	out := first.Do(http.MethodPost, api.PathPoliciesReload, first.Admin(admin.Operator), api.ReloadRequest{Confirm: waits.Digest})
	if out.Status != 200 {
		t.Fatalf("%d %s", out.Status, out.Body)
	}
	if a := first.TryExchange(first.Job(), "second/sign"); a.Status != 403 {
		t.Errorf("confirmed, and the first broker answers %d", a.Status)
	}
	brokertest.Poll(t, "the second broker goes on", func() bool { return second.TryExchange(second.Job(), "second/sign").Status == 403 })
	if n := first.Count(`SELECT count(*) FROM audit_events WHERE type = 'policies.loaded' AND body LIKE '%"digest": "' || $1 || '"%' OR type = 'policies.loaded' AND body LIKE '%"digest":"' || $1 || '"%'`, waits.Digest); n != 2 {
		t.Errorf("%d events for two brokers", n)
	}
	// A confirmation doesn't last: the same step a day later is confirmed anew.
	first.Exec(`UPDATE policy_confirmations SET at = at - interval '25 hours'`)
	files["second.yaml"] = renamed("second")
	first.SetPolicies(files)
	first.MustReload()
	delete(files, "second.yaml")
	first.SetPolicies(files)
	if _, err := first.Reload(); !errors.As(err, &waits) {
		t.Errorf("an old confirmation let it through: %v", err)
	}
}

// TestStartCountsLeases that the set of the start doesn't allow, and revokes none.
func TestStartCountsLeases(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{})
	id := first.Exchange(first.Job(), "payments/deploy-db").Credentials[0].LeaseID
	first.Exchange(first.Token("github", map[string]any{"ref": "refs/heads/main", "environment": "nightly"}), "payments/night")
	second := brokertest.New(t, brokertest.Options{Join: first, RevokeOnPolicyChange: true, Policies: map[string]string{
		"payments.yaml": strings.Replace(brokertest.Policies, "refs/heads/main", "refs/heads/release", 1),
	}})
	brokertest.Poll(t, "it is counted", func() bool {
		return strings.Contains(string(second.Do(http.MethodGet, api.PathMetrics, "", nil).Body), "\ndaypass_leases_no_longer_allowed 1\n")
	})
	if l := first.Lease(first.Admin(admin.Viewer), id); l.State != "active" {
		t.Errorf("it is %s", l.State)
	}
}

// TestCountTakesTurns: with more leases than one look is long enough for, the count goes on at
// the next, and tells its result once.
func TestCountTakesTurns(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Idle: true})
	id := b.Exchange(b.Job(), "payments/deploy-db").Credentials[0].LeaseID
	const copies = 450
	b.Exec(`
INSERT INTO leases SELECT (jsonb_populate_record(l, jsonb_build_object('id', left(id, -4) || 'z' || lpad(i::text, 3, '0')))).*
FROM leases l, generate_series(1, $2) AS i WHERE id = $1`, id, copies)
	defer b.Exec(`DELETE FROM leases WHERE id LIKE left($1, -4) || 'z%'`, id)
	store, err := leases.Open(t.Context(), leases.Config{
		Pool: b.Base.Pool, Audit: b.Base.Recorder, Handles: b.Base.Root.RowSealer(), Claims: b.Base.Root.Hasher(keys.SessionClaims),
		Installation: b.Base.Installation, Tenant: instance.Tenant, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	var compared int
	var told []int
	now := time.Now()
	r, err := reloader.New(t.Context(), reloader.Config{
		Load: func(ctx context.Context) (*policies.Set, error) {
			return policies.Load(ctx, policies.Source{FS: fstest.MapFS{}}, policies.Config{})
		},
		Store: store, Logger: slog.New(slog.DiscardHandler), Observe: counted{&told},
		Allowed: func(*policies.Set, *leases.Lease, *leases.Session) (*policies.Grant, error) {
			compared++
			return nil, errors.New("no")
		},
		Notify: func(string) {}, Now: func() time.Time { now = now.Add(time.Second); return now }, // each look is long
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{200, 400, 1 + copies, 1 + copies} {
		if len(told) > 0 && want < 1+copies {
			t.Errorf("before the end it told %d", told)
		}
		if r.RunOnce(t.Context()); compared != want {
			t.Errorf("%d leases compared, want %d", compared, want)
		}
	}
	if !slices.Equal(told, []int{1 + copies}) {
		t.Errorf("it told %d, want %d once", told, 1+copies)
	}
}

type counted struct{ told *[]int }

func (counted) Loaded(string, time.Time) {}
func (counted) ReloadFailed(bool)        {}
func (counted) Pending(bool)             {}

func (c counted) NoLongerAllowed(n int) { *c.told = append(*c.told, n) }

// TestSweepFindsLateLeases: an exchange that ran while the policies changed leaves
// a lease that nobody listed; it is revoked all the same.
func TestSweepFindsLateLeases(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	b := brokertest.New(t, brokertest.Options{Idle: true, RevokeOnPolicyChange: true, Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	begun, goOn := make(chan struct{}), make(chan struct{})
	b.DB.Set(brokertest.Hooks{Issue: func(context.Context, *issuers.IssueRequest) error {
		close(begun)
		<-goOn
		return nil
	}})
	job := b.Job()
	answered := make(chan *brokertest.Answer, 1)
	go func() { answered <- b.TryExchange(job, "payments/deploy-db") }()
	<-begun
	b.SetPolicies(map[string]string{"payments.yaml": elsewhere(brokertest.Policies)})
	_, err := b.Reload() // the lease is on record: it would be revoked, and it is the only one
	waits, ok := errors.AsType[*reloader.ConfirmationError](err)
	if !ok || waits.Count != 1 {
		t.Fatalf("%v", err)
	}
	// Its row is out of sight until the set is in force, as if it came later.
	b.Exec(`UPDATE leases SET policy_digest = $1`, waits.Digest)
	b.MustReload()
	b.Exec(`UPDATE leases SET policy_digest = 'former'`)
	close(goOn)
	a := <-answered
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	ahead.Store(int64(31 * time.Second))
	b.Start()
	brokertest.Poll(t, "it is taken back", func() bool {
		return b.Count(`SELECT count(*) FROM audit_events WHERE type = 'lease.revoking' AND body LIKE '%policies no longer allow%'`) == 1
	})
}

// TestAbandonedReload says nothing of the policies: no failure, no alert.
func TestAbandonedReload(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	b.SetPolicies(map[string]string{"payments.yaml": elsewhere(brokertest.Policies)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Instance.Reload(ctx, reloader.Trigger{Actor: "daypassd", By: "test"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if text := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body); !strings.Contains(text, "daypass_policies_reload_failed 0") || !strings.Contains(text, "daypass_policies_reload_failures_total 0") {
		t.Error("it counts as a failure")
	}
	b.Exchange(b.Job(), "payments/sign")
}

// TestReloadNeedsItsRecord: no event, no change. It is made up for once the
// database is back.
func TestReloadNeedsItsRecord(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	before := b.MustReload().Digest
	b.SetPolicies(map[string]string{"payments.yaml": elsewhere(brokertest.Policies)})
	b.CloseDatabase()
	_, err := b.Reload()
	b.OpenDatabase()
	if !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("without a database: %v", err)
	}
	if text := string(b.Do(http.MethodGet, api.PathReady, "", nil).Body); !strings.Contains(text, before) {
		t.Errorf("/readyz: %s", text)
	}
	brokertest.Poll(t, "it comes into force", func() bool {
		result, err := b.Reload()
		return err == nil && result.Digest != before
	})
}
