package httpapi_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/client/introspect"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/apitoken"
	"github.com/daypass/daypass/issuers/jwt"
)

const (
	deployAudience = "https://deploy.example.com"
	otherAudience  = "https://other.example.com"
	stsAudience    = "https://sts.example.com"
	googleAudience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/daypass"
	serverSecret   = "a secret/of+32:random%20bytes, more or less"
	otherSecret    = "0d4e1c8f5f9a4f6f8a6f1b7e5c3d2a19"
)

const oauthPolicy = `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
  - name: nightly
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push, environment: nightly}
grants:
  - {name: deploy-api, jobs: [release], issuer: api, role: ci, ttl: 10m, max_ttl: 1h}
  - {name: other-api, jobs: [release], issuer: api, role: other, ttl: 10m, env: {token: OTHER_TOKEN}}
  - {name: sign, jobs: [release], issuer: release-jwt, ttl: 5m, with: {audience: "https://sts.example.com"}}
  - {name: deploy-db, jobs: [release], issuer: db, role: deployer, ttl: 10m}
  - {name: one-api, jobs: [release], issuer: api, role: ci, ttl: 10m, max_active: 1}
  - {name: night, jobs: [nightly], issuer: api, role: ci, ttl: 5m}
  - {name: bound-api, jobs: [release], issuer: api, role: bound, ttl: 10m, max_ttl: 1h, env: {token: BOUND_TOKEN}}
  - {name: cloud, jobs: [release], issuer: clouds, role: cloud, ttl: 5m, with: {audience: "https://sts.example.com"}}
`

// office is a broker with API tokens, two services that ask about them, and a clock
// that can be put forward. narrow takes scopes and audiences from the role.
type office struct {
	*brokertest.Broker
	ahead  atomic.Int64 // nanoseconds
	narrow atomic.Bool
	strict atomic.Bool // the role's tokens are to be bound to keys
}

// narrowed is an issuer whose role can lose what it had, as with a new configuration.
type narrowed struct {
	*apitoken.Issuer
	office *office
}

// Access implements issuers.Introspected.
func (n narrowed) Access(role string) (issuers.Access, bool) {
	access, ok := n.Issuer.Access(role)
	if n.office.narrow.Load() {
		access.Scopes = access.Scopes[:1]
	}
	access.BoundOnly = access.BoundOnly || n.office.strict.Load()
	return access, ok
}

