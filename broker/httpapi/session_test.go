package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

func leaseIDs(list []api.Lease) []string {
	var ids []string
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestSessionTokenSeesItsOwn(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Job()
	mine, other := b.Exchange(job, "payments/deploy-db", "payments/sign"), b.Exchange(job, "payments/read-db")
	if mine.Session.ID != other.Session.ID || mine.Session.Token == other.Session.Token {
		t.Fatalf("one job token opened sessions %s and %s", mine.Session.ID, other.Session.ID)
	}
	a := b.Do(http.MethodGet, api.PathSession, mine.Session.Token, nil)
	var info api.SessionInfo
	if err := a.Into(&info); a.Status != 200 || err != nil {
		t.Fatalf("%d %v %s", a.Status, err, a.Body)
	}
	want := []string{mine.Credentials[0].LeaseID, mine.Credentials[1].LeaseID}
	slices.Sort(want)
	if got := leaseIDs(info.Leases); !slices.Equal(got, want) || info.Session.Token != "" || info.Session.ID != mine.Session.ID || !info.Session.ExpiresAt.Equal(mine.Session.ExpiresAt) {
		t.Errorf("the session shows leases %v, want %v; %+v", got, want, info.Session)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Error("a session may be cached")
	}
	foreign, stranger := other.Credentials[0].LeaseID, b.Exchange(b.Job(), "payments/deploy-db").Credentials[0].LeaseID
	for _, path := range []string{"", "/renew", "/revoke"} {
		method := map[bool]string{true: http.MethodGet, false: http.MethodPost}[path == ""]
		for _, id := range []string{foreign, stranger, "lse_01JAAAAAAAAAAAAAAAAAAAAAAA", "x", "lse_%00", "..%2Fsession"} {
			a := b.Do(method, api.PathLeases+"/"+id+path, mine.Session.Token, nil)
			wantProblem(t, a, 404, api.CodeNotFound)
			if strings.Contains(string(a.Body), foreign) {
				t.Errorf("the answer tells of somebody else's lease: %s", a.Body)
			}
		}
	}
	if l := b.Lease(mine.Session.Token, mine.Credentials[0].LeaseID); l.State != "active" || l.Session != mine.Session.ID || l.Grant != "deploy-db" || l.Policy != "payments" ||
		l.Subject != "repo:octo-org/octo-repo:ref:refs/heads/main" || l.Provider != "github" || !l.Renewable || l.MaxExpiresAt == nil {
		t.Errorf("lease: %+v", l)
	}
	for token, want := range map[string]int{mine.Session.Token: 2, other.Session.Token: 1} {
		var rules api.RuleList
		if a := b.Do(http.MethodGet, api.PathRedactionRules, token, nil); a.Status != 200 || a.Into(&rules) != nil || len(rules.Rules) != want || rules.Rules[0].ID != "daypass" {
			t.Errorf("rules: %d, want %d of them: %s", a.Status, want, a.Body)
		}
	}
	for _, path := range []string{api.PathLeases, api.PathAudit} {
		wantProblem(t, b.Do(http.MethodGet, path, mine.Session.Token, nil), 403, api.CodeNotAllowed)
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathLeases+"/"+mine.Credentials[0].LeaseID+"/forget", mine.Session.Token, `{"reason":"x"}`), 403, api.CodeNotAllowed)
}

func TestSessionTokenAsksAgain(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	first := b.Exchange(b.Job(), "payments/deploy-db")
	again := b.Exchange(first.Session.Token, "payments/deploy-db")
	if again.Session.ID != first.Session.ID || !again.Session.ExpiresAt.Equal(first.Session.ExpiresAt) || again.Session.Token == first.Session.Token || again.Credentials[0].LeaseID == first.Credentials[0].LeaseID {
		t.Errorf("asking again gave %+v after %+v", again.Session, first.Session)
	}
	for _, grant := range []string{"payments/read-db", "payments/no-such", "no-such/grant"} {
		a := b.TryExchange(first.Session.Token, grant)
		wantProblem(t, a, 403, api.CodeNotAllowed)
		if a.Problem.Claims != nil || a.Problem.Grant != "" {
			t.Errorf("more is told than that it's refused: %s", a.Body)
		}
	}
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, first.Session.Token, nil); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	wantReason(t, b.TryExchange(again.Session.Token, "payments/deploy-db"), api.ReasonExpired)
	if l := b.Lease(again.Session.Token, again.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("the lease of the later exchange is %s", l.State)
	}
}

