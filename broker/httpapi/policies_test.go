package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/policies"
)

// second is a policy that tests add and remove.
const second = `
policy: second
owner: payments@example.com
environment: production
jobs:
  - {name: release, provider: github, claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}}
grants:
  - {name: more, issuer: db, role: reader, ttl: 5m}
`

func reloaded(t *testing.T, a *brokertest.Answer) api.ReloadResponse {
	t.Helper()
	var out api.ReloadResponse
	if err := a.Into(&out); a.Status != 200 || err != nil {
		t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
	}
	return out
}

func metric(b *brokertest.Broker, line string) bool {
	return strings.Contains(string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body), "\n"+line+"\n")
}

func TestReload(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	first := reloaded(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, nil))
	if first.Changed || first.Policies != 1 || first.Grants != 10 || first.Count != 0 || first.Warnings == nil || first.LeasesNoLongerAllowed == nil {
		t.Errorf("nothing had changed: %+v", first)
	}
	b.SetPolicies(map[string]string{"payments.yaml": brokertest.Policies, "second.yaml": second})
	wantProblem(t, b.TryExchange(b.Job(), "second/more"), 403, api.CodeNotAllowed)
	next := reloaded(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, `{}`))
	if !next.Changed || next.Digest == first.Digest || next.Policies != 2 || next.Grants != 11 {
		t.Errorf("%+v", next)
	}
	out := b.Exchange(b.Job(), "second/more")
	if l := b.Lease(operator, out.Credentials[0].LeaseID); l.PolicyDigest != next.Digest {
		t.Errorf("the lease names set %s, in force is %s", l.PolicyDigest, next.Digest)
	}
	for _, line := range []string{`daypass_policies_info{digest="` + next.Digest + `"} 1`, "daypass_policies_reload_failed 0", "daypass_policies_pending 0"} {
		if !metric(b, line) {
			t.Errorf("no metric %s", line)
		}
	}
	var events api.EventList
	if err := b.Do(http.MethodGet, api.PathAudit, operator, nil).Into(&events); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(events.Events, func(e api.Event) bool { return e.Type == "policies.loaded" })
	if i < 0 || events.Events[i].Data["digest"] != next.Digest || events.Events[i].Data["previous"] != first.Digest || events.Events[i].Data["trigger"] != "api" ||
		!strings.HasPrefix(events.Events[i].Actor, "admin adm_") {
		t.Errorf("no event of it, or another: %+v", events.Events)
	}
}

// TestReloadRefused: a mistake leaves everything as it was, is told whole, and
// stands in the log once.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	before := reloaded(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, nil))
	b.SetPolicies(map[string]string{"payments.yaml": brokertest.Policies, "bad.yaml": strings.ReplaceAll(second, "reader", "reader, nonsense: 1"), "worse.yaml": "policy: 1\n"})
	for range 2 {
		a := b.Do(http.MethodPost, api.PathPoliciesReload, operator, nil)
		if a.Status != 422 || a.Problem.Code != api.CodeInvalidPolicies || len(a.Problem.Mistakes) < 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		m := a.Problem.Mistakes[0]
		if m.File != "bad.yaml" || m.Line != 8 || m.Col == 0 || !strings.Contains(m.Text, "nonsense") {
			t.Errorf("the first mistake: %+v", m)
		}
	}
	if n := len(b.Log.Lines("the policies were not loaded; the former set stays in force")); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	if !metric(b, "daypass_policies_reload_failed 1") || !metric(b, "daypass_policies_reload_failures_total 2") {
		t.Error("the metrics don't show it")
	}
	if text := string(b.Do(http.MethodGet, api.PathReady, "", nil).Body); !strings.Contains(text, before.Digest) || !strings.Contains(text, "does not load") {
		t.Errorf("/readyz says %s", text)
	}
	b.Exchange(b.Job(), "payments/deploy-db")
	b.SetPolicies(map[string]string{"payments.yaml": brokertest.Policies})
	if out := reloaded(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, nil)); out.Changed || !metric(b, "daypass_policies_reload_failed 0") {
		t.Errorf("mended: %+v", out)
	}
	for _, token := range []string{b.Admin(admin.Viewer), b.Admin(admin.Redactor)} {
		wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesReload, token, nil), 403, api.CodeNotAllowed)
	}
	for _, body := range []string{`{"confirm":1}`, `{"force":true}`, `{"confirm":"a","confirm":"b"}`, `[]`, `{"confirm":"` + strings.Repeat("a", 65) + `"}`} {
		wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, body), 400, api.CodeInvalidRequest)
	}
}