func newOffice(t testing.TB, options brokertest.Options) *office {
	t.Helper()
	made, err := apitoken.New(t.Context(), apitoken.Config{Roles: map[string]apitoken.Role{
		"ci":    {Audiences: []string{deployAudience, "https://deploy.internal"}, Scopes: []string{"deploy:read", "deploy:write"}},
		"other": {Audiences: []string{otherAudience}},
		"bound": {Audiences: []string{deployAudience}, BoundOnly: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{}
	options.Policies = map[string]string{"payments.yaml": oauthPolicy}
	key, err := (&brokertest.MemoryStore{}).MakeSigner(t.Context(), keys.Pair{Label: "clouds"})
	if err != nil {
		t.Fatal(err)
	}
	options.Issuers = func(ctx context.Context, url string) (map[string]broker.Issuer, error) {
		clouds, err := jwt.New(ctx, jwt.Config{Issuer: url, Signer: func() issuers.Signer { return key }, Roles: map[string]jwt.Role{"cloud": {Profile: jwt.ProfilePlain, Env: map[string]string{"token": "CLOUD_TOKEN"}}}})
		return map[string]broker.Issuer{
			"api":    {Issuer: narrowed{made, o}, Target: "api", Roles: []string{"ci", "other", "bound"}},
			"clouds": {Issuer: clouds, Target: "clouds", Roles: []string{"cloud"}},
		}, err
	}
	options.Clock = func() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) }
	options.OAuth = httpapi.OAuth{
		Resources: map[string]string{
			deployAudience: "payments/deploy-api", deployAudience + "/v2": "payments/deploy-api", otherAudience: "payments/other-api", googleAudience: "payments/sign",
			"https://night.example.com": "payments/night", "https://db.example.com": "payments/deploy-db", "https://gone.example.com": "payments/gone",
		},
		Servers: []httpapi.ResourceServer{
			{Name: "deploy", Secret: sha256.Sum256([]byte(serverSecret)), Audiences: []string{deployAudience, stsAudience}},
			{Name: "docs", Secret: sha256.Sum256([]byte(otherSecret + otherSecret)), Audiences: []string{deployAudience}},
			{Name: "other", Secret: sha256.Sum256([]byte(otherSecret)), Audiences: []string{otherAudience}},
		},
	}
	o.Broker = brokertest.New(t, options)
	o.Hide(serverSecret)
	return o
}

// form posts a form.
func (o *office) form(t *testing.T, path string, form url.Values, headers ...string) *brokertest.Answer {
	t.Helper()
	request := o.Request(http.MethodPost, path, "", form.Encode())
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	return o.Send(request)
}

// tokenForm is the request of a client, with more parameters or others; without a
// value they are taken out.
func tokenForm(subject string, pairs ...string) url.Values {
	form := url.Values{"grant_type": {api.GrantTokenExchange}, "subject_token": {subject}, "subject_token_type": {api.TokenTypeJWT}}
	for pair := range slices.Chunk(pairs, 2) {
		form.Set(pair[0], pair[1])
		if pair[1] == "-" {
			form.Del(pair[0])
		}
	}
	return form
}

func (o *office) token(t *testing.T, subject string, pairs ...string) api.TokenResponse {
	t.Helper()
	a := o.form(t, api.PathOAuthToken, tokenForm(subject, pairs...))
	var out api.TokenResponse
	if err := json.Unmarshal(a.Body, &out); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%v: %d\n%s", pairs, a.Status, a.Body)
	}
	return out
}

func (o *office) introspect(t *testing.T, token, name, secret string) map[string]any {
	t.Helper()
	request := o.Request(http.MethodPost, api.PathOAuthIntrospect, "", url.Values{"token": {token}}.Encode())
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(name), url.QueryEscape(secret))
	a := o.Send(request)
	var out map[string]any
	if err := json.Unmarshal(a.Body, &out); err != nil || a.Status != http.StatusOK {
		t.Fatalf("introspection: %d %v\n%s", a.Status, err, a.Body)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("an introspection may be kept: %v", a.Header)
	}
	return out
}

// dead fails unless a token is told to be inactive, and nothing else of it.
func (o *office) dead(t *testing.T, what, token string) {
	t.Helper()
	if out := o.introspect(t, token, "deploy", serverSecret); !maps.Equal(out, map[string]any{"active": false}) {
		t.Errorf("%s: %v", what, out)
	}
}

func wantOAuth(t *testing.T, what string, a *brokertest.Answer, status int, code string) {
	t.Helper()
	var out api.OAuthError
	if err := a.Into(&out); err != nil || a.Status != status || out.Error != code || out.Description == "" {
		t.Errorf("%s: %d %v, want %d %s\n%s", what, a.Status, err, status, code, a.Body)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Pragma") != "no-cache" || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		t.Errorf("%s: headers %v", what, a.Header)
	}
	if strings.ContainsFunc(out.Description, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		t.Errorf("%s: a description that RFC 6749 has no room for: %q", what, out.Description)
	}
	if (a.Header.Get("WWW-Authenticate") != "") != (status == http.StatusUnauthorized) || (a.Header.Get("Retry-After") != "") != (status == 429 || status == 503) {
		t.Errorf("%s: headers %v with %d", what, a.Header, status)
	}
}

// TestOAuth: what clients get and services hear, on one broker.
func TestOAuth(t *testing.T) {
	t.Parallel()
	o := newOffice(t, brokertest.Options{})
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"refuses", o.refuses}, // it counts leases: the first
		{"exchanges", o.exchanges},
		{"clients", o.clients},
		{"guards", o.guards},
		{"documented", o.documented},
		{"describes", o.describes},
		{"limited", o.limited}, // it shuts the broker down: the last
	} {
		t.Run(part.name, part.run)
	}
}

