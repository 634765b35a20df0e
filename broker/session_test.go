package broker_test

import (
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

// TestBroadSession: a session token asks for what its exchange was for, or, where
// the policy says broad, for what else the job may have of it.
func TestBroadSession(t *testing.T) {
	t.Parallel()
	other := strings.NewReplacer("policy: payments", "policy: other").Replace(brokertest.Policies)
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": brokertest.Policies + "session: broad\n", "other.yaml": other}})
	out := b.Exchange(b.Job(), "other/deploy-db")
	again := b.Exchange(out.Session.Token, "payments/read-db")
	if again.Session.ID != out.Session.ID {
		t.Errorf("it opened %s beside %s", again.Session.ID, out.Session.ID)
	}
	b.Exchange(out.Session.Token, "other/deploy-db")
	for _, grant := range []string{"other/read-db", "payments/night", "payments/none"} { // narrow; another job's; none
		wantCode(t, b.TryExchange(out.Session.Token, grant), 403, api.CodeNotAllowed)
	}
}

// TestMaxActivePerJob counts all tokens of one job, and no other job's.
func TestMaxActivePerJob(t *testing.T) {
	t.Parallel()
	policy := strings.Replace(brokertest.Policies, "{name: read-db, jobs: [release],", "{name: read-db, max_active_per_job: 1, jobs: [release],", 1)
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": policy}})
	first := b.Exchange(b.Token("github", map[string]any{"check_run_id": "1"}), "payments/read-db")
	refused := b.TryExchange(b.Token("github", map[string]any{"check_run_id": "1"}), "payments/read-db")
	wantCode(t, refused, 429, api.CodeTooManyLeases)
	if refused.Header.Get("Retry-After") == "" || refused.Problem.Grant != "payments/read-db" || !strings.Contains(refused.Problem.Detail, "max_active_per_job") {
		t.Errorf("%v %s", refused.Header, refused.Body)
	}
	b.Exchange(b.Token("github", map[string]any{"check_run_id": "2"}), "payments/read-db")
	if a := b.Do("POST", api.PathSessionRevoke, first.Session.Token, nil); a.Status >= 300 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	b.Exchange(b.Token("github", map[string]any{"check_run_id": "1"}), "payments/read-db")
}

// TestRevokeJob takes back what a job holds by all of its tokens, and nothing of
// another job of the same repository.
func TestRevokeJob(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := func(id string) string { return b.Token("github", map[string]any{"check_run_id": id}) }
	token := job("1")
	first, second, other := b.Exchange(token, "payments/deploy-db"), b.Exchange(job("1"), "payments/read-db", "payments/sign"), b.Exchange(job("2"), "payments/deploy-db")
	lease := first.Credentials[0].LeaseID
	body := api.RevokeRequest{Job: true, Reason: "its log leaked"}
	for _, caller := range []string{first.Session.Token, b.Admin(admin.Viewer)} {
		wantCode(t, b.Do("POST", api.PathLeases+"/"+lease+"/revoke", caller, body), 403, api.CodeNotAllowed)
	}
	operator := b.Admin(admin.Operator)
	var answer api.RevokeResponse
	if err := b.Do("POST", api.PathLeases+"/"+lease+"/revoke", operator, body).Into(&answer); err != nil || len(answer.Leases) != 3 {
		t.Fatalf("%+v, %v", answer, err)
	}
	brokertest.Poll(t, "all of the job is taken back", func() bool {
		return b.Lease(operator, lease).State == "revoked" && b.Lease(operator, second.Credentials[0].LeaseID).State == "revoked" && b.Lease(operator, second.Credentials[1].LeaseID).State == "expired"
	})
	if l := b.Lease(operator, other.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("another job's is %s", l.State)
	}
	for _, used := range []string{token, first.Session.Token, second.Session.Token} {
		if a := b.TryExchange(used, "payments/deploy-db"); a.Status != 401 {
			t.Errorf("a token of the job still brings something: %d %s", a.Status, a.Body)
		}
	}
	wantCode(t, b.Do("POST", api.PathLeases+"/lse_01J0000000000000000000000Z/revoke", operator, body), 404, api.CodeNotFound)
	if err := b.Do("POST", api.PathLeases+"/"+lease+"/revoke", operator, body).Into(&answer); err != nil || answer.State != "revoked" {
		t.Errorf("once more: %+v, %v", answer, err)
	}
}
