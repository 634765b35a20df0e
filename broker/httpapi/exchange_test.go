package httpapi_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/issuers"
)

// keysOf checks that a JSON object has these members and no others.
func keysOf(t *testing.T, what string, object any, want ...string) map[string]any {
	t.Helper()
	m, ok := object.(map[string]any)
	if got := slices.Sorted(maps.Keys(m)); !ok || !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Fatalf("%s has the members %v, want %v", what, got, want)
	}
	return m
}

func TestExchangeAnswer(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	began := time.Now()
	a := b.Do(http.MethodPost, api.PathExchange, b.Job(), `{"grants":[{"name":"payments/deploy-db","ttl":"2m"},"payments/sign"]}`)
	if a.Status != 200 || a.Header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || !ids.Valid(ids.Request, a.Header.Get("X-Request-Id")) {
		t.Fatalf("%d %v\n%s", a.Status, a.Header, a.Body)
	}
	var raw any
	if err := json.Unmarshal(a.Body, &raw); err != nil {
		t.Fatal(err)
	}
	top := keysOf(t, "the answer", raw, "session", "credentials", "redaction")
	session := keysOf(t, "the session", top["session"], "id", "token", "expires_at")
	keysOf(t, "redaction", top["redaction"], "patterns")
	credentials, _ := top["credentials"].([]any)
	if len(credentials) != 2 {
		t.Fatalf("%d credentials, want 2", len(credentials))
	}
	for _, c := range credentials {
		keysOf(t, "a credential", c, "grant", "lease_id", "issuer", "kind", "revocation", "expires_at", "renewable", "values", "secret", "env")
	}
	for _, at := range []any{session["expires_at"], credentials[0].(map[string]any)["expires_at"]} {
		if s, _ := at.(string); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(s) {
			t.Errorf("%v is no time in whole seconds of UTC", at)
		}
	}
	var out api.ExchangeResponse
	if err := a.Into(&out); err != nil {
		t.Fatal(err)
	}
	if kind, ok := issuers.IsGenerated(out.Session.Token); !ok || kind != issuers.SessionToken || !ids.Valid(ids.Session, out.Session.ID) {
		t.Errorf("session %s with a token that isn't one", out.Session.ID)
	}
	if life := out.Session.ExpiresAt.Sub(began); life < time.Hour-2*time.Second || life > time.Hour+20*time.Second {
		t.Errorf("the session lives for %s, want an hour", life)
	}
	db, signed := out.Credentials[0], out.Credentials[1]
	password := db.Values["password"]
	if kind, ok := issuers.IsGenerated(password); !ok || kind != issuers.Password {
		t.Error("the password is not of the broker's shape")
	}
	if db.Grant != "payments/deploy-db" || db.Issuer != "db" || db.Kind != "postgres" || db.Revocation != "immediate" || !db.Renewable || !ids.Valid(ids.Lease, db.LeaseID) ||
		!slices.Equal(db.Secret, []string{"password", "url"}) || !maps.Equal(db.Env, map[string]string{"PGUSER": db.Values["username"], "PGPASSWORD": password}) {
		t.Errorf("credential of the database: %+v", db)
	}
	if life := db.ExpiresAt.Sub(began); life < 118*time.Second || life > 140*time.Second {
		t.Errorf("it lives for %s, want the two minutes that were asked for", life)
	}
	if signed.Kind != "jwt" || signed.Revocation != "expiry" || signed.Renewable || !slices.Equal(signed.Secret, []string{"token"}) || signed.Env["DAYPASS_JWT"] != signed.Values["token"] ||
		len(strings.Split(signed.Values["token"], ".")) != 3 {
		t.Errorf("credential of kind jwt: %+v", signed)
	}
	claims := map[string]any{}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(signed.Values["token"], ".")[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims["sub"] != "daypass:main/payments/sign" || claims["iss"] != b.URL ||
		claims["jti"] != signed.LeaseID || claims["exp"] != float64(signed.ExpiresAt.Unix()) {
		t.Errorf("the JWT says %s", payload)
	}
	if want := []string{issuers.GeneratedPattern, "pay_live_[0-9a-z]{24}"}; !slices.Equal(out.Redaction.Patterns, want) {
		t.Errorf("patterns %v, want %v", out.Redaction.Patterns, want)
	}
	if !regexp.MustCompile(out.Redaction.Patterns[0]).MatchString(password) {
		t.Error("the broker's own pattern doesn't match its password")
	}
	longer := b.Do(http.MethodPost, api.PathExchange, b.Job(), `{"grants":[{"name":"payments/deploy-db","ttl":"20h"}]}`)
	if err := longer.Into(&out); err != nil || time.Until(out.Credentials[0].ExpiresAt) > 10*time.Minute {
		t.Errorf("more was given than the policy has: until %s, %v", out.Credentials[0].ExpiresAt, err)
	}
}

func TestExchangeForms(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for name, c := range map[string]struct{ query, body string }{
		"objects":         {"", `{"grants":[{"name":"payments/deploy-db"},{"name":"payments/read-db"}]}`},
		"bare strings":    {"", `{"grants":["payments/deploy-db","payments/read-db"]}`},
		"a mixture":       {"", ` {"grants":["payments/deploy-db",{"ttl":"90s","name":"payments/read-db"}]}` + "\r\n"},
		"the query":       {"?grant=payments/deploy-db&grant=payments/read-db", ""},
		"the query, json": {"?grant=payments%2Fdeploy-db&grant=payments/read-db&format=json&session=true", ""},
		"escapes":         {"", `{"gr\u0061nts":["payments\/deploy-db","payments/read-db"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.Do(http.MethodPost, api.PathExchange+c.query, b.Job(), c.body)
			var out api.ExchangeResponse
			if err := a.Into(&out); a.Status != 200 || err != nil || len(out.Credentials) != 2 {
				t.Fatalf("%d %v\n%s", a.Status, err, a.Body)
			}
			if out.Credentials[0].Grant != "payments/deploy-db" || out.Credentials[1].Grant != "payments/read-db" {
				t.Errorf("not in the order in which they were asked for: %s, %s", out.Credentials[0].Grant, out.Credentials[1].Grant)
			}
			if env := out.Credentials[1].Env; env["READ_USER"] == "" || env["READ_URL"] != out.Credentials[1].Values["url"] || env["PGUSER"] != "" {
				t.Errorf("the grant's own names are not used: %v", slices.Sorted(maps.Keys(env)))
			}
		})
	}
}

func TestBadRequestsIssueNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	many := `{"grants":["payments/g` + strings.Join(slices.Collect(func(yield func(string) bool) {
		for i := range 17 {
			if !yield(fmt.Sprint(i)) {
				return
			}
		}
	}), `","payments/g`) + `"]}`
	token := b.Job()
	for name, c := range map[string]struct{ query, body string }{
		"nothing":                       {"", ""},
		"an empty object":               {"", "{}"},
		"no grants":                     {"", `{"grants":[]}`},
		"null":                          {"", `null`},
		"null grants":                   {"", `{"grants":null}`},
		"a null grant":                  {"", `{"grants":[null]}`},
		"a list":                        {"", `["payments/deploy-db"]`},
		"a string":                      {"", `"payments/deploy-db"`},
		"a number for a grant":          {"", `{"grants":[7]}`},
		"a string for grants":           {"", `{"grants":"payments/deploy-db"}`},
		"a number for ttl":              {"", `{"grants":[{"name":"payments/deploy-db","ttl":600}]}`},
		"no name":                       {"", `{"grants":[{"ttl":"5m"}]}`},
		"an unknown field":              {"", `{"grants":["payments/deploy-db"],"all":true}`},
		"an unknown field, nested":      {"", `{"grants":[{"name":"payments/deploy-db","role":"admin"}]}`},
		"a case variant":                {"", `{"Grants":["payments/deploy-db"]}`},
		"a case variant, nested":        {"", `{"grants":[{"Name":"payments/deploy-db"}]}`},
		"a duplicate":                   {"", `{"grants":["payments/read-db"],"grants":["payments/deploy-db"]}`},
		"a duplicate by escapes":        {"", `{"grants":["payments/read-db"],"gr\u0061nts":["payments/deploy-db"]}`},
		"a duplicate, nested":           {"", `{"grants":[{"name":"payments/read-db","name":"payments/deploy-db"}]}`},
		"a second object":               {"", `{"grants":["payments/deploy-db"]}{}`},
		"trailing text":                 {"", `{"grants":["payments/deploy-db"]} x`},
		"trailing blank that isn't one": {"", `{"grants":["payments/deploy-db"]}` + "\u00a0"},
		"cut off":                       {"", `{"grants":["payments/deploy-db"]`},
		"a comment":                     {"", `{"grants":["payments/deploy-db"]/**/}`},
		"a comma too many":              {"", `{"grants":["payments/deploy-db",]}`},
		"a byte order mark":             {"", "\xef\xbb\xbf" + `{"grants":["payments/deploy-db"]}`},
		"invalid UTF-8":                 {"", "{\"grants\":[\"payments/deploy-db\xff\"]}"},
		"UTF-16":                        {"", "{\x00}\x00"},
		"a NUL":                         {"", `{"grants":["payments/deploy-db\u0000"]}`},
		"half a surrogate":              {"", `{"grants":["payments/deploy-db\ud800"]}`},
		"deep nesting":                  {"", `{"grants":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`},
		"deep nesting, open":            {"", strings.Repeat(`{"grants":[`, 5000)},
		"a name without policy":         {"", `{"grants":["deploy-db"]}`},
		"a name of three parts":         {"", `{"grants":["payments/deploy-db/x"]}`},
		"capitals":                      {"", `{"grants":["Payments/deploy-db"]}`},
		"a path":                        {"", `{"grants":["../payments/deploy-db"]}`},
		"a long name":                   {"", `{"grants":["payments/` + strings.Repeat("a", 64) + `"]}`},
		"a very long name":              {"", `{"grants":["` + strings.Repeat("ä", 20000) + `"]}`},
		"twice the same":                {"", `{"grants":["payments/deploy-db",{"name":"payments/deploy-db","ttl":"1m"}]}`},
		"too many":                      {"", many},
		"a ttl without unit":            {"", `{"grants":[{"name":"payments/deploy-db","ttl":"600"}]}`},
		"a negative ttl":                {"", `{"grants":[{"name":"payments/deploy-db","ttl":"-5m"}]}`},
		"a ttl of nothing":              {"", `{"grants":[{"name":"payments/deploy-db","ttl":"0s"}]}`},
		"a ttl below a second":          {"", `{"grants":[{"name":"payments/deploy-db","ttl":"999ms"}]}`},
		"a ttl that overflows":          {"", `{"grants":[{"name":"payments/deploy-db","ttl":"99999999999h"}]}`},
		"query and body":                {"?grant=payments/deploy-db", `{"grants":["payments/read-db"]}`},
		"an unknown parameter":          {"?grant=payments/deploy-db&ttl=5m", ""},
		"an unknown format":             {"?grant=payments/deploy-db&format=yaml", ""},
		"format twice":                  {"?grant=payments/deploy-db&format=env&format=json", ""},
		"a session of neither":          {"?grant=payments/deploy-db&session=yes", ""},
		"a field without value":         {"?grant=payments/deploy-db&format=env&field=password", ""},
		"value of two grants":           {"?grant=payments/deploy-db&grant=payments/read-db&format=value&field=password", ""},
		"value with a session":          {"?grant=payments/deploy-db&format=value&field=password&session=true", ""},
		"the same name twice":           {"", `{"grants":["payments/deploy-db","payments/clash"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.Do(http.MethodPost, api.PathExchange+c.query, token, c.body)
			wantProblem(t, a, 400, api.CodeInvalidRequest)
			if len(a.Problem.Detail) > 500 {
				t.Errorf("the answer repeats what was sent: %d bytes", len(a.Problem.Detail))
			}
		})
	}
	if n := b.Count(`SELECT (SELECT count(*) FROM leases) + (SELECT count(*) FROM sessions) + (SELECT count(*) FROM audit_events WHERE type NOT LIKE 'admin%' AND type NOT LIKE 'policies%' AND type NOT LIKE 'signing_key%' AND type NOT LIKE 'audit_key%')`); n != 0 {
		t.Errorf("%d rows of requests that were refused", n)
	}
	if calls := b.DB.Seen("Issue"); len(calls) != 0 {
		t.Errorf("the target was asked %d times", len(calls))
	}
	a := b.Do(http.MethodPost, api.PathExchange, token, `{"grants":["payments/deploy-db","payments/clash"]}`)
	if d := a.Problem.Detail; !strings.Contains(d, "payments/deploy-db") || !strings.Contains(d, "payments/clash") || !strings.Contains(d, "PG") {
		t.Errorf("the answer doesn't say what collides: %s", d)
	}
	// None of them used the token up.
	b.Exchange(token, "payments/deploy-db")
}

func TestSizes(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	token := b.Job()
	for name, size := range map[string]int{"one byte too many": 64<<10 + 1, "a megabyte": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			body := `{"grants":["payments/deploy-db"]}`
			body += strings.Repeat(" ", size-len(body))
			wantProblem(t, b.Do(http.MethodPost, api.PathExchange, token, body), 413, api.CodeTooLarge)
			// The same without a length.
			wantProblem(t, b.Do(http.MethodPost, api.PathExchange, token, struct{ *strings.Reader }{strings.NewReader(body)}.Reader), 413, api.CodeTooLarge)
		})
	}
	body := `{"grants":["payments/deploy-db"]}`
	if a := b.Do(http.MethodPost, api.PathExchange, token, body+strings.Repeat(" ", 64<<10-len(body))); a.Status != 200 {
		t.Errorf("a body of 64 KiB: %d %s", a.Status, a.Body)
	}
	wantReason(t, b.Do(http.MethodPost, api.PathExchange, strings.Repeat("a", 16<<10+1), body), api.ReasonMalformed)
	wantReason(t, b.Do(http.MethodPost, api.PathExchange, strings.Repeat("a", 60<<10), body), api.ReasonMalformed)
	for name, size := range map[string]int{"80 KiB": 80 << 10, "a megabyte": 1 << 20} {
		request := b.Request(http.MethodPost, api.PathExchange, strings.Repeat("a", size), nil)
		if a := b.Send(request); a.Status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("headers of %s: %d", name, a.Status)
		}
	}
}

func TestStrangersLearnNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	stranger := map[string]any{"repository": "octo-org/octo-repo", "repository_id": "666", "repository_owner_id": "667"}
	requestID := regexp.MustCompile(`"request_id":"[^"]*"`)
	var first string
	for name, c := range map[string]struct {
		profile string
		claims  map[string]any
		grant   string
	}{
		"a grant that is":                   {"github", stranger, "payments/deploy-db"},
		"a grant that isn't":                {"github", stranger, "payments/no-such"},
		"a policy that isn't":               {"github", stranger, "no-such/grant"},
		"a policy that isn't, by one of us": {"github", nil, "no-such/grant"},
		"another provider, same names":      {"gitlab", map[string]any{"repository_id": "74", "repository_owner_id": "65", "ref": "refs/heads/main"}, "payments/deploy-db"},
		"an id of another type":             {"github", map[string]any{"repository_id": 74}, "payments/deploy-db"},
		"no id at all":                      {"github", map[string]any{"repository_id": nil}, "payments/deploy-db"},
		"a name that looks alike":           {"github", map[string]any{"repository_id": "74 "}, "payments/deploy-db"},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.TryExchange(b.Token(c.profile, c.claims), c.grant)
			wantProblem(t, a, 403, api.CodeNotAllowed)
			body := requestID.ReplaceAllString(string(a.Body), "")
			if first == "" {
				first = body
			}
			if body != first {
				t.Errorf("strangers can tell two refusals apart:\n%s\n%s", body, first)
			}
		})
	}
	t.Run("ours, on another branch", func(t *testing.T) {
		a := b.TryExchange(b.Token("github", map[string]any{"ref": "refs/heads/evil"}), "payments/deploy-db")
		wantProblem(t, a, 403, api.CodeNotAllowed)
		if !slices.Equal(a.Problem.Claims, []string{"ref"}) || strings.Contains(string(a.Body), "refs/heads") {
			t.Errorf("wants the name of the claim and no value: %s", a.Body)
		}
	})
	t.Run("ours, on another branch, no such grant", func(t *testing.T) {
		a := b.TryExchange(b.Token("github", map[string]any{"ref": "refs/heads/evil"}), "payments/no-such")
		wantProblem(t, a, 403, api.CodeNotAllowed)
		if a.Problem.Claims != nil || requestID.ReplaceAllString(string(a.Body), "") != first {
			t.Errorf("a job that may use nothing here learns that the grant isn't: %s", a.Body)
		}
	})
	t.Run("ours, no such grant", func(t *testing.T) {
		a := b.TryExchange(b.Job(), "payments/no-such")
		wantProblem(t, a, 404, api.CodeNoSuchGrant)
		if a.Problem.Grant != "payments/no-such" {
			t.Errorf("the answer doesn't name the grant: %s", a.Body)
		}
	})
	t.Run("one of two", func(t *testing.T) {
		wantProblem(t, b.TryExchange(b.Job(), "payments/deploy-db", "payments/night"), 403, api.CodeNotAllowed)
		if n := b.Count(`SELECT count(*) FROM leases`); n != 0 {
			t.Errorf("%d leases", n)
		}
	})
}

func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	good := b.Job()
	other, err := b.Provider.Token("github", "https://elsewhere.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	past := map[string]any{"exp": time.Now().Add(-time.Second).Unix(), "iat": time.Now().Add(-time.Hour).Unix(), "nbf": time.Now().Add(-time.Hour).Unix()}
	parts := strings.Split(good, ".")
	stranger := brokertest.New(t, brokertest.Options{})
	session := b.Exchange(b.Job(), "payments/sign")
	flipped := []byte(session.Session.Token)
	flipped[10] ^= 1
	for name, c := range map[string]struct {
		token  string
		reason api.Reason
	}{
		"none":                               {"", api.ReasonMalformed},
		"not a token":                        {"hello", api.ReasonMalformed},
		"expired":                            {b.Token("github", past), api.ReasonExpired},
		"not yet valid":                      {b.Token("github", map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), api.ReasonNotYetValid},
		"for somebody else":                  {other, api.ReasonAudience},
		"of somebody else":                   {stranger.Job(), api.ReasonIssuer},
		"its payload changed":                {parts[0] + "." + parts[1][:40] + "A" + parts[1][41:] + "." + parts[2], api.ReasonMalformed},
		"its signature changed":              {parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), api.ReasonSignature},
		"without a signature":                {parts[0] + "." + parts[1] + ".", api.ReasonMalformed},
		"alg none":                           {"eyJhbGciOiJub25lIn0." + parts[1] + ".", api.ReasonMalformed},
		"an admin's":                         {b.Admin(admin.Operator), api.ReasonMalformed},
		"a session token that is cut off":    {session.Session.Token[:30], api.ReasonMalformed},
		"a session token with another digit": {string(flipped), api.ReasonMalformed},
		"a session token of nobody":          {issuers.Generate(issuers.SessionToken).Reveal(), api.ReasonExpired},
		"a password":                         {issuers.Generate(issuers.Password).Reveal(), api.ReasonMalformed},
		"a minted JWT":                       {session.Credentials[0].Values["token"], api.ReasonMalformed},
		"with a NUL in a claim":              {b.Token("github", map[string]any{"actor": "a\x00b"}), api.ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.TryExchange(c.token, "payments/deploy-db")
			if name == "its payload changed" || name == "without a signature" || name == "alg none" {
				wantProblem(t, a, 401, api.CodeInvalidToken) // which check comes first is its own business
				return
			}
			wantReason(t, a, c.reason)
		})
	}
	for name, header := range map[string][]string{
		"two headers":   {"Bearer " + good, "Bearer " + good},
		"basic":         {"Basic " + good},
		"bare":          {good},
		"nothing in it": {"Bearer "},
	} {
		t.Run(name, func(t *testing.T) {
			request := b.Request(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db", "", nil)
			request.Header["Authorization"] = header
			wantReason(t, b.Send(request), api.ReasonMalformed)
		})
	}
	if n := b.Count(`SELECT count(*) FROM leases WHERE kind <> 'jwt'`); n != 0 {
		t.Errorf("%d leases for refused tokens", n)
	}
}