func TestSessionRevocation(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Job()
	const exchanges = 8
	out := make([]*api.ExchangeResponse, exchanges)
	var running sync.WaitGroup
	for i := range exchanges {
		running.Go(func() {
			a := b.TryExchange(job, "payments/deploy-db")
			out[i] = &api.ExchangeResponse{}
			if err := a.Into(out[i]); a.Status != 200 || err != nil {
				t.Errorf("%d %v %s", a.Status, err, a.Body)
			}
		})
	}
	running.Wait()
	if t.Failed() {
		return
	}
	mine := out[0]
	for range 2 { // idempotent
		a := b.Do(http.MethodPost, api.PathSessionRevoke, mine.Session.Token, `{"reason":"done"}`)
		var revoked api.RevokeResponse
		if err := a.Into(&revoked); a.Status != 200 || err != nil || revoked.State != "revoked" || len(revoked.Leases) != 1 || revoked.Leases[0].State != "revoked" {
			t.Fatalf("%d %v %s", a.Status, err, a.Body)
		}
	}
	for _, o := range out[1:] {
		if l := b.Lease(o.Session.Token, o.Credentials[0].LeaseID); l.State != "active" {
			t.Errorf("the lease of another exchange is %s", l.State)
		}
	}
	wantReason(t, b.TryExchange(job, "payments/deploy-db"), api.ReasonReplayed)
	wantReason(t, b.TryExchange(mine.Session.Token, "payments/deploy-db"), api.ReasonExpired)
	if live := b.DB.Live(); len(live) != exchanges-1 {
		t.Errorf("%d users are left, want %d", len(live), exchanges-1)
	}
	for _, o := range out[1:] {
		if a := b.Do(http.MethodPost, api.PathSessionRevoke, o.Session.Token, nil); a.Status != 200 {
			t.Errorf("another exchange gives back after the session was revoked: %d %s", a.Status, a.Body)
		}
	}
	if live := b.DB.Live(); len(live) != 0 {
		t.Errorf("left: %v", live)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'session.revoked'`); n != 1 {
		t.Errorf("%d events of one revocation", n)
	}
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{SessionTTL: 3 * time.Second})
	job := b.Job()
	out := b.Exchange(job, "payments/deploy-db")
	if c := out.Credentials[0]; c.Renewable || c.ExpiresAt.After(out.Session.ExpiresAt) || time.Until(out.Session.ExpiresAt) > 3*time.Second {
		t.Errorf("lease until %s, renewable %v, session until %s", c.ExpiresAt, c.Renewable, out.Session.ExpiresAt)
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathLeases+"/"+out.Credentials[0].LeaseID+"/renew", out.Session.Token, nil), 409, api.CodeNotRenewable)
	brokertest.Poll(t, "the session's end takes its lease back", func() bool { return len(b.DB.Live()) == 0 })
	brokertest.Poll(t, "the session has ended", func() bool { return time.Now().After(out.Session.ExpiresAt.Add(time.Second)) })
	wantReason(t, b.TryExchange(job, "payments/deploy-db"), api.ReasonReplayed)
	wantReason(t, b.TryExchange(out.Session.Token, "payments/deploy-db"), api.ReasonExpired)
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil); a.Status != 200 {
		t.Errorf("giving back what has ended: %d %s", a.Status, a.Body)
	}
}

func TestWrongTokens(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Job()
	out := b.Exchange(job, "payments/deploy-db")
	lease := api.PathLeases + "/" + out.Credentials[0].LeaseID
	viewer, operator, redactor := b.Admin(admin.Viewer), b.Admin(admin.Operator), b.Admin(admin.Redactor)
	for _, c := range []struct{ method, path string }{
		{"GET", api.PathSession},
		{"POST", api.PathSessionRevoke},
		{"GET", lease},
		{"POST", lease + "/renew"},
		{"POST", lease + "/revoke"},
		{"POST", lease + "/forget"},
		{"GET", api.PathLeases},
		{"GET", api.PathAudit},
		{"GET", api.PathRedactionRules},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			wantReason(t, b.Do(c.method, c.path, job, nil), api.ReasonMalformed)
			wantReason(t, b.Do(c.method, c.path, "", nil), api.ReasonMalformed)
			wantReason(t, b.Do(c.method, c.path, strings.Repeat("a", 17<<10), nil), api.ReasonMalformed)
			wantProblem(t, b.Do(c.method, c.path, redactor, nil), 403, api.CodeNotAllowed)
			if strings.HasPrefix(c.path, api.PathSession) {
				wantProblem(t, b.Do(c.method, c.path, operator, nil), 403, api.CodeNotAllowed)
			}
			if c.method == "POST" {
				wantProblem(t, b.Do(c.method, c.path, viewer, nil), 403, api.CodeNotAllowed)
			}
		})
	}
	wantReason(t, b.TryExchange(operator, "payments/deploy-db"), api.ReasonMalformed)
	if l := b.Lease(viewer, out.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("after all that the lease is %s", l.State)
	}
	b.Exec(`UPDATE admin_tokens SET expires_at = created_at + interval '1 millisecond' WHERE role = 'viewer'`)
	wantReason(t, b.Do("GET", api.PathLeases, viewer, nil), api.ReasonExpired)
	if a := b.Do("GET", lease, operator, nil); a.Status != 200 {
		t.Errorf("an operator can't read: %d", a.Status)
	}
}
