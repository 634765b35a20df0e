package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/client/introspect"
	"github.com/daypass/daypass/broker/dpop"
)

// holder is a job with a key of its own.
type holder struct {
	*office
	key *dpop.Key
}

func (o *office) holder(t *testing.T) *holder {
	t.Helper()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &holder{o, key}
}

// proof is one for a request to a path of the broker.
func (h *holder) proof(t *testing.T, method, path, token string) string {
	t.Helper()
	return h.proofAt(t, method, h.URL+path, token, time.Now())
}

func (h *holder) proofAt(t *testing.T, method, to, token string, at time.Time) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := h.key.Prove(method, u, token, at)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// send sends a request with a token by a scheme, and proofs.
func (h *holder) send(t *testing.T, call, scheme, token string, proofs ...string) *brokertest.Answer {
	t.Helper()
	method, path, _ := strings.Cut(call, " ")
	request := h.Request(method, path, "", nil)
	request.Header.Set("Authorization", scheme+" "+token)
	for _, proof := range proofs {
		request.Header.Add("DPoP", proof)
	}
	return h.Send(request)
}

// call sends a request as a holder of a bound token does.
func (h *holder) call(t *testing.T, call, token string) *brokertest.Answer {
	t.Helper()
	method, path, _ := strings.Cut(call, " ")
	return h.send(t, call, "DPoP", token, h.proof(t, method, path, token))
}

// exchange asks for grants with a job token and a proof.
func (h *holder) exchange(t *testing.T, grants ...string) *api.ExchangeResponse {
	t.Helper()
	a := h.send(t, exchangeOf(grants...), "Bearer", h.Job(), h.proof(t, "POST", api.PathExchange, ""))
	out := &api.ExchangeResponse{}
	if err := a.Into(out); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
	}
	return out
}

func exchangeOf(grants ...string) string {
	return "POST " + api.PathExchange + "?" + url.Values{"grant": grants}.Encode()
}

// wantUnproven wants a refusal that asks for a proof, as RFC 9449, section 7.1, has it.
func wantUnproven(t *testing.T, what string, a *brokertest.Answer, code string) {
	t.Helper()
	want := `DPoP algs="ES256 ES384 EdDSA RS256 PS256", error="` + code + `"`
	if a.Status != http.StatusUnauthorized || a.Problem.Code != api.CodeInvalidToken || a.Problem.Reason != api.ReasonProof || a.Header.Get("WWW-Authenticate") != want {
		t.Errorf("%s: %d %q\n%s", what, a.Status, a.Header.Get("WWW-Authenticate"), a.Body)
	}
}

// TestDPoP: tokens that are bound to a key, on one broker.
func TestDPoP(t *testing.T) {
	t.Parallel()
	o := newOffice(t, brokertest.Options{})
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"session", o.boundSession}, {"proofs", o.proofs}, {"tokens", o.boundTokens}, {"kinds", o.boundKinds}, {"guard", o.boundGuard}, {"client", o.boundClient}, {"documented", o.documentedDPoP},
	} {
		t.Run(part.name, part.run)
	}
}

