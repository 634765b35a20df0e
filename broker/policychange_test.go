package broker_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/reloader"
)

// elsewhere is the usual policy for another branch: jobs of main lose all of it.
func elsewhere() map[string]string {
	return map[string]string{"payments.yaml": strings.ReplaceAll(brokertest.Policies, "refs/heads/main", "refs/heads/release")}
}

func usual() map[string]string { return map[string]string{"payments.yaml": brokertest.Policies} }

func TestRenewalStopsWithThePolicy(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/read-db")
	id := out.Credentials[0].LeaseID
	renew := func(body string) *brokertest.Answer {
		return b.Do(http.MethodPost, api.PathLeases+"/"+id+"/renew", out.Session.Token, body)
	}
	// Shorter than before, so that the end has somewhere to move to.
	b.Exec(`UPDATE leases SET expires_at = date_trunc('second', issued_at) + interval '1 minute', due_at = date_trunc('second', issued_at) + interval '1 minute' WHERE id = $1`, id)
	b.SetPolicies(elsewhere())
	result := b.MustReload()
	if result.Count != 2 || len(result.NoLongerAllowed) != 2 {
		t.Errorf("of two leases it lists %+v", result)
	}
	a := renew("")
	wantCode(t, a, 409, api.CodeNotRenewable)
	if !strings.Contains(a.Problem.Detail, "policy changed") {
		t.Errorf("it says %q", a.Problem.Detail)
	}
	if live := b.DB.Live(); len(live) != 2 {
		t.Errorf("leases are kept, and %v live", live)
	}
	wantCode(t, b.TryExchange(out.Session.Token, "payments/deploy-db"), 403, api.CodeNotAllowed)
	// Of another role the grant is another grant.
	b.SetPolicies(map[string]string{"payments.yaml": strings.Replace(brokertest.Policies, "role: deployer", "role: reader", 1)})
	b.MustReload()
	wantCode(t, renew(""), 409, api.CodeNotRenewable)
	// A shorter max_ttl counts from here on.
	b.SetPolicies(map[string]string{"payments.yaml": strings.Replace(brokertest.Policies, "max_ttl: 1h", "max_ttl: 10m", 1)})
	b.MustReload()
	if a = renew(""); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	l := b.Lease(b.Admin(admin.Viewer), id)
	if life := l.ExpiresAt.Sub(l.IssuedAt); life > 10*time.Minute || life < 9*time.Minute {
		t.Errorf("with max_ttl 10m it lives for %s", life)
	}
	b.SetPolicies(usual())
	b.MustReload()
	wantCode(t, renew(`{"ttl":"0s"}`), 400, api.CodeInvalidRequest)
}