// exchanges: what a client gets for a job token, and what a service then
// hears of it, until it is revoked.
func (o *office) exchanges(t *testing.T) {
	began := time.Now()
	a := o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "scope", "openid daypass:payments/deploy-api"), "Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
	var raw any
	if err := json.Unmarshal(a.Body, &raw); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d\n%s", a.Status, a.Body)
	}
	answer := keysOf(t, "the answer", raw, "access_token", "issued_token_type", "token_type", "expires_in", "scope")
	token, _ := answer["access_token"].(string)
	if kind, ok := issuers.IsGenerated(token); !ok || kind != issuers.APIToken || answer["token_type"] != "Bearer" || answer["issued_token_type"] != api.TokenTypeAccessToken ||
		answer["scope"] != "deploy:read deploy:write" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Pragma") != "no-cache" {
		t.Errorf("%v %v", answer, a.Header)
	}
	if life, _ := answer["expires_in"].(float64); life < 500 || life > 600 {
		t.Errorf("it lives for %v seconds, want ten minutes", life)
	}
	said := keysOf(t, "introspection", any(o.introspect(t, token, "deploy", serverSecret)),
		"active", "scope", "client_id", "token_type", "exp", "iat", "nbf", "sub", "aud", "iss", "jti")
	lease := o.Lease(o.Admin(admin.Viewer), said["jti"].(string))
	if said["active"] != true || said["scope"] != "deploy:read deploy:write" || said["sub"] != "daypass:main/payments/deploy-api" || said["client_id"] != said["sub"] ||
		said["iss"] != o.URL || said["token_type"] != "Bearer" || fmt.Sprint(said["aud"]) != "["+deployAudience+"]" ||
		said["exp"] != float64(lease.ExpiresAt.Unix()) || said["iat"] != float64(lease.IssuedAt.Unix()) || said["exp"].(float64) < float64(began.Unix()) {
		t.Errorf("%v", said)
	}
	if lease.State != "active" || lease.Kind != "apitoken" || lease.Revocation != "introspection" || !lease.Renewable {
		t.Errorf("%+v", lease)
	}
	// The same role with less in it: at once.
	o.narrow.Store(true)
	if said := o.introspect(t, token, "deploy", serverSecret); said["scope"] != "deploy:read" {
		t.Errorf("after the role was narrowed: %v", said)
	}
	o.narrow.Store(false)
	a = o.form(t, api.PathOAuthRevoke, url.Values{"token": {token}, "token_type_hint": {"refresh_token"}})
	if a.Status != http.StatusOK || len(a.Body) != 0 {
		t.Errorf("revoked: %d %s", a.Status, a.Body)
	}
	o.dead(t, "revoked", token)
	viewer := o.Admin(admin.Viewer)
	if lease = o.Lease(viewer, lease.ID); lease.State != "revoked" || lease.ValidElsewhereUntil != nil || lease.EndedAt == nil {
		t.Errorf("%+v", lease)
	}
	// Once more is no error, and no event.
	if a = o.form(t, api.PathOAuthRevoke, url.Values{"token": {token}}); a.Status != http.StatusOK {
		t.Errorf("revoked twice: %d", a.Status)
	}
	var events api.EventList
	if err := o.Do(http.MethodGet, api.PathAudit+"?subject="+lease.ID, viewer, nil).Into(&events); err != nil {
		t.Fatal(err)
	}
	if len(events.Events) != 2 || events.Events[0].Type != "lease.revoked" || events.Events[0].Actor != "bearer "+lease.ID || fmt.Sprint(events.Events[0].Data["reason"]) != "revoked by who held the token" {
		t.Errorf("%+v", events.Events)
	}
}

