package httpapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/issuers"
)

// revocable exchanges, and asks for a revocation token besides.
func revocable(t *testing.T, b *brokertest.Broker, token string, grants ...string) *api.ExchangeResponse {
	t.Helper()
	request := b.Request(http.MethodPost, api.PathExchange, token, map[string]any{"grants": grants})
	request.Header.Set(api.HeaderPrefer, "respond-async, Revocation-Token; soon")
	a, out := b.Send(request), &api.ExchangeResponse{}
	if err := a.Into(out); err != nil || a.Status != http.StatusOK || a.Header.Get(api.HeaderPreferenceApplied) != api.PreferRevocationToken {
		t.Fatalf("exchange for %v: %d, %v", grants, a.Status, err)
	}
	return out
}

// TestRevocationToken: what comes with a session token gives back what that obtained,
// as often as it is asked to, and nothing of another exchange's.
func TestRevocationToken(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Job()
	mine, other := revocable(t, b, job, "payments/deploy-db", "payments/sign"), revocable(t, b, job, "payments/deploy-db")
	token := mine.Session.RevocationToken
	if kind, ok := issuers.IsGenerated(token); !ok || kind != issuers.RevocationToken || token[4:31] == mine.Session.Token[4:31] || token == other.Session.RevocationToken {
		t.Fatalf("kind %q, %v", kind, ok)
	}
	changed := []byte(token)
	changed[10] ^= 1
	wantReason(t, b.Do(http.MethodPost, api.PathSessionRevoke, b.Hide(string(changed)), nil), api.ReasonMalformed)
	wantReason(t, b.Do(http.MethodPost, api.PathSessionRevoke, b.Hide(issuers.Generate(issuers.RevocationToken).Reveal()), nil), api.ReasonExpired)
	wantReason(t, b.Do(http.MethodPost, api.PathSessionRevoke, b.Hide(issuers.Generate(issuers.APIToken).Reveal()), nil), api.ReasonMalformed)
	wantProblem(t, b.Do(http.MethodPost, api.PathSessionRevoke, token, `{"reason":1}`), 400, api.CodeInvalidRequest)
	viewer := b.Admin(admin.Viewer)
	if l := b.Lease(viewer, mine.Credentials[0].LeaseID); l.State != "active" {
		t.Fatalf("the lease is %s before", l.State)
	}
	for range 2 {
		a := b.Do(http.MethodPost, api.PathSessionRevoke, token, `{"reason":"killed"}`)
		if a.Status != http.StatusOK || strings.TrimSpace(string(a.Body)) != `{"state":"revoked"}` {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	for lease, want := range map[string]string{mine.Credentials[0].LeaseID: "revoked", mine.Credentials[1].LeaseID: "expired", other.Credentials[0].LeaseID: "active"} {
		if l := b.Lease(viewer, lease); l.State != want {
			t.Errorf("lease %s is %s, want %s", lease, l.State, want)
		}
	}
	wantReason(t, b.TryExchange(mine.Session.Token, "payments/deploy-db"), api.ReasonExpired)
	wantReason(t, b.TryExchange(job, "payments/deploy-db"), api.ReasonReplayed)
	// Either of the two tokens gives back after the other.
	for _, again := range []string{mine.Session.Token, other.Session.RevocationToken, other.Session.Token} {
		if a := b.Do(http.MethodPost, api.PathSessionRevoke, again, nil); a.Status != http.StatusOK {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	const by = `SELECT count(*) FROM audit_events WHERE type = 'session.revoked' AND subject = $1 AND body LIKE '%"by":"revocation token"%' AND body LIKE '%killed%'`
	if n := b.Count(by, mine.Session.ID); n != 1 {
		t.Errorf("%d events say how the session was given back", n)
	}
	if n := b.Count(`SELECT count(*) FROM session_tokens`); n != 2 {
		t.Errorf("%d rows of two exchanges", n)
	}
}

// TestRevocationTokenElsewhere: no other call takes one, and a live one is answered as
// one that somebody made up.
func TestRevocationTokenElsewhere(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	mine := revocable(t, b, b.Job(), "payments/deploy-db")
	lease := api.PathLeases + "/" + mine.Credentials[0].LeaseID
	ask := func(method, path, token string, body any) string {
		a := b.Do(method, path, token, body)
		wantReason(t, a, api.ReasonMalformed)
		return strings.ReplaceAll(string(a.Body), a.Problem.RequestID, "")
	}
	for _, call := range []struct {
		method, path string
		body         any
	}{
		{"POST", api.PathExchange, map[string]any{"grants": []string{"payments/deploy-db"}}},
		{"POST", api.PathExchange + "?grant=payments/deploy-db&format=env", nil},
		{"GET", api.PathSession, nil},
		{"GET", api.PathLeases, nil},
		{"GET", lease, nil},
		{"POST", lease + "/renew", nil},
		{"POST", lease + "/revoke", nil},
		{"POST", lease + "/forget", nil},
		{"GET", api.PathRedactionRules, nil},
		{"POST", api.PathRedact, "text"},
		{"POST", api.PathLeaks, "text"},
		{"GET", api.PathAudit, nil},
	} {
		made := b.Hide(issuers.Generate(issuers.RevocationToken).Reveal())
		if live, unknown := ask(call.method, call.path, mine.Session.RevocationToken, call.body), ask(call.method, call.path, made, call.body); live != unknown {
			t.Errorf("%s %s tells a live one from others:\n%s\n%s", call.method, call.path, live, unknown)
		}
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token_type": {api.TokenTypeJWT}, "subject_token": {mine.Session.RevocationToken}, "scope": {"daypass:payments/sign"}}
	request := b.Request(http.MethodPost, api.PathOAuthToken, "", form.Encode())
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a := b.Send(request); a.Status != http.StatusBadRequest {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if l := b.Lease(mine.Session.Token, mine.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("the lease is %s", l.State)
	}
}

// TestLeakedRevocationToken: one that stands in a log is told of as its session token
// is, and once where both stand there.
func TestLeakedRevocationToken(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	mine, other := revocable(t, b, b.Job(), "payments/deploy-db"), revocable(t, b, b.Job(), "payments/deploy-db")
	redactor, viewer := b.Admin(admin.Redactor), b.Admin(admin.Viewer)
	text := "kept " + mine.Session.RevocationToken + " for " + mine.Session.Token
	for _, as := range [][2]string{{mine.Session.Token, ""}, {redactor, "?revoke=true"}} {
		found := search(t, b, as[0], as[1], text+" and "+other.Session.RevocationToken[:30])
		if len(found.Leaks) != 1 || found.Leaks[0].Kind != api.KindSessionToken || found.Leaks[0].SessionID != mine.Session.ID || found.Leaks[0].Offset != 5 {
			t.Errorf("found %+v", found.Leaks)
		}
	}
	brokertest.Poll(t, "what it holds is taken back", func() bool { return b.Lease(viewer, mine.Credentials[0].LeaseID).State == "revoked" })
	if l := b.Lease(viewer, other.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("another's lease is %s", l.State)
	}
}
