package instance_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/issuers"
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
