package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// doctorRoutes are what a broker shows to everybody, and Azure's token endpoint.
func doctorRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+api.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, map[string]string{"issuer": "https://daypass.example.com"})
	})
	mux.HandleFunc("GET "+api.PathReady, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, map[string]any{"ready": true, "checks": map[string]string{"database": "ok"}, "issuers": map[string]string{"payments-db": "degraded: no answer"}})
	})
	mux.HandleFunc("POST /azure", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer runner-token" {
			w.WriteHeader(401)
			return
		}
		reply(w, 200, map[string]any{"oidcToken": jobToken})
	})
	// A portal that answers to everything.
	mux.HandleFunc("GET /portal/", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, "please log in") })
	mux.HandleFunc("GET /ill"+api.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		reply(w, 200, map[string]string{"issuer": "https://daypass.example.com"})
	})
	mux.HandleFunc("GET /ill"+api.PathReady, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 503, map[string]any{"ready": false, "checks": map[string]string{"database": "away", "keys": "ok"}})
	})
}

// wouldExchange answers to a question that issues nothing, as a broker does:
// after its policies, and before anything is made.
func wouldExchange(w http.ResponseWriter, r *http.Request) bool {
	query := r.URL.Query()
	if query.Get("field") == "" || r.ContentLength > 0 {
		return false
	}
	switch query.Get("grant") {
	case "payments/denied":
		refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "no\n::set-env::", Claims: []string{"ref", "environment"}, RequestID: "req_1"})
	case "payments/deploy-db":
		refuse(w, api.Problem{Status: 400, Code: api.CodeInvalidRequest, Detail: `this grant has no value "` + query.Get("field") + `": it has password`})
	case anyGrant:
		refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not allowed"})
	default:
		refuse(w, api.Problem{Status: 429, Code: api.CodeRateLimited, Detail: "too often"})
	}
	return true
}

// madeToken is a token as a provider's, but for the signature.
func madeToken(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","kid":"k1","typ":"JWT"}`)) + "." + encode(payload) + ".c2lnbmF0dXJl"
}

// clearCI takes out of the environment what the machine that tests run on may be.
func clearCI(t *testing.T) {
	t.Helper()
	names := []string{variableJobToken, variableSigstore, variableWebIdentity, "DAYPASS_TOKEN_FILE", "DAYPASS_AUDIENCE", "DAYPASS_URL", "DAYPASS_CACERT"}
	for _, s := range ciSystems() {
		names = slices.Concat(names, []string{s.variable}, s.leads, s.looks)
	}
	for _, name := range names {
		t.Setenv(name, "")
	}
}

// TestDoctorReadsTheToken: what can be seen without anybody's keys.
func TestDoctorReadsTheToken(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		claims map[string]any
		want   string
	}{
		"good":     {map[string]any{"aud": "https://ci", "exp": now.Unix() + 60}, ""},
		"a list":   {map[string]any{"aud": []string{"other", "https://ci"}, "exp": now.Unix() + 60}, ""},
		"ended":    {map[string]any{"aud": "https://ci", "exp": now.Unix()}, "get a new token: this one ended at 2026-11-23T10:00:00Z"},
		"early":    {map[string]any{"aud": "https://ci", "nbf": now.Unix() + 600}, "the token begins at 2026-11-23T10:10:00Z"},
		"audience": {map[string]any{"aud": "https://c", "exp": now.Unix() + 60}, "have the token made for https://ci: its audience is https://c"},
	} {
		d := &diagnosis{}
		d.Token.shownToken = readJWT(madeToken(t, test.claims))
		d.checkToken("https://ci", now)
		got := strings.Join(d.Advice, "\n")
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	for _, text := range []string{"", "a.b", "a.b.c", "dps_session", "e30.bm90anNvbg.x"} {
		if readJWT(text).Claims != nil {
			t.Errorf("%q is read as a JWT", text)
		}
	}
}