// clients: requests as the clients send them.
func (o *office) clients(t *testing.T) {
	for client, c := range map[string]struct {
		form   url.Values
		issued string
	}{
		"openid-client":       {tokenForm(o.Job(), "audience", deployAudience, "client_id", "ci"), api.TokenTypeAccessToken},
		"x/oauth2/google":     {tokenForm(o.Job(), "audience", googleAudience, "requested_token_type", api.TokenTypeAccessToken, "scope", ""), api.TokenTypeAccessToken},
		"google-auth-library": {tokenForm(o.Job(), "audience", googleAudience, "requested_token_type", api.TokenTypeAccessToken, "scope", "https://www.googleapis.com/auth/cloud-platform"), api.TokenTypeAccessToken},
		"zitadel/oidc": {tokenForm(o.Job(), "subject_token_type", api.TokenTypeID, "actor_token", "", "actor_token_type", "", "requested_token_type", "", "audience", deployAudience,
			"scope", "openid", "resource", deployAudience+"/v2"), api.TokenTypeAccessToken},
		"nothing requested": {tokenForm(o.Job(), "scope", "daypass:payments/sign"), api.TokenTypeJWT},
		"a JWT requested":   {tokenForm(o.Job(), "scope", "daypass:payments/sign", "requested_token_type", api.TokenTypeJWT), api.TokenTypeJWT},
		// What a client always sends is no contradiction.
		"scope beside an audience": {tokenForm(o.Job(), "scope", "daypass:payments/deploy-api", "audience", "https://ci.daypass.example"), api.TokenTypeAccessToken},
		"several mapped to one":    {url.Values{"grant_type": {api.GrantTokenExchange}, "subject_token": {o.Job()}, "subject_token_type": {api.TokenTypeJWT}, "audience": {deployAudience, ""}, "resource": {deployAudience, deployAudience + "/v2"}}, api.TokenTypeAccessToken},
	} {
		a := o.form(t, api.PathOAuthToken, c.form, "x-goog-api-client", "gl-go/1.26 auth/0.24")
		var out api.TokenResponse
		if err := a.Into(&out); err != nil || a.Status != http.StatusOK || out.IssuedTokenType != c.issued || out.TokenType != "Bearer" || out.ExpiresIn < 200 {
			t.Errorf("%s: %d %v\n%s", client, a.Status, err, a.Body)
		}
		if said := o.introspect(t, out.AccessToken, "deploy", serverSecret); said["active"] != true {
			t.Errorf("%s: %v", client, said)
		}
	}
	// A retry takes the first try's place.
	job := o.Job()
	send := func() string {
		a := o.form(t, api.PathOAuthToken, tokenForm(job, "audience", deployAudience), api.HeaderIdempotencyKey, "one")
		var out api.TokenResponse
		if err := a.Into(&out); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
		}
		return out.AccessToken
	}
	first, second := send(), send()
	o.dead(t, "the token of a first try", first)
	if said := o.introspect(t, second, "deploy", serverSecret); said["active"] != true {
		t.Errorf("the token of a retry: %v", said)
	}
}

// guards: what package introspect lets through, by a real broker.
func (o *office) guards(t *testing.T) {
	guard := &introspect.Guard{URL: o.URL + api.PathOAuthIntrospect, Name: "deploy", Secret: serverSecret, Audience: deployAudience, Cache: -1}
	token, other := o.token(t, o.Job(), "audience", deployAudience).AccessToken, o.token(t, o.Job(), "audience", otherAudience).AccessToken
	call := func(token string, scopes ...string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		guard.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if introspect.From(r.Context()).Subject != "daypass:main/payments/deploy-api" {
				w.WriteHeader(http.StatusTeapot)
			}
		}), scopes...).ServeHTTP(w, r)
		return w.Code
	}
	for what, c := range map[string][2]int{
		"a good one": {call(token, "deploy:read"), 200}, "a missing scope": {call(token, "deploy:admin"), 403},
		"for another service": {call(other), 401}, "a stranger's": {call(o.Job()), 401},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", what, c[0], c[1])
		}
	}
	if a := o.form(t, api.PathOAuthRevoke, url.Values{"token": {token}}); a.Status != http.StatusOK || call(token) != 401 {
		t.Errorf("revoked: %d, and the service still takes it", a.Status)
	}
}