func TestRevokeOnPolicyChange(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{RevokeOnPolicyChange: true, Policies: map[string]string{
		"payments.yaml": brokertest.Policies,
		"other.yaml":    strings.NewReplacer("policy: payments", "policy: other", `repository_id: "74"`, `repository_id: "75"`).Replace(brokertest.Policies),
	}})
	other := b.Token("github", map[string]any{"repository_id": "75"})
	for range 30 {
		b.Exchange(other, "other/read-db")
	}
	lost := b.Exchange(b.Job(), "payments/deploy-db").Credentials[0].LeaseID
	files := map[string]string{
		"payments.yaml": elsewhere()["payments.yaml"],
		"other.yaml":    strings.NewReplacer("policy: payments", "policy: other", `repository_id: "74"`, `repository_id: "75"`).Replace(brokertest.Policies),
	}
	b.SetPolicies(files)
	// One of 31 is little: it is taken back without a question.
	if result := b.MustReload(); result.Count != 1 || result.NoLongerAllowed[0] != lost {
		t.Fatalf("%+v", result)
	}
	viewer := b.Admin(admin.Viewer)
	brokertest.Poll(t, "the lease is revoked", func() bool { return b.Lease(viewer, lost).State == "revoked" })
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE subject = $1 AND type = 'lease.revoking' AND body LIKE '%policies no longer allow%'`, lost); n != 1 {
		t.Errorf("%d events with the reason", n)
	}
	if live := b.DB.Live(); len(live) != 30 {
		t.Errorf("%d others live", len(live))
	}
	// All of the rest is much.
	files["other.yaml"] = strings.ReplaceAll(files["other.yaml"], "refs/heads/main", "refs/heads/release")
	b.SetPolicies(files)
	_, err := b.Reload()
	waits, ok := errors.AsType[*reloader.ConfirmationError](err)
	if !ok || waits.Count != 30 || len(waits.Leases) != 30 || len(waits.Removes) != 0 {
		t.Fatalf("%v", err)
	}
	if live := b.DB.Live(); len(live) != 30 {
		t.Errorf("unconfirmed, and %d live", len(live))
	}
	a := b.Do(http.MethodPost, api.PathPoliciesReload, b.Admin(admin.Operator), api.ReloadRequest{Confirm: waits.Digest})
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	brokertest.Poll(t, "all are revoked", func() bool { return len(b.DB.Live()) == 0 })
}

// TestReloadWhileExchanging: an exchange ends on the set that it began with, and
// what it left behind is found.
func TestReloadWhileExchanging(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	files := []map[string]string{elsewhere(), usual()}
	digests := map[string]bool{b.MustReload().Digest: true}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 3 {
		running.Go(func() {
			job := b.Job()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := b.TryExchange(job, "payments/sign", "payments/read-db"); a.Status != 200 && a.Status != 403 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
			}
		})
	}
	for i := range 20 {
		b.SetPolicies(files[i%2])
		digests[b.MustReload().Digest] = true
	}
	b.Exchange(b.Job(), "payments/sign")
	close(stop)
	running.Wait()
	if len(digests) != 2 {
		t.Errorf("%d sets were in force", len(digests))
	}
	if n := b.Count(`SELECT count(*) FROM (SELECT request_id FROM leases GROUP BY request_id HAVING count(DISTINCT policy_digest) > 1) AS mixed`); n != 0 {
		t.Errorf("%d exchanges were decided by two sets", n)
	}
}

// timed is a policy with ends that policies set: an exception's, and the token's.
func timed(until time.Time) map[string]string {
	return map[string]string{"timed.yaml": fmt.Sprintf(`
policy: timed
owner: payments@example.com
environment: production
jobs:
  - {name: never, provider: github, claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/never, event_name: push}}
  - {name: release, provider: github, claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}}
grants:
  - {name: excepted, jobs: [never], issuer: db, role: deployer, ttl: 12h, max_ttl: 24h}
  - {name: token, jobs: [release], issuer: db, role: reader, ttl: until job token expires}
  - {name: here, jobs: [here], issuer: release-jwt, ttl: 5m, with: {audience: "https://sts.example.com"}}
exceptions:
  - grant: excepted
    jobs: [{provider: github, claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}}]
    owner: payments@example.com
    reason: a migration
    until: %s
`, until.Format(time.DateOnly))}
}

func TestEndsOfPolicies(t *testing.T) {
	t.Parallel()
	tomorrow := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	files := timed(tomorrow)
	files["timed.yaml"] = strings.Replace(files["timed.yaml"], "grants:\n", `  - name: here
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
    condition: request.ip == "127.0.0.1"