// TestReloadWaits: a set that removes a policy is in force when an operator has
// confirmed just that set.
func TestReloadWaits(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": brokertest.Policies, "second.yaml": second}})
	operator := b.Admin(admin.Operator)
	b.SetPolicies(map[string]string{"payments.yaml": brokertest.Policies})
	a := b.Do(http.MethodPost, api.PathPoliciesReload, operator, nil)
	wantProblem(t, a, 409, api.CodeConfirmation)
	if a.Problem.Digest == "" || !slices.Equal(a.Problem.Removes, []string{"second"}) || a.Problem.Count != 0 {
		t.Errorf("%s", a.Body)
	}
	if !metric(b, "daypass_policies_pending 1") {
		t.Error("no metric of it")
	}
	if text := string(b.Do(http.MethodGet, api.PathReady, "", nil).Body); !strings.Contains(text, a.Problem.Digest+" waits for an operator") {
		t.Errorf("/readyz says %s", text)
	}
	b.Exchange(b.Job(), "second/more")
	wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, api.ReloadRequest{Confirm: strings.Repeat("a", 64)}), 409, api.CodeConfirmation)
	b.Exchange(b.Job(), "second/more")
	out := reloaded(t, b.Do(http.MethodPost, api.PathPoliciesReload, operator, api.ReloadRequest{Confirm: a.Problem.Digest}))
	if !out.Changed || out.Digest != a.Problem.Digest || out.Count != 2 || len(out.LeasesNoLongerAllowed) != 2 {
		t.Errorf("%+v", out)
	}
	wantProblem(t, b.TryExchange(b.Job(), "second/more"), 403, api.CodeNotAllowed)
	if !metric(b, "daypass_policies_pending 0") || !metric(b, "daypass_leases_no_longer_allowed 2") {
		t.Error("the metrics don't show it")
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'policies.confirmed' AND body LIKE '%' || $1 || '%'`, out.Digest); n != 1 {
		t.Errorf("%d events of the confirmation", n)
	}
}

type explanation struct {
	policies.Explanation

	RequestID string        `json:"request_id"`
	DecidedAt time.Time     `json:"decided_at"`
	Recorded  *api.Recorded `json:"recorded"`
	Note      string        `json:"note"`
}

func explain(t *testing.T, b *brokertest.Broker, token string, req any) explanation {
	t.Helper()
	a := b.Do(http.MethodPost, api.PathPoliciesExplain, token, req)
	var out explanation
	if err := a.Into(&out); a.Status != 200 || err != nil {
		t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
	}
	return out
}

func TestExplain(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer, job := b.Admin(admin.Viewer), b.Job()
	out := explain(t, b, viewer, api.ExplainRequest{Token: job, Grant: "payments/deploy-db"})
	if !out.Allowed || out.Job != "release" || out.Recorded != nil || len(out.Jobs) != 1 {
		t.Errorf("by token: %+v", out)
	}
	if b.Count(`SELECT count(*) FROM sessions`) != 0 {
		t.Error("explaining opened a session")
	}
	out = explain(t, b, viewer, `{"provider":"github","claims":{"repository_id":"74","repository_owner_id":"65","ref":"refs/heads/other","event_name":"push"},"grant":"payments/deploy-db","ttl":"1m","ip":"203.0.113.7","at":"2026-11-23T10:00:00Z"}`)
	if out.Allowed || len(out.Jobs) != 1 || out.Jobs[0].Missed != 1 || out.DecidedAt.Format(time.RFC3339) != "2026-11-23T10:00:00Z" {
		t.Errorf("by claims: %+v", out)
	}

	denied := b.TryExchange(b.Token("github", map[string]any{"ref": "refs/heads/other"}), "payments/deploy-db")
	wantProblem(t, denied, 403, api.CodeNotAllowed)
	if want := "daypass policy explain --request " + denied.Problem.RequestID; !strings.Contains(denied.Problem.Detail, want) {
		t.Errorf("the job is told %q", denied.Problem.Detail)
	}
	brokertest.Poll(t, "the denial is kept", func() bool { return b.Count(`SELECT count(*) FROM denials`) == 1 })
	out = explain(t, b, viewer, api.ExplainRequest{RequestID: denied.Problem.RequestID})
	if out.Allowed || out.RequestID != denied.Problem.RequestID || out.Recorded == nil || out.Recorded.Allowed || out.Recorded.Digest != out.Digest || out.Recorded.Detail == "" || out.Note != "" || out.Grant != "payments/deploy-db" {
		t.Errorf("of a denial: %+v", out)
	}

	allowed := b.Do(http.MethodPost, api.PathExchange, job, `{"grants":["payments/deploy-db",{"name":"payments/sign","ttl":"1m"}]}`)
	request := allowed.Header.Get("X-Request-Id")
	wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesExplain, viewer, api.ExplainRequest{RequestID: request}), 400, api.CodeInvalidRequest)
	wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesExplain, viewer, api.ExplainRequest{RequestID: request, Grant: "payments/limited"}), 400, api.CodeInvalidRequest)
	out = explain(t, b, viewer, api.ExplainRequest{RequestID: request, Grant: "payments/sign"})
	if !out.Allowed || !out.Recorded.Allowed || out.TTL != "1m0s" {
		t.Errorf("of an allowed request: %+v", out)
	}

	// The tree is by the set in force, and says so where that is another one.
	b.SetPolicies(map[string]string{"payments.yaml": strings.ReplaceAll(brokertest.Policies, "refs/heads/main", "refs/heads/other")})
	b.MustReload()
	out = explain(t, b, viewer, api.ExplainRequest{RequestID: denied.Problem.RequestID})
	if !out.Allowed || out.Recorded.Allowed || !strings.Contains(out.Note, "decided by set "+out.Recorded.Digest) || !strings.Contains(out.Note, out.Digest) {
		t.Errorf("after a reload: %+v", out)
	}
}

func TestExplainRefused(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer, job := b.Admin(admin.Viewer), b.Job()
	for name, body := range map[string]string{
		"nothing":                  `{}`,
		"no body":                  ``,
		"token and claims":         `{"token":"` + job + `","provider":"github","claims":{},"grant":"payments/sign"}`,
		"claims without provider":  `{"claims":{},"grant":"payments/sign"}`,
		"provider without claims":  `{"provider":"github","grant":"payments/sign"}`,
		"no grant":                 `{"token":"` + job + `"}`,
		"no such provider":         `{"provider":"gotham","claims":{},"grant":"payments/sign"}`,
		"a claim twice":            `{"provider":"github","claims":{"a":{"b":1,"b":2}},"grant":"payments/sign"}`,
		"claims that are a list":   `{"provider":"github","claims":[],"grant":"payments/sign"}`,
		"claims that are null":     `{"provider":"github","claims":null,"grant":"payments/sign"}`,
		"claims that are deep":     `{"provider":"github","claims":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `,"grant":"payments/sign"}`,
		"an unknown field":         `{"token":"` + job + `","grant":"payments/sign","x":1}`,
		"a bad time":               `{"provider":"github","claims":{},"grant":"payments/sign","at":"today"}`,
		"a bad address":            `{"provider":"github","claims":{},"grant":"payments/sign","ip":"here"}`,
		"a bad ttl":                `{"provider":"github","claims":{},"grant":"payments/sign","ttl":"soon"}`,
		"a request and more":       `{"request_id":"req_01JAAAAAAAAAAAAAAAAAAAAAAA","ttl":"1m"}`,
		"no id of a request":       `{"request_id":"lse_01JAAAAAAAAAAAAAAAAAAAAAAA"}`,
		"a token that is refused":  `{"token":"a.b.c","grant":"payments/sign"}`,
		"a session token as a job": `{"token":"` + b.Exchange(job, "payments/sign").Session.Token + `","grant":"payments/sign"}`,
	} {
		t.Run(name, func(t *testing.T) {
			wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesExplain, viewer, body), 400, api.CodeInvalidRequest)
		})
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesExplain, viewer, `{"request_id":"req_01JAAAAAAAAAAAAAAAAAAAAAAA"}`), 404, api.CodeNotFound)
	wantProblem(t, b.Do(http.MethodPost, api.PathPoliciesExplain, b.Admin(admin.Redactor), `{}`), 403, api.CodeNotAllowed)
	wantReason(t, b.Do(http.MethodPost, api.PathPoliciesExplain, job, `{}`), api.ReasonMalformed)
	wantProblem(t, b.Do(http.MethodGet, api.PathDecisions, b.Admin(admin.Redactor), nil), 403, api.CodeNotAllowed)
	for _, query := range []string{"?since=today", "?cursor=x", "?limit=0", "?what=1", "?cursor=lse_01JAAAAAAAAAAAAAAAAAAAAAAA"} {
		wantProblem(t, b.Do(http.MethodGet, api.PathDecisions+query, viewer, nil), 400, api.CodeInvalidRequest)
	}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer := b.Admin(admin.Viewer)
	other := func() string { return b.Token("github", map[string]any{"ref": "refs/heads/other", "run_attempt": "2"}) }
	first := b.Do(http.MethodPost, api.PathExchange, b.Job(), `{"grants":[{"name":"payments/deploy-db","ttl":"90s"}]}`).Header.Get("X-Request-Id")
	second := b.TryExchange(other(), "payments/sign").Problem.RequestID
	for range 5 { // a stranger's: some are kept, not all
		b.TryExchange(b.Token("github", map[string]any{"repository_id": "1"}), "payments/sign")
	}
	b.Exchange(b.Job(), "payments/sign", "payments/read-db")
	brokertest.Poll(t, "the denials are kept", func() bool { return b.Count(`SELECT count(*) FROM denials WHERE NOT sampled`) >= 1 })

	var all []api.Decision
	pages := 0
	for query := "?limit=2&since=2020-01-01T00:00:00Z"; ; pages++ {
		var page api.DecisionList
		if a := b.Do(http.MethodGet, api.PathDecisions+query, viewer, nil); a.Status != 200 || a.Into(&page) != nil || len(page.Decisions) > 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		all = append(all, page.Decisions...)
		if page.Next == "" {
			break
		}
		query = "?limit=2&cursor=" + page.Next
	}
	if pages < 2 || !slices.IsSortedFunc(all, func(a, b api.Decision) int {
		return a.At.Truncate(time.Millisecond).Compare(b.At.Truncate(time.Millisecond))
	}) {
		t.Errorf("%d pages: %+v", pages, all)
	}
	allowed, sampled := 0, 0
	for _, d := range all {
		if d.Allowed {
			allowed++
		}
		if d.Claims["repository_id"] == "1" {
			sampled++
		}
	}
	if allowed != 3 || sampled > 2 {
		t.Errorf("%d allowed, %d of strangers", allowed, sampled)
	}
	if d := all[0]; d.RequestID != first || !d.Allowed || d.Grant != "payments/deploy-db" || d.TTL != "1m30s" || d.Job != "release" || d.Provider != "github" || d.ProviderType != "github" ||
		d.Claims["repository_id"] != "74" || d.IP != "127.0.0.1" || d.Digest == "" || d.TokenExpiresAt.IsZero() || d.Subject == "" || !strings.HasPrefix(d.ID, "lse_") {
		t.Errorf("an allowed one: %+v", d)
	}
	i := slices.IndexFunc(all, func(d api.Decision) bool { return d.RequestID == second })
	if i < 0 || all[i].Allowed || !strings.HasPrefix(all[i].ID, "dec_") || all[i].Claims["run_attempt"] != "2" || !strings.Contains(all[i].Detail, "ref") || all[i].IP != "127.0.0.1" {
		t.Errorf("the denied one is %d of %+v", i, all)
	}
	var none api.DecisionList
	if a := b.Do(http.MethodGet, fmt.Sprintf("%s?since=%s", api.PathDecisions, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), viewer, nil); a.Into(&none) != nil || len(none.Decisions) != 0 {
		t.Errorf("from the future: %s", a.Body)
	}
	// A change in the database shows: the decision is left out, and can't be explained.
	b.Exec(`UPDATE denials SET claims = '{"repository_id":"74"}' WHERE request_id = $1`, second)
	var left api.DecisionList
	if a := b.Do(http.MethodGet, api.PathDecisions, viewer, nil); a.Into(&left) != nil || slices.ContainsFunc(left.Decisions, func(d api.Decision) bool { return d.RequestID == second }) {
		t.Errorf("a forged one is shown: %s", a.Body)
	}
	if a := b.Do(http.MethodPost, api.PathPoliciesExplain, viewer, api.ExplainRequest{RequestID: second}); a.Status != 500 {
		t.Errorf("a forged one is explained: %d %s", a.Status, a.Body)
	}
}