// refuses: what is answered to what isn't right. No case makes a
// lease.
func (o *office) refuses(t *testing.T) {
	job := o.Job()
	stranger := o.Token(devkit.ProfileGitHub, map[string]any{"repository_id": "7", "repository_owner_id": "8"})
	session := o.Exchange(o.Job(), "payments/sign")
	minted := session.Credentials[0].Values["token"]
	twice := func(name string, values ...string) url.Values {
		form := tokenForm(job, "audience", deployAudience)
		form[name] = values
		return form
	}
	const request, target, scope = "invalid_request", "invalid_target", "invalid_scope"
	for what, c := range map[string]struct {
		form url.Values
		code string
	}{
		"no grant type":          {tokenForm(job, "grant_type", "-"), request},
		"another grant type":     {tokenForm(job, "grant_type", "client_credentials"), "unsupported_grant_type"},
		"no subject":             {tokenForm(job, "subject_token", ""), request},
		"no type of subject":     {tokenForm(job, "subject_token_type", "-"), request},
		"a SAML subject":         {tokenForm(job, "subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), request},
		"an actor":               {tokenForm(job, "actor_token", job), request},
		"a type of actor":        {tokenForm(job, "actor_token_type", api.TokenTypeJWT), request},
		"a refresh token":        {tokenForm(job, "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), request},
		"subject twice":          {twice("subject_token", job, job), request},
		"scope twice":            {twice("scope", "a", "b"), request},
		"an unknown one twice":   {twice("x", "a", "b"), request},
		"many audiences":         {twice("audience", slices.Repeat([]string{deployAudience}, 17)...), request},
		"garbage":                {tokenForm(strings.Repeat("x", 100), "audience", deployAudience), request},
		"garbage of 17 KiB":      {tokenForm(strings.Repeat("x", 17<<10), "audience", deployAudience), request},
		"a JWT of garbage":       {tokenForm("eyJh.eyJh.eyJh", "audience", deployAudience), request},
		"a session token":        {tokenForm(session.Session.Token, "audience", deployAudience), request},
		"an admin token":         {tokenForm(o.Admin(admin.Operator), "audience", deployAudience), request},
		"a JWT of our own":       {tokenForm(minted, "audience", deployAudience), request},
		"a cut-off token":        {tokenForm("dps_abc", "audience", deployAudience), request},
		"for another audience":   {tokenForm(o.Hide(mustToken(t, o, "https://elsewhere.example")), "audience", deployAudience), request},
		"expired":                {tokenForm(o.Token(devkit.ProfileGitHub, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), "audience", deployAudience), request},
		"a client secret":        {tokenForm(job, "audience", deployAudience, "client_secret", "x"), "invalid_client"},
		"no grant":               {tokenForm(job), target},
		"no grant, other scopes": {tokenForm(job, "scope", "openid profile"), target},
		"two grants":             {tokenForm(job, "scope", "daypass:payments/sign daypass:payments/deploy-api"), target},
		"two resources":          {twice("resource", otherAudience), target},
		"scope and resource":     {tokenForm(job, "scope", "daypass:payments/sign", "resource", deployAudience), target},
		"one of two is nobody's": {twice("resource", deployAudience, "https://nobody.example"), target},
		"nobody's audience":      {tokenForm(job, "audience", "https://nobody.example"), target},
		"almost an audience":     {tokenForm(job, "audience", deployAudience+"/"), target},
		"mapped to no grant":     {tokenForm(job, "audience", "https://gone.example.com"), target},
		"another job's":          {tokenForm(job, "audience", "https://night.example.com"), target},
		"a database":             {tokenForm(job, "audience", "https://db.example.com"), target},
		"a database by scope":    {tokenForm(job, "scope", "daypass:payments/deploy-db"), target},
		"no JWT":                 {tokenForm(job, "audience", deployAudience, "requested_token_type", api.TokenTypeJWT), target},
		"an unknown grant":       {tokenForm(job, "scope", "daypass:payments/gone"), scope},
		"another job's by scope": {tokenForm(job, "scope", "daypass:payments/night"), scope},
		"half a grant":           {tokenForm(job, "scope", "daypass:payments"), scope},
		"a policy of traversal":  {tokenForm(job, "scope", "daypass:../payments/sign"), scope},
		"no grant of theirs":     {tokenForm(stranger, "scope", "daypass:payments/sign"), scope},
	} {
		a := o.form(t, api.PathOAuthToken, c.form)
		wantOAuth(t, what, a, map[bool]int{true: 401, false: 400}[c.code == "invalid_client"], c.code)
	}
	// A stranger is told the same of what is there and of what isn't.
	var told []string
	for _, audience := range []string{deployAudience, "https://nobody.example", "https://gone.example.com", "https://db.example.com"} {
		told = append(told, string(o.form(t, api.PathOAuthToken, tokenForm(stranger, "audience", audience)).Body))
	}
	for _, name := range []string{"sign", "deploy-db", "gone"} {
		told = append(told, strings.Replace(string(o.form(t, api.PathOAuthToken, tokenForm(stranger, "scope", "daypass:payments/"+name)).Body), "invalid_scope", "invalid_target", 1))
	}
	if told = slices.Compact(told); len(told) != 1 {
		t.Errorf("a stranger can tell grants from others: %q", told)
	}
	wantOAuth(t, "a stranger without a token", o.form(t, api.PathOAuthToken, tokenForm("x.y.z", "audience", "https://nobody.example")), 400, request)

	send := func(what, path, kind, body string, status int, code string, headers ...string) {
		t.Helper()
		r := o.Request(http.MethodPost, path, "", body)
		r.Header.Set("Content-Type", kind)
		for pair := range slices.Chunk(headers, 2) {
			r.Header.Add(pair[0], pair[1])
		}
		wantOAuth(t, what, o.Send(r), status, code)
	}
	const form = "application/x-www-form-urlencoded"
	good := tokenForm(job, "audience", deployAudience).Encode()
	send("JSON", api.PathOAuthToken, "application/json", `{"grant_type":"x"}`, 400, request)
	send("no type", api.PathOAuthToken, "", good, 400, request)
	send("another charset", api.PathOAuthToken, form+";charset=utf-16", good, 400, request)
	send("in the query", api.PathOAuthToken+"?audience=x", form, good, 400, request)
	send("a broken escape", api.PathOAuthToken, form, good+"&x=%zz", 400, request)
	send("a semicolon", api.PathOAuthToken, form, good+"&x;y", 400, request)
	send("too large", api.PathOAuthToken, form, good+"&x="+strings.Repeat("x", 70<<10), 413, request)
	send("client authentication", api.PathOAuthToken, form, good, 401, "invalid_client", "Authorization", "Basic eDp5")
	send("a bearer", api.PathOAuthToken, form, good, 401, "invalid_client", "Authorization", "Bearer "+job)
	send("a bad key", api.PathOAuthToken, form, good, 400, request, "Idempotency-Key", "a b")
	if held := o.Do(http.MethodGet, api.PathLeases, o.Admin(admin.Viewer), nil); strings.Count(string(held.Body), `"id":"lse_`) != 1 {
		t.Errorf("more leases than the one of the session: %s", held.Body)
	}
}

func mustToken(t *testing.T, o *office, audience string) string {
	t.Helper()
	token, err := o.Provider.Token(devkit.ProfileGitHub, audience, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// limited: an exchange by OAuth counts like any other, and what can be sent
// again keeps its status.
func (o *office) limited(t *testing.T) {
	first := o.token(t, o.Job(), "scope", "daypass:payments/one-api").AccessToken
	wantOAuth(t, "one more than may live", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "scope", "daypass:payments/one-api")), 429, "temporarily_unavailable")
	if a := o.form(t, api.PathOAuthRevoke, url.Values{"token": {first}}); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	o.token(t, o.Job(), "scope", "daypass:payments/one-api")
	off := map[string]any{"kind": "grant", "name": "payments/deploy-api", "off": true, "reason": "test"}
	if a := o.Do(http.MethodPost, api.PathSwitches, o.Admin(admin.Operator), off); a.Status >= 300 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	wantOAuth(t, "turned off", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "audience", deployAudience)), 503, "temporarily_unavailable")
	o.Drain()
	wantOAuth(t, "shutting down", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "scope", "daypass:payments/sign")), 503, "temporarily_unavailable")
}

