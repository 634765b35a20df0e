package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/issuers"
)

func TestRenew(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/read-db", "payments/sign")
	db, noMax, signed := out.Credentials[0], out.Credentials[1], out.Credentials[2]
	renew := func(id string, body any) *brokertest.Answer {
		return b.Do(http.MethodPost, api.PathLeases+"/"+id+"/renew", out.Session.Token, body)
	}
	for _, id := range []string{signed.LeaseID, noMax.LeaseID} {
		wantProblem(t, renew(id, nil), 409, api.CodeNotRenewable)
	}
	for _, body := range []string{`{"ttl":"0s"}`, `{"ttl":"5"}`, `{"TTL":"5m"}`, `{"ttl":"5m","ttl":"6m"}`, `{"ttl":"5m"} x`, `[]`, "\xff"} {
		wantProblem(t, renew(db.LeaseID, body), 400, api.CodeInvalidRequest)
	}
	var l api.Lease
	// What is shorter than what it has changes nothing.
	if a := renew(db.LeaseID, `{"ttl":"1m"}`); a.Status != 200 || a.Into(&l) != nil || !l.ExpiresAt.Equal(db.ExpiresAt) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if calls := b.DB.Seen("Renew"); len(calls) != 0 {
		t.Errorf("the target was asked to shorten a life: %v", calls)
	}
	b.Exec(`UPDATE leases SET expires_at = expires_at - interval '5 minutes' WHERE id = $1`, db.LeaseID)
	if a := renew(db.LeaseID, `{"ttl":"9h"}`); a.Status != 200 || a.Into(&l) != nil || time.Until(l.ExpiresAt) > 10*time.Minute || time.Until(l.ExpiresAt) < 9*time.Minute {
		t.Errorf("renewed for more than the grant's ttl: %d %s", a.Status, a.Body)
	}
	// Up to max_ttl, and not beyond.
	b.Exec(`UPDATE leases SET expires_at = now() + interval '10 seconds', max_expires_at = date_trunc('second', now()) + interval '60 seconds' WHERE id = $1`, db.LeaseID)
	if a := renew(db.LeaseID, nil); a.Status != 200 || a.Into(&l) != nil || !l.ExpiresAt.Equal(*l.MaxExpiresAt) || time.Until(l.ExpiresAt) > time.Minute {
		t.Errorf("renewed beyond what the policy allows: %d %s", a.Status, a.Body)
	}
	wantProblem(t, renew(db.LeaseID, nil), 409, api.CodeNotRenewable)
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE subject = $1 AND type = 'lease.renewed'`, db.LeaseID); n != 2 {
		t.Errorf("%d events of two renewals", n)
	}
	b.Exec(`UPDATE leases SET expires_at = now() + interval '10 seconds', max_expires_at = now() + interval '10 minutes' WHERE id = $1`, db.LeaseID)
	b.DB.Set(brokertest.Hooks{Renew: func(context.Context, *issuers.RenewRequest) error { return issuers.ErrUnavailable }})
	a := renew(db.LeaseID, nil)
	wantProblem(t, a, 502, api.CodeIssuerFailed)
	if a.Problem.Grant != "payments/deploy-db" {
		t.Errorf("the answer doesn't name the grant: %s", a.Body)
	}
	b.DB.Set(brokertest.Hooks{Renew: func(context.Context, *issuers.RenewRequest) error { panic("a mistake in an issuer") }})
	wantProblem(t, renew(db.LeaseID, nil), 502, api.CodeIssuerFailed)
	b.DB.Set(brokertest.Hooks{})
	b.Do(http.MethodPost, api.PathLeases+"/"+db.LeaseID+"/revoke", out.Session.Token, nil)
	wantProblem(t, renew(db.LeaseID, nil), 409, api.CodeAlreadyRevoked)
	b.Do(http.MethodPost, api.PathLeases+"/"+signed.LeaseID+"/revoke", out.Session.Token, nil)
	wantProblem(t, renew(signed.LeaseID, nil), 409, api.CodeAlreadyRevoked)
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer, operator := b.Admin(admin.Viewer), b.Admin(admin.Operator)
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign", "payments/read-db")
	db, signed, byOperator := out.Credentials[0].LeaseID, out.Credentials[1].LeaseID, out.Credentials[2].LeaseID
	for range 2 {
		a := b.Do(http.MethodPost, api.PathLeases+"/"+db+"/revoke", out.Session.Token, `{"reason":"done"}`)
		if a.Status != 200 || string(a.Body) != `{"state":"revoked"}` {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		var revoked api.RevokeResponse
		a = b.Do(http.MethodPost, api.PathLeases+"/"+signed+"/revoke", out.Session.Token, nil)
		if err := a.Into(&revoked); a.Status != 200 || err != nil || revoked.State != "revoked" || revoked.ValidElsewhereUntil == nil || !revoked.ValidElsewhereUntil.Equal(out.Credentials[1].ExpiresAt) {
			t.Fatalf("%d %v %s", a.Status, err, a.Body)
		}
	}
	if l := b.Lease(viewer, signed); l.State != "expired" || l.ValidElsewhereUntil == nil || l.EndedAt == nil || l.Renewable {
		t.Errorf("a JWT that was revoked: %+v", l)
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathLeases+"/"+byOperator+"/revoke", out.Session.Token, `{"reason":"`+strings.Repeat("x", 1001)+`"}`), 400, api.CodeInvalidRequest)
	wantProblem(t, b.Do(http.MethodPost, api.PathLeases+"/"+byOperator+"/revoke", out.Session.Token, `{"why":"x"}`), 400, api.CodeInvalidRequest)
	if a := b.Do(http.MethodPost, api.PathLeases+"/"+byOperator+"/revoke", operator, `{"reason":"a leak\u0000 of \ud800"}`); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if live := b.DB.Live(); len(live) != 0 {
		t.Errorf("left: %v", live)
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathLeases+"/lse_01JAAAAAAAAAAAAAAAAAAAAAAA/revoke", operator, nil), 404, api.CodeNotFound)
	var events api.EventList
	if a := b.Do(http.MethodGet, api.PathAudit+"?subject="+byOperator, viewer, nil); a.Into(&events) != nil || len(events.Events) != 4 {
		t.Fatalf("%d events: %s", len(events.Events), a.Body)
	}
	if e := events.Events[1]; e.Type != "lease.revoking" || !strings.HasPrefix(e.Actor, "admin adm_") || !strings.Contains(fmt.Sprint(e.Data["reason"]), "a leak") || len(e.Leaf) != 64 || len(e.MAC) != 64 {
		t.Errorf("who revoked it, and why: %+v", e)
	}
}

// TestRevokeWhenTheTargetHangs takes the five seconds that a revocation waits.
func TestRevokeWhenTheTargetHangs(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	free := make(chan struct{})
	b.DB.Set(brokertest.Hooks{Revoke: func(ctx context.Context, _ *issuers.RevokeRequest) error {
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	began := time.Now()
	a := b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil)
	var revoked api.RevokeResponse
	if err := a.Into(&revoked); a.Status != http.StatusAccepted || err != nil || revoked.State != "revoking" || len(revoked.Leases) != 1 || revoked.Leases[0].State != "revoking" {
		t.Fatalf("%d %v %s", a.Status, err, a.Body)
	}
	if took := time.Since(began); took < 4*time.Second || took > 10*time.Second {
		t.Errorf("it took %s, want about 5 s", took)
	}
	close(free)
	viewer := b.Admin(admin.Viewer)
	brokertest.Poll(t, "the work goes on", func() bool { return b.Lease(viewer, out.Credentials[0].LeaseID).State == "revoked" })
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil); a.Status != 200 {
		t.Errorf("once more: %d %s", a.Status, a.Body)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	id := b.Exchange(b.Job(), "payments/deploy-db").Credentials[0].LeaseID
	forget := func(body string) *brokertest.Answer {
		return b.Do(http.MethodPost, api.PathLeases+"/"+id+"/forget", operator, body)
	}
	wantProblem(t, forget(`{"reason":"gone"}`), 409, api.CodeNotStuck)
	for _, body := range []string{"", "{}", `{"reason":" "}`} {
		wantProblem(t, forget(body), 400, api.CodeInvalidRequest)
	}
	b.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		return fmt.Errorf("%w: it owns a table", issuers.ErrBlocked)
	}})
	b.Exec(`UPDATE leases SET due_at = now() WHERE id = $1`, id) // as if its end had come
	brokertest.Poll(t, "stuck", func() bool { return b.Lease(operator, id).Stuck })
	if l := b.Lease(operator, id); l.State != "revoking" || !strings.Contains(l.LastError, "it owns a table") || l.Attempts == 0 {
		t.Errorf("a stuck lease: %+v", l)
	}
	a := forget(`{"reason":"the server was scrapped"}`)
	var l api.Lease
	if err := a.Into(&l); a.Status != 200 || err != nil || l.State != "forgotten" {
		t.Fatalf("%d %v %s", a.Status, err, a.Body)
	}
	wantProblem(t, forget(`{"reason":"again"}`), 409, api.CodeNotStuck)
	if lines := b.Log.Lines("a lease was forgotten: its credential may still be on the target"); len(lines) != 1 || lines[0]["lease"] != id {
		t.Errorf("nobody is alerted: %v", lines)
	}
	if metrics := b.Do(http.MethodGet, api.PathMetrics, "", nil); !strings.Contains(string(metrics.Body), "daypass_leases_forgotten_total 1") {
		t.Error("nothing counts what was forgotten")
	}
	// The target lets go after all, so that nothing is left behind by this test.
	b.DB.Set(brokertest.Hooks{})
	for _, id := range b.DB.Live() {
		if _, err := b.DB.Revoke(t.Context(), &issuers.RevokeRequest{Lease: issuers.Lease{ID: id}}); err != nil {
			t.Error(err)
		}
	}
}

func TestListsPageAndFilter(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer := b.Admin(admin.Viewer)
	var deploys []string
	for range 3 {
		out := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
		deploys = append(deploys, out.Credentials[0].LeaseID)
	}
	slices.Sort(deploys)
	var seen []string
	cursor := ""
	for {
		a := b.Do(http.MethodGet, api.PathLeases+"?grant=payments/deploy-db&limit=2&cursor="+cursor, viewer, nil)
		var page api.LeaseList
		if err := a.Into(&page); a.Status != 200 || err != nil || len(page.Leases) > 2 {
			t.Fatalf("%d %v %s", a.Status, err, a.Body)
		}
		seen = append(seen, leaseIDs(page.Leases)...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if slices.Sort(seen); !slices.Equal(seen, deploys) {
		t.Errorf("the pages show %v, want %v", seen, deploys)
	}
	first := b.Lease(viewer, deploys[0])
	for query, want := range map[string]int{
		"": 6, "?issuer=db": 3, "?policy=payments&grant=sign": 3, "?policy=other": 0, "?state=active": 6, "?state=revoked": 0,
		"?session=" + first.Session: 2, "?subject=" + url.QueryEscape(first.Subject): 6, "?provider=gitlab": 0, "?target=" + url.QueryEscape(first.Target): 3,
		"?expires_before=" + url.QueryEscape(time.Now().Add(6*time.Minute).Format(time.RFC3339)): 3,
	} {
		var page api.LeaseList
		a := b.Do(http.MethodGet, api.PathLeases+query, viewer, nil)
		if err := a.Into(&page); a.Status != 200 || err != nil || len(page.Leases) != want {
			t.Errorf("%s: %d leases, want %d; %d %v", query, len(page.Leases), want, a.Status, err)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?limit=1&limit=2", "?colour=red", "?policy=a&policy=b", "?expires_before=soon", "?subject=" + strings.Repeat("a", 513), "?subject=%00", "?subject=%ff", "?cursor=%c3"} {
		wantProblem(t, b.Do(http.MethodGet, api.PathLeases+query, viewer, nil), 400, api.CodeInvalidRequest)
	}
	var events api.EventList
	total := 0
	for cursor := ""; ; cursor = events.Next {
		events = api.EventList{}
		if a := b.Do(http.MethodGet, api.PathAudit+"?limit=4&cursor="+cursor, viewer, nil); a.Status != 200 || a.Into(&events) != nil {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if total += len(events.Events); events.Next == "" {
			break
		}
	}
	if want := b.Count(`SELECT count(*) FROM audit_events`); total != want || want < 12 {
		t.Errorf("the pages show %d events of %d", total, want)
	}
	var rules api.RuleList
	if a := b.Do(http.MethodGet, api.PathRedactionRules, viewer, nil); a.Into(&rules) != nil || len(rules.Rules) != 2 || rules.Rules[1].Pattern != "pay_live_[0-9a-z]{24}" {
		t.Errorf("%s", a.Body)
	}
}