// boundSession: a session token that is bound to a key is good with a proof of it, for
// every call but the one that gives it back.
func (o *office) boundSession(t *testing.T) {
	h, thief := o.holder(t), o.holder(t)
	out := h.exchange(t, "payments/deploy-api", "payments/deploy-db")
	token, lease := out.Session.Token, out.Credentials[0].LeaseID
	if out.Session.TokenType != "DPoP" || out.Credentials[0].TokenType != "DPoP" || out.Credentials[1].TokenType != "" {
		t.Errorf("%+v", out)
	}
	for _, call := range []string{
		"GET " + api.PathSession, "GET " + api.PathLeases + "/" + lease, "POST " + api.PathLeases + "/" + lease + "/renew",
		"GET " + api.PathRedactionRules, "POST " + api.PathRedact, "POST " + api.PathLeaks, exchangeOf("payments/deploy-api"),
		"POST " + api.PathLeases + "/" + lease + "/revoke",
	} {
		method, path, _ := strings.Cut(call, " ")
		path, _, _ = strings.Cut(path, "?")
		wantUnproven(t, call+" as a bearer", h.send(t, call, "Bearer", token), "invalid_token")
		wantUnproven(t, call+" as a bearer, with a proof", h.send(t, call, "Bearer", token, h.proof(t, method, path, token)), "invalid_token")
		wantUnproven(t, call+" without a proof", h.send(t, call, "DPoP", token), "invalid_dpop_proof")
		wantUnproven(t, call+" by another key", thief.call(t, call, token), "invalid_dpop_proof")
		if a := h.send(t, call, "dpop", token, h.proof(t, method, path+"?other=query", token)); a.Status != http.StatusOK {
			t.Errorf("%s: %d\n%s", call, a.Status, a.Body)
		}
	}
	// What it asks for again is bound to the same key.
	var again api.ExchangeResponse
	a := h.call(t, exchangeOf("payments/deploy-api"), token)
	if err := a.Into(&again); err != nil || a.Status != http.StatusOK || again.Session.TokenType != "DPoP" {
		t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
	}
	wantUnproven(t, "the second one as a bearer", h.send(t, "GET "+api.PathSession, "Bearer", again.Session.Token), "invalid_token")
	// A bearer's token becomes bound by asking again with a proof, and never comes as if it was.
	bearer := o.Exchange(o.Job(), "payments/deploy-api").Session.Token
	wantUnproven(t, "a bearer's token by the scheme DPoP", h.call(t, "GET "+api.PathSession, bearer), "invalid_token")
	if a := h.send(t, "GET "+api.PathSession, "Bearer", bearer, "no proof"); a.Status != http.StatusOK {
		t.Errorf("a header that isn't asked for: %d", a.Status)
	}
	a = h.send(t, exchangeOf("payments/deploy-api"), "Bearer", bearer, h.proof(t, "POST", api.PathExchange, bearer))
	if err := a.Into(&again); err != nil || a.Status != http.StatusOK || again.Session.TokenType != "DPoP" {
		t.Errorf("%d %v\n%s", a.Status, err, a.Body)
	}
	for what, other := range map[string]string{"a job token": o.Job(), "an admin's": o.Admin(admin.Viewer)} {
		wantUnproven(t, what+" by the scheme DPoP", h.call(t, "GET "+api.PathSession, other), "invalid_token")
	}
	events := o.Count(`SELECT count(*) FROM audit_events WHERE type IN ('lease.issued', 'lease.reserved') AND body LIKE '%"dpop_jkt":"' || $1 || '"%' AND subject = $2`, h.key.Thumbprint().String(), lease)
	if events != 1 {
		t.Errorf("%d events say what the lease is bound to", events)
	}
	// Whoever holds it may give it back.
	if a := h.send(t, "POST "+api.PathSessionRevoke, "Bearer", token); a.Status != http.StatusOK {
		t.Errorf("given back without a proof: %d\n%s", a.Status, a.Body)
	}
	wantUnproven(t, "given back with a bad one", thief.call(t, "POST "+api.PathSessionRevoke, again.Session.Token), "invalid_dpop_proof")
	if a := h.call(t, "POST "+api.PathSessionRevoke, again.Session.Token); a.Status != http.StatusOK {
		t.Errorf("given back with one: %d\n%s", a.Status, a.Body)
	}
}