grants:
`, 1)
	b := brokertest.New(t, brokertest.Options{Policies: files, SessionTTL: 24 * time.Hour})
	exp := time.Now().Add(4 * time.Minute).Truncate(time.Second)
	out := b.Exchange(b.Token("github", map[string]any{"exp": exp.Unix()}), "timed/token")
	if c := out.Credentials[0]; !c.ExpiresAt.Equal(exp) || c.Renewable {
		t.Errorf("it ends at %s, its token at %s; renewable: %t", c.ExpiresAt, exp, c.Renewable)
	}
	// By the session's token it ends with the job's token all the same.
	again := b.Exchange(out.Session.Token, "timed/token")
	if c := again.Credentials[0]; !c.ExpiresAt.Equal(exp) {
		t.Errorf("by a session token it ends at %s, the job's token at %s", c.ExpiresAt, exp)
	}
	out = b.Exchange(b.Job(), "timed/excepted")
	l := b.Lease(b.Admin(admin.Viewer), out.Credentials[0].LeaseID)
	if l.ExpiresAt.After(tomorrow) || (l.MaxExpiresAt != nil && l.MaxExpiresAt.After(tomorrow)) {
		t.Errorf("it ends at %s, renewed at %v; the exception at %s", l.ExpiresAt, l.MaxExpiresAt, tomorrow)
	}
	// A condition sees who sent the request.
	b.Exchange(b.Job(), "timed/here")
	denied := b.TryExchange(b.Token("github", map[string]any{"repository_id": "75"}), "timed/here")
	wantCode(t, denied, 403, api.CodeNotAllowed)
}

// TestEndsTooSoon: a second before its end a token can't open anything of use.
func TestEndsTooSoon(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"timed.yaml": strings.Replace(timed(time.Now().Add(24 * time.Hour))["timed.yaml"], "  - {name: here, jobs: [here], issuer: release-jwt, ttl: 5m, with: {audience: \"https://sts.example.com\"}}\n", "", 1)}})
	out := b.Exchange(b.Token("github", map[string]any{"exp": time.Now().Add(time.Minute).Unix()}), "timed/token")
	// The session of a token that ends within this second: the claims carry a MAC, so
	// the grant can only be asked for while the token lives.
	brokertest.Poll(t, "the token is refused", func() bool {
		a := b.TryExchange(b.Token("github", map[string]any{"exp": time.Now().Add(1500 * time.Millisecond).Unix()}), "timed/token")
		if a.Status == 403 && a.Problem.Grant != "timed/token" {
			t.Errorf("%s", a.Body)
		}
		return a.Status == 403 && strings.Contains(a.Problem.Detail, "less than a second")
	})
	if n := b.Count(`SELECT count(*) FROM leases WHERE expires_at - issued_at < interval '1 second'`); n != 0 || len(out.Credentials) != 1 {
		t.Errorf("%d leases of less than a second", n)
	}
}

// TestIdentityConflict: half of a name and id is refused and raised, once.
func TestIdentityConflict(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - {name: release, provider: github, claims: {repository: {name: octo-org/octo-repo, id: "74"}, ref: refs/heads/main, event_name: push}}
grants:
  - {name: sign, issuer: release-jwt, ttl: 5m, with: {audience: "https://sts.example.com"}}
`}})
	b.Exchange(b.Job(), "payments/sign")
	taken := b.TryExchange(b.Token("github", map[string]any{"repository_id": "99"}), "payments/sign")
	wantCode(t, taken, 403, api.CodeNotAllowed)
	wantCode(t, b.TryExchange(b.Token("github", map[string]any{"repository_id": "99"}), "payments/sign"), 403, api.CodeNotAllowed)
	renamed := b.TryExchange(b.Token("github", map[string]any{"repository": "octo-org/new", "sub": "repo:octo-org/new:ref:refs/heads/main"}), "payments/sign")
	wantCode(t, renamed, 403, api.CodeNotAllowed)
	brokertest.Poll(t, "both are raised", func() bool {
		return b.Count(`SELECT count(*) FROM audit_events WHERE type = 'identity.conflict'`) == 2
	})
	var events api.EventList
	for id, fits := range map[string]string{taken.Problem.RequestID: "name", renamed.Problem.RequestID: "id"} {
		if err := b.Do(http.MethodGet, api.PathAudit+"?subject="+id, b.Admin(admin.Viewer), nil).Into(&events); err != nil || len(events.Events) != 1 {
			t.Fatalf("%v: %+v", err, events)
		}
		e := events.Events[0]
		if e.Count != 1 || e.Data["fits"] != fits || e.Data["claim"] != "repository" || e.Data["job"] != "release" || e.Data["grant"] != "payments/sign" || e.Data["provider"] != "github" || e.Data["iss"] == nil || e.Data["subject"] == nil {
			t.Errorf("%+v", e)
		}
	}
	if n := len(b.Log.Lines("a token has one half of a name and an id: what the policy names was renamed, or taken over")); n != 2 {
		t.Errorf("%d warnings", n)
	}
	if text := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body); !strings.Contains(text, "daypass_identity_conflicts_total 3") {
		t.Error("not all are counted")
	}
}
