package rerun_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/rerun"
)

const policy = `
policy: payments
owner: a@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "1", repository_owner_id: "2", event_name: push, ref: refs/heads/main}
    condition: request.time < timestamp("2026-06-01T00:00:00Z")
grants:
  - {name: db, issuer: db, role: r, ttl: 5m}
`

func decision(at time.Time, allowed bool, claims map[string]any) rerun.Decision {
	d := rerun.Decision{
		At: at, Allowed: allowed, Identity: policies.Identity{Provider: "github", ProviderType: "github", Claims: claims},
		Request: policies.Request{Grant: "payments/db"}, Detail: "then",
	}
	if allowed {
		d.Job = "old"
	}
	return d
}

func TestRun(t *testing.T) {
	set, err := policies.Load(t.Context(), policies.Source{FS: fstest.MapFS{"p.yaml": {Data: []byte(policy)}}}, policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"repository_id": "1", "repository_owner_id": "2", "event_name": "push", "ref": "refs/heads/main"}
	tag := map[string]any{"repository_id": "1", "repository_owner_id": "2", "event_name": "push", "ref": "refs/tags/v1"}
	early, late := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	run := rerun.New(set)
	run.Add(decision(early, true, claims)) // as it was
	run.Add(decision(early, false, tag))   // as it was
	run.Add(decision(early, true, tag))    // denied now, by ref
	run.Add(decision(late, true, claims))  // denied now, by the time of then
	run.Add(decision(early, false, claims))
	report := run.Report()
	if report.Decisions != 5 || report.Same != 2 || report.Denied != 2 || report.Allowed != 1 || len(report.Groups) != 2 {
		t.Fatalf("%+v", report)
	}
	denied, allowed := report.Groups[0], report.Groups[1]
	if denied.Change != rerun.Denied || denied.Job != "old" || denied.Count != 2 || !denied.First.Equal(early) || !denied.Last.Equal(late) {
		t.Errorf("%+v", denied)
	}
	if !denied.Example.At.Equal(late) || len(denied.Claims) != 1 || denied.Claims[0] != "condition" || !strings.Contains(denied.Why, "condition") {
		t.Errorf("the newest is the example: %v %q", denied.Claims, denied.Why)
	}
	if allowed.Change != rerun.Allowed || allowed.Job != "release" || allowed.Count != 1 || allowed.Why != "then" {
		t.Errorf("%+v", allowed)
	}
}