// proofs: what is wrong with a proof is said, and nothing is issued.
func (o *office) proofs(t *testing.T) {
	h := o.holder(t)
	token := h.exchange(t, "payments/deploy-api").Session.Token
	good := func() string { return h.proof(t, "GET", api.PathSession, token) }
	used := good()
	if a := h.send(t, "GET "+api.PathSession, "DPoP", token, used); a.Status != http.StatusOK {
		t.Fatalf("%d\n%s", a.Status, a.Body)
	}
	for what, proofs := range map[string][]string{
		"used before":       {used},
		"two":               {good(), good()},
		"two in one header": {good() + "," + good()},
		"empty":             {""},
		"of another method": {h.proof(t, "POST", api.PathSession, token)},
		"of another path":   {h.proof(t, "GET", api.PathLeases, token)},
		"of another host":   {h.proofAt(t, "GET", "https://daypass.example.net"+api.PathSession, token, time.Now())},
		"old":               {h.proofAt(t, "GET", h.URL+api.PathSession, token, time.Now().Add(-dpop.Window-10*time.Second))},
		"of tomorrow":       {h.proofAt(t, "GET", h.URL+api.PathSession, token, time.Now().Add(24*time.Hour))},
		"without ath":       {h.proof(t, "GET", api.PathSession, "")},
		"for another token": {h.proof(t, "GET", api.PathSession, token+"x")},
		"cut off":           {good()[:200]},
		"too long":          {good() + strings.Repeat("A", dpop.MaxProof)},
	} {
		wantUnproven(t, what, h.send(t, "GET "+api.PathSession, "DPoP", token, proofs...), "invalid_dpop_proof")
	}
	// The same with a job token, by which nothing is issued then.
	leases := o.Count(`SELECT count(*) FROM leases`)
	for what, proof := range map[string]string{
		"no proof at all":      "?",
		"of another path":      h.proof(t, "POST", api.PathOAuthToken, ""),
		"for another token":    h.proof(t, "POST", api.PathExchange, "x"),
		"with a broken signer": h.proof(t, "POST", api.PathExchange, "")[1:],
	} {
		wantUnproven(t, what, h.send(t, exchangeOf("payments/deploy-api"), "Bearer", o.Job(), proof), "invalid_dpop_proof")
		proof = strings.Replace(proof, "exchange", "token", 1)
		if what == "of another path" {
			proof = h.proof(t, "POST", api.PathExchange, "")
		}
		if what != "for another token" { // none is presented there
			wantOAuth(t, what, o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "audience", deployAudience), "DPoP", proof), 400, "invalid_dpop_proof")
		}
	}
	once := h.proof(t, "POST", api.PathOAuthToken, "")
	if a := o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "audience", deployAudience), "DPoP", once); a.Status != http.StatusOK {
		t.Fatalf("%d\n%s", a.Status, a.Body)
	}
	wantOAuth(t, "used before", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "audience", deployAudience), "DPoP", once), 400, "invalid_dpop_proof")
	// A job token that is refused uses up no proof, and its own fault is what is told.
	proof := h.proof(t, "POST", api.PathExchange, "")
	wantReason(t, h.send(t, exchangeOf("payments/deploy-api"), "Bearer", o.Job()+"x", proof), api.ReasonMalformed)
	if a := h.send(t, exchangeOf("payments/deploy-api"), "Bearer", o.Job(), proof); a.Status != http.StatusOK {
		t.Errorf("%d\n%s", a.Status, a.Body)
	}
	if n := o.Count(`SELECT count(*) FROM leases`); n != leases+2 {
		t.Errorf("%d leases more, want 2", n-leases)
	}
}

// bind gets the token of one grant, bound to the holder's key.
func (h *holder) bind(t *testing.T, grant string) api.TokenResponse {
	t.Helper()
	a := h.form(t, api.PathOAuthToken, tokenForm(h.Job(), "scope", "daypass:"+grant), "DPoP", h.proof(t, "POST", api.PathOAuthToken, ""))
	var out api.TokenResponse
	if err := json.Unmarshal(a.Body, &out); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%s: %d\n%s", grant, a.Status, a.Body)
	}
	return out
}