// describes: both documents say what is there, and nothing else.
func (o *office) describes(t *testing.T) {
	var said api.AuthorizationServer
	a := o.Do(http.MethodGet, api.PathOAuthMetadata, "", nil)
	if err := a.Into(&said); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %v %s", a.Status, err, a.Body)
	}
	if b := o.Do(http.MethodGet, api.PathDiscovery, "", nil); string(b.Body) != string(a.Body) {
		t.Errorf("two documents: %s and %s", a.Body, b.Body)
	}
	if said.Issuer != o.URL || !slices.Equal(said.GrantTypes, []string{api.GrantTokenExchange}) || !slices.Equal(said.TokenEndpointAuth, []string{"none"}) ||
		!slices.Equal(said.IntrospectionAuth, []string{"client_secret_basic"}) || !slices.Equal(said.IDTokenSigningAlgorithms, []string{"ES256"}) {
		t.Errorf("%+v", said)
	}
	for _, endpoint := range []string{said.TokenEndpoint, said.IntrospectionEndpoint, said.RevocationEndpoint} {
		path, ours := strings.CutPrefix(endpoint, o.URL)
		if b := o.form(t, path, url.Values{}); !ours || b.Status == http.StatusNotFound || b.Status == http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", endpoint, b.Status)
		}
	}
}