// TestDoctorShowsNoToken, whatever the output and whatever the broker says.
func TestDoctorShowsNoToken(t *testing.T) {
	clearCI(t)
	token := madeToken(t, map[string]any{"iss": "https://issuer", "aud": "x", "sub": "repo:a/b", "ref": "refs/heads/feature", "exp": time.Now().Unix() + 600})
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "you sent " + r.Header.Get("Authorization"), Claims: []string{"ref"}})
			return
		}
		reply(w, 200, map[string]string{"issuer": "x"})
	}))
	defer broker.Close()
	t.Setenv(variableJobToken, token)
	for _, format := range []string{"text", "json"} {
		var out strings.Builder
		p := &program{stdin: os.Stdin, stdout: &out, stderr: &out}
		if code := p.main(t.Context(), []string{"doctor", "--url", broker.URL, "--grant", "payments/deploy-db", "--output", format}); code != exitDenied {
			t.Errorf("exit code %d\n%s", code, out.String())
		}
		if strings.Contains(out.String(), "c2lnbmF0dXJl") || !strings.Contains(out.String(), "refs/heads/feature") {
			t.Errorf("the token stands in it, or its claim doesn't:\n%s", out.String())
		}
	}
}

// TestDoctorExplainsConnections: each fault with what to change.
func TestDoctorExplainsConnections(t *testing.T) {
	clearCI(t)
	encrypted := httptest.NewTLSServer(http.NotFoundHandler())
	defer encrypted.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	certificates := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(certificates, pemOf(encrypted.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ url, ca, want string }{
		"untrusted":   {encrypted.URL, "", "--cacert or DAYPASS_CACERT"},
		"trusted":     {encrypted.URL, certificates, "something else answers there"},
		"other name":  {strings.Replace(encrypted.URL, "127.0.0.1", "localhost", 1), certificates, "use a name that the broker's certificate has: example.com"},
		"no TLS":      {strings.Replace(plain.URL, "http:", "https:", 1), "", "does not speak TLS"},
		"nobody":      {gone.URL, "", "check that the broker runs"},
		"no broker":   {plain.URL, "", "something else answers there"},
		"not a URL":   {"broker.example.com", "", "name the broker"},
		"in no clear": {"http://broker.example.com", "", "name the broker"},
	} {
		t.Run(name, func(t *testing.T) {
			d := (&program{url: test.url, caCert: test.ca}).diagnose(t.Context(), nil)
			if got := strings.Join(d.Advice, "\n"); d.OK || !strings.Contains(got, test.want) {
				t.Errorf("%v: %s\nwant %s", d.Broker, got, test.want)
			}
		})
	}
	for want, err := range map[string]error{
		"resolves to nothing": &url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Err: &net.DNSError{Name: "x"}}},
		"has ended":           &url.Error{Op: "Get", URL: "https://x", Err: &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}},
		"can be reached":      errors.New("other"),
	} {
		if got := explainConnection(err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// TestDoctorAsksAboutGrants, of a token that the fake takes.
func TestDoctorAsksAboutGrants(t *testing.T) {
	clearCI(t)
	server := httptest.NewServer((&fakeBroker{}).routes())
	defer server.Close()
	t.Setenv(variableJobToken, jobToken)
	for _, test := range []struct {
		grant, want string
		code        int
	}{
		{"payments/deploy-db", "payments/deploy-db would be given", 0},
		{"payments/denied", "refused  payments/denied: not_allowed: no ::set-env::", exitDenied},
		{"payments/denied", "ref is absent here, environment is absent here; an admin sees every clause with: daypass policy explain --request req_1", exitDenied},
		{anyGrant, "accepted", 0},
	} {
		p := &program{url: server.URL}
		d := &diagnosis{}
		c, err := p.connect()
		if err != nil {
			t.Fatal(err)
		}
		d.seeBroker(t.Context(), c)
		d.ask(t.Context(), c, jobToken, []string{test.grant})
		var out strings.Builder
		if err := d.print(&out); err != nil {
			t.Fatal(err)
		}
		if d.code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: code %d\n%s\nwant %s", test.grant, d.code, out.String(), test.want)
		}
	}
}