// boundTokens: what a service hears of a bound token.
func (o *office) boundTokens(t *testing.T) {
	h := o.holder(t)
	for _, grant := range []string{"payments/deploy-api", "payments/sign"} {
		out := h.bind(t, grant)
		said := o.introspect(t, out.AccessToken, "deploy", serverSecret)
		key, _ := said["cnf"].(map[string]any)
		if out.TokenType != "DPoP" || said["active"] != true || said["token_type"] != "DPoP" || len(key) != 1 || key["jkt"] != h.key.Thumbprint().String() {
			t.Errorf("%s: %s, %v", grant, out.TokenType, said)
		}
		if a := o.form(t, api.PathOAuthRevoke, url.Values{"token": {out.AccessToken}}); a.Status != http.StatusOK {
			t.Errorf("%s: given back without a proof: %d", grant, a.Status)
		}
		o.dead(t, "given back", out.AccessToken)
		bearer := o.token(t, o.Job(), "scope", "daypass:"+grant)
		if said := o.introspect(t, bearer.AccessToken, "deploy", serverSecret); bearer.TokenType != "Bearer" || said["token_type"] != "Bearer" || said["cnf"] != nil {
			t.Errorf("%s of a bearer: %s, %v", grant, bearer.TokenType, said)
		}
	}
	// The row that says what it is bound to is what makes it good.
	api := h.bind(t, "payments/deploy-api").AccessToken
	o.Exec(`UPDATE leases SET session_token = '\x00' WHERE id = (SELECT max(id) FROM leases)`)
	o.dead(t, "a token whose binding is lost", api)
	o.Exec(`UPDATE leases SET session_token = (SELECT hash FROM session_tokens t WHERE t.session_id = leases.session_id) WHERE session_token = '\x00'`)
}

// boundKinds: nothing that would be taken for bound is given, and a role that wants
// its tokens bound gives no others.
func (o *office) boundKinds(t *testing.T) {
	h := o.holder(t)
	leases := o.Count(`SELECT count(*) FROM leases`)
	wantOAuth(t, "a JWT of another profile", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "scope", "daypass:payments/cloud"), "DPoP", h.proof(t, "POST", api.PathOAuthToken, "")), 400, "invalid_request")
	wantOAuth(t, "a bearer where they are bound", o.form(t, api.PathOAuthToken, tokenForm(o.Job(), "scope", "daypass:payments/bound-api")), 400, "invalid_request")
	a := o.TryExchange(o.Job(), "payments/bound-api")
	wantProblem(t, a, 400, api.CodeInvalidRequest)
	if !strings.Contains(a.Problem.Detail, "daypass exec --dpop") {
		t.Errorf("no way out: %s", a.Problem.Detail)
	}
	if n := o.Count(`SELECT count(*) FROM leases`); n != leases {
		t.Errorf("%d leases of what was refused", n-leases)
	}
	out := h.exchange(t, "payments/bound-api", "payments/cloud")
	if said := o.introspect(t, out.Credentials[0].Values["token"], "deploy", serverSecret); said["token_type"] != "DPoP" {
		t.Errorf("%v", said)
	}
	// Beside the session token, which is bound, what can't be is given as it is, and says so.
	if out.Credentials[1].TokenType != "" {
		t.Errorf("a JWT for a cloud is said to be bound: %+v", out.Credentials[1])
	}
	if said := o.introspect(t, out.Credentials[1].Values["token"], "deploy", serverSecret); said["token_type"] != "Bearer" || said["cnf"] != nil {
		t.Errorf("%v", said)
	}
	// A token from before the role wanted that.
	before := o.token(t, o.Job(), "audience", deployAudience).AccessToken
	o.strict.Store(true)
	defer o.strict.Store(false)
	o.dead(t, "a bearer's token of a role that has become strict", before)
}

