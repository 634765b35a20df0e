package broker_test

import (
	"strings"
	"testing"

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
