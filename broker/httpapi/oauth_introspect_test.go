package httpapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/jwt"
)

// TestIntrospectionIsDeaf: everything but a live token for the asking service is
// inactive, with not one word more.
func TestIntrospectionIsDeaf(t *testing.T) {
	t.Parallel()
	o, elsewhere := newOffice(t, brokertest.Options{}), newOffice(t, brokertest.Options{})
	all := o.Exchange(o.Job(), "payments/deploy-api", "payments/deploy-db")
	api0, db := all.Credentials[0].Values["token"], all.Credentials[1].Values["password"]
	signed := o.token(t, o.Job(), "scope", "daypass:payments/sign").AccessToken
	for name, token := range map[string]string{"made beside a database user": api0, "a JWT": signed} {
		if said := o.introspect(t, token, "deploy", serverSecret); said["active"] != true {
			t.Fatalf("%s: %v", name, said)
		}
		if said := o.introspect(t, token, "other", otherSecret); !maps.Equal(said, map[string]any{"active": false}) {
			t.Errorf("%s, asked by whom it isn't for: %v", name, said)
		}
	}
	if said := o.introspect(t, signed, "deploy", serverSecret); said["sub"] != "daypass:main/payments/sign" || said["client_id"] != said["sub"] || fmt.Sprint(said["aud"]) != "["+stsAudience+"]" || said["iss"] != o.URL {
		t.Errorf("of a JWT: %v", said)
	}
	header, payload, _ := strings.Cut(signed, ".")
	payload, signature, _ := strings.Cut(payload, ".")
	foreign, err := jwt.New(t.Context(), jwt.Config{Issuer: o.URL, Signer: func() issuers.Signer { return elsewhere.Keys().Signer() }})
	if err != nil {
		t.Fatal(err)
	}
	lease := issuers.Lease{Tenant: "main", Policy: "payments", Grant: "sign", ID: all.Credentials[0].LeaseID, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	forged, err := foreign.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: json.RawMessage(`{"audience":"` + stsAudience + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{
		"a session token":             all.Session.Token,
		"a password":                  db,
		"an admin token":              o.Admin(admin.Operator),
		"a façade token":              o.Hide(issuers.Generate(issuers.VaultToken).Reveal()),
		"an API token made up":        o.Hide(issuers.Generate(issuers.APIToken).Reveal()),
		"one with a wrong sum":        api0[:len(api0)-1] + "_",
		"one with a blank":            api0 + " x",
		"one of another broker":       elsewhere.token(t, elsewhere.Job(), "audience", deployAudience).AccessToken,
		"a JWT of another broker":     elsewhere.token(t, elsewhere.Job(), "scope", "daypass:payments/sign").AccessToken,
		"signed by another":           forged.Values[0].Value.Reveal(),
		"a JWT without signature":     header + "." + payload + ".",
		"a JWT with another header":   "eyJhbGciOiJub25lIn0." + payload + "." + signature,
		"a JWT with a changed ending": signed[:len(signed)-1] + map[bool]string{true: "B", false: "A"}[strings.HasSuffix(signed, "A")],
		"a job token":                 o.Job(),
		"garbage":                     "\x00\xff{}",
		"garbage of 17 KiB":           strings.Repeat("dpt_", 17<<8),
		"a lease's id":                all.Credentials[0].LeaseID,
		"a statement":                 "' OR '1'='1",
	} {
		if what == "garbage" {
			token = url.QueryEscape(token)
		}
		o.dead(t, what, token)
	}
	// The session gives all of its own back.
	if a := o.Do(http.MethodPost, api.PathSessionRevoke, all.Session.Token, nil); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	o.dead(t, "of a session that was given back", api0)
	if a := o.form(t, api.PathOAuthRevoke, url.Values{"token": {signed}}); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	o.dead(t, "a revoked JWT", signed)

	late := o.token(t, o.Job(), "audience", deployAudience).AccessToken
	o.ahead.Store(int64(20 * time.Minute))
	o.dead(t, "past its end", late)
}

// TestWhoMayIntrospect: a service that doesn't prove itself hears nothing, and is
// held up.
func TestWhoMayIntrospect(t *testing.T) {
	t.Parallel()
	o := newOffice(t, brokertest.Options{Limits: instance.Limits{FailedTokens: 12}})
	token := o.token(t, o.Job(), "audience", deployAudience).AccessToken
	ask := func(headers ...string) *brokertest.Answer {
		t.Helper()
		return o.form(t, api.PathOAuthIntrospect, url.Values{"token": {token}}, headers...)
	}
	basic := func(name, secret string) []string {
		r := o.Request(http.MethodPost, "/", "", nil)
		r.SetBasicAuth(name, secret)
		return []string{"Authorization", r.Header.Get("Authorization")}
	}
	escaped := url.QueryEscape(serverSecret)
	for what, headers := range map[string][]string{
		"nobody":                     nil,
		"an unknown name":            basic("none", escaped),
		"another's secret":           basic("deploy", otherSecret),
		"no secret":                  basic("deploy", ""),
		"no name":                    basic("", escaped),
		"a secret that isn't a form": basic("deploy", "%zz"),
		"not form-encoded":           basic("deploy", serverSecret),
		"a bearer":                   {"Authorization", "Bearer " + token},
		"no base64":                  {"Authorization", "Basic ???"},
	} {
		wantOAuth(t, what, ask(headers...), 401, "invalid_client")
	}
	if a := ask(basic("deploy", escaped)...); a.Status != http.StatusOK {
		t.Errorf("the service itself: %d %s", a.Status, a.Body)
	}
	refused := func() *brokertest.Answer {
		for range 20 {
			if a := ask(basic("deploy", otherSecret)...); a.Status != http.StatusUnauthorized {
				return a
			}
		}
		t.Fatal("never held up")
		return nil
	}
	wantOAuth(t, "many failures", refused(), 429, "temporarily_unavailable")
	if a := ask(basic("deploy", escaped)...); a.Status != http.StatusOK {
		t.Errorf("the service itself, from the same address: %d %s", a.Status, a.Body)
	}
	for _, path := range []string{api.PathOAuthIntrospect, api.PathOAuthRevoke} {
		wantOAuth(t, "no token", o.form(t, path, url.Values{"token": {""}}, basic("deploy", escaped)...), 400, "invalid_request")
		wantOAuth(t, "two tokens", o.form(t, path, url.Values{"token": {token, token}}, basic("deploy", escaped)...), 400, "invalid_request")
		wantOAuth(t, "in the query", o.form(t, path+"?token=x", url.Values{"token": {token}}, basic("deploy", escaped)...), 400, "invalid_request")
	}
}

// TestRevocationByHolder: a token ends itself and nothing else.
func TestRevocationByHolder(t *testing.T) {
	t.Parallel()
	o := newOffice(t, brokertest.Options{Limits: instance.Limits{FailedTokens: 5}})
	two := o.Exchange(o.Job(), "payments/deploy-api", "payments/other-api")
	first, second := two.Credentials[0].Values["token"], two.Credentials[1].Values["token"]
	revoke := func(token string) *brokertest.Answer {
		t.Helper()
		return o.form(t, api.PathOAuthRevoke, url.Values{"token": {token}})
	}
	for what, token := range map[string]string{
		"a session token": two.Session.Token, "an admin token": o.Admin(admin.Operator), "a password": o.Hide(issuers.Generate(issuers.Password).Reveal()),
		"a façade token": o.Hide(issuers.Generate(issuers.VaultToken).Reveal()),
	} {
		wantOAuth(t, what, revoke(token), 400, "unsupported_token_type")
	}
	if a := revoke(first); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	o.dead(t, "revoked", first)
	if said := o.introspect(t, second, "other", otherSecret); said["active"] != true || said["scope"] != nil {
		t.Errorf("its neighbour: %v", said)
	}
	if a := o.Do(http.MethodGet, api.PathSession, two.Session.Token, nil); a.Status != http.StatusOK {
		t.Errorf("its session: %d", a.Status)
	}
	// Renewed by the session that it was obtained with: the same token, a later end.
	held := o.Exchange(o.Job(), "payments/deploy-api")
	before := o.introspect(t, held.Credentials[0].Values["token"], "deploy", serverSecret)
	o.ahead.Store(int64(time.Minute))
	if a := o.Do(http.MethodPost, api.PathLeases+"/"+held.Credentials[0].LeaseID+"/renew", held.Session.Token, nil); a.Status != http.StatusOK {
		t.Errorf("renewing: %d %s", a.Status, a.Body)
	}
	o.ahead.Store(0)
	if after := o.introspect(t, held.Credentials[0].Values["token"], "deploy", serverSecret); after["exp"].(float64) < before["exp"].(float64) {
		t.Errorf("renewed from %v to %v", before, after)
	}
	for n := range 20 {
		a := revoke(o.Hide(issuers.Generate(issuers.APIToken).Reveal()))
		if a.Status == http.StatusOK {
			continue
		}
		wantOAuth(t, "many that nobody knows", a, 429, "temporarily_unavailable")
		if n < 5 {
			t.Errorf("held up after %d", n)
		}
		if a := revoke(second); a.Status != http.StatusOK {
			t.Errorf("a good one from there: %d", a.Status)
		}
		return
	}
	t.Error("tokens can be tried without end")
}