// boundGuard: what package introspect lets through, by a real broker.
func (o *office) boundGuard(t *testing.T) {
	h, thief := o.holder(t), o.holder(t)
	guard := &introspect.Guard{URL: o.URL + api.PathOAuthIntrospect, Name: "deploy", Secret: serverSecret, Audience: deployAudience, Cache: -1}
	handler := guard.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "deploy:read")
	token, bearer := h.bind(t, "payments/deploy-api").AccessToken, o.token(t, o.Job(), "audience", deployAudience).AccessToken
	call := func(scheme, token string, proofs ...string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, "/releases/1?full=true", nil)
		r.Host = "thief.example.com" // which it is of no use to say
		r.Header.Set("Authorization", scheme+" "+token)
		for _, proof := range proofs {
			r.Header.Add("DPoP", proof)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code, w.Header().Get("WWW-Authenticate")
	}
	proof := h.proofAt(t, "GET", deployAudience+"/releases/1", token, time.Now())
	if code, challenge := call("DPoP", token, proof); code != 200 {
		t.Errorf("with a proof: %d %s", code, challenge)
	}
	for what, c := range map[string]struct {
		scheme, token string
		proofs        []string
		code          string
	}{
		"as a bearer":              {"Bearer", token, nil, "invalid_token"},
		"as a bearer with a proof": {"Bearer", token, []string{h.proofAt(t, "GET", deployAudience+"/releases/1", token, time.Now())}, "invalid_token"},
		"a bearer's as bound":      {"DPoP", bearer, []string{h.proofAt(t, "GET", deployAudience+"/releases/1", bearer, time.Now())}, "invalid_token"},
		"without a proof":          {"DPoP", token, nil, "invalid_dpop_proof"},
		"the same proof again":     {"DPoP", token, []string{proof}, "invalid_dpop_proof"},
		"of another service":       {"DPoP", token, []string{h.proofAt(t, "GET", "https://thief.example.com/releases/1", token, time.Now())}, "invalid_dpop_proof"},
		"of another path":          {"DPoP", token, []string{h.proofAt(t, "GET", deployAudience+"/releases/2", token, time.Now())}, "invalid_dpop_proof"},
		"by another key":           {"DPoP", token, []string{thief.proofAt(t, "GET", deployAudience+"/releases/1", token, time.Now())}, "invalid_dpop_proof"},
		"without ath":              {"DPoP", token, []string{h.proofAt(t, "GET", deployAudience+"/releases/1", "", time.Now())}, "invalid_dpop_proof"},
	} {
		if code, challenge := call(c.scheme, c.token, c.proofs...); code != 401 || challenge != dpop.Challenge(c.code) {
			t.Errorf("%s: %d %s", what, code, challenge)
		}
	}
	if _, err := guard.Check(t.Context(), token); err == nil {
		t.Error("a bound token is good without its request")
	}
}

// boundClient: broker/client with a key of its own.
func (o *office) boundClient(t *testing.T) {
	c, err := client.New(client.Config{URL: o.URL, DPoP: true})
	if err != nil {
		t.Fatal(err)
	}
	grants := api.ExchangeRequest{Grants: []api.GrantRequest{{Name: "payments/bound-api"}}}
	out, err := c.Exchange(t.Context(), o.Job(), grants)
	if err != nil || out.Session.TokenType != "DPoP" {
		t.Fatal(out, err)
	}
	token := out.Session.Token
	if _, err := c.Session(t.Context(), token); err != nil {
		t.Error(err)
	}
	if _, err := c.Renew(t.Context(), token, out.Credentials[0].LeaseID, ""); err != nil {
		t.Error(err)
	}
	if more, err := c.Exchange(t.Context(), token, grants); err != nil || more.Session.TokenType != "DPoP" {
		t.Error(more, err)
	}
	if leaks, err := c.Leaks(t.Context(), token, strings.NewReader(out.Credentials[0].Values["token"]), client.LeakSearch{}); err != nil || len(leaks.Leaks) != 1 {
		t.Error(leaks, err)
	}
	if _, err := c.ExchangeRaw(t.Context(), o.Job(), grants, client.RawOptions{}); err == nil {
		t.Error("what only the client can use was handed out")
	}
	plain, err := client.New(client.Config{URL: o.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Session(t.Context(), token); err == nil {
		t.Error("another client used its session token")
	}
	if _, err := plain.RevokeSession(t.Context(), token, "tidied up"); err != nil {
		t.Error(err)
	}
}
