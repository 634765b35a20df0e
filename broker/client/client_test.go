package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass/daypass/broker/api"
)

const token = "header.payload.signature"

// seen is what a fake broker was asked.
type seen struct {
	method, path, query, body string
	header                    http.Header
}

// broker answers every request with one status, type and body.
func broker(t *testing.T, status int, kind, body string) (*Client, *seen) {
	t.Helper()
	var got seen
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = seen{r.Method, r.URL.Path, r.URL.RawQuery, string(data), r.Header}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	c, err := New(Config{URL: server.URL + "/base/", HTTP: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return c, &got
}

func TestCalls(t *testing.T) {
	lease := `{"id":"lse_1","state":"active","new_member":1}`
	for _, test := range []struct {
		name         string
		answer       string
		call         func(c *Client) (any, error)
		method, path string
		query, body  string
		want         string // of the result, as JSON
	}{
		{
			"exchange", `{"session":{"id":"ses_1"},"credentials":[{"grant":"p/g"}]}`,
			func(c *Client) (any, error) {
				r, err := c.Exchange(t.Context(), token, api.ExchangeRequest{Grants: []api.GrantRequest{{Name: "p/g", TTL: "10m"}}})
				if err != nil {
					return nil, err
				}
				return r.Session.ID + " " + r.Credentials[0].Grant, nil
			},
			"POST", "/v1/exchange", "", `{"grants":[{"name":"p/g","ttl":"10m"}]}`, `"ses_1 p/g"`,
		},
		{
			"raw", "export A='b'\n",
			func(c *Client) (any, error) {
				r, err := c.ExchangeRaw(t.Context(), token, api.ExchangeRequest{Grants: []api.GrantRequest{{Name: "p/g"}, {Name: "p/h"}}},
					RawOptions{Format: "env", Session: true})
				return string(r), err
			},
			"POST", "/v1/exchange", "format=env&session=true", `{"grants":[{"name":"p/g"},{"name":"p/h"}]}`, `"export A='b'\n"`,
		},
		{
			"raw with a field", "v",
			func(c *Client) (any, error) {
				r, err := c.ExchangeRaw(t.Context(), token, api.ExchangeRequest{Grants: []api.GrantRequest{{Name: "p/g", TTL: "1m"}}},
					RawOptions{Format: "value", Field: "url"})
				return string(r), err
			},
			"POST", "/v1/exchange", "field=url&format=value", `{"grants":[{"name":"p/g","ttl":"1m"}]}`, `"v"`,
		},
		{
			"session", `{"session":{"id":"ses_1"},"leases":[` + lease + `]}`,
			func(c *Client) (any, error) {
				r, err := c.Session(t.Context(), token)
				if err != nil {
					return nil, err
				}
				return r.Session.ID + " " + r.Leases[0].ID, nil
			},
			"GET", "/v1/session", "", "", `"ses_1 lse_1"`,
		},
		{
			"revoke session", `{"state":"revoking"}`,
			func(c *Client) (any, error) { return c.RevokeSession(t.Context(), token, "done") },
			"POST", "/v1/session/revoke", "", `{"reason":"done"}`, `{"state":"revoking"}`,
		},
		{
			"lease", lease,
			func(c *Client) (any, error) {
				r, err := c.Lease(t.Context(), token, "lse_1")
				if err != nil {
					return nil, err
				}
				return r.State, nil
			},
			"GET", "/v1/leases/lse_1", "", "", `"active"`,
		},
		{
			"leases", `{"leases":[` + lease + `],"next":"c2"}`,
			func(c *Client) (any, error) {
				r, err := c.Leases(t.Context(), token, LeaseFilter{
					Policy: "p", Grant: "g", Issuer: "i", Session: "s", Subject: "a&b", Provider: "v", State: "active", Target: "t",
					ExpiresBefore: time.Date(2026, 11, 23, 11, 0, 0, 0, time.FixedZone("", 3600)), Limit: 5,
				}, "c1")
				if err != nil {
					return nil, err
				}
				return r.Next, nil
			},
			"GET", "/v1/leases", "cursor=c1&expires_before=2026-11-23T10%3A00%3A00Z&grant=g&issuer=i&limit=5&policy=p&provider=v&session=s&state=active&subject=a%26b&target=t", "", `"c2"`,
		},
		{
			"renew", lease,
			func(c *Client) (any, error) {
				r, err := c.Renew(t.Context(), token, "lse_1", "5m")
				if err != nil {
					return nil, err
				}
				return r.ID, nil
			},
			"POST", "/v1/leases/lse_1/renew", "", `{"ttl":"5m"}`, `"lse_1"`,
		},
		{
			"revoke", `{"state":"revoked"}`,
			func(c *Client) (any, error) { return c.Revoke(t.Context(), token, "lse_1", api.RevokeRequest{}) },
			"POST", "/v1/leases/lse_1/revoke", "", `{}`, `{"state":"revoked"}`,
		},
		{
			"audit", `{"events":[],"next":"x"}`,
			func(c *Client) (any, error) {
				return c.Audit(t.Context(), token, EventFilter{Subject: "lse_1", Limit: 2}, "y")
			},
			"GET", "/v1/audit", "cursor=y&limit=2&subject=lse_1", "", `{"events":[],"next":"x"}`,
		},
		{
			"rules", `{"rules":[{"id":"r","pattern":"x+"}]}`,
			func(c *Client) (any, error) { return c.RedactionRules(t.Context(), token) },
			"GET", "/v1/redaction/rules", "", "", `[{"id":"r","pattern":"x+"}]`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, got := broker(t, 200, "application/json", test.answer)
			result, err := test.call(c)
			if err != nil {
				t.Fatal(err)
			}
			if got.method != test.method || got.path != "/base"+test.path || got.query != test.query || got.body != test.body {
				t.Errorf("sent %s %s?%s %s", got.method, got.path, got.query, got.body)
			}
			if a := got.header.Get("Authorization"); a != "Bearer "+token {
				t.Errorf("Authorization = %q", a)
			}
			if ua := got.header.Get("User-Agent"); ua != "daypass" {
				t.Errorf("User-Agent = %q", ua)
			}
			if key := got.header.Get("Idempotency-Key"); (key != "") != (test.path == api.PathExchange) {
				t.Errorf("Idempotency-Key = %q", key)
			}
			if prefer := got.header.Get(api.HeaderPrefer); (prefer == api.PreferRevocationToken) != (test.path == api.PathExchange && test.query == "") {
				t.Errorf("Prefer = %q", prefer)
			}
			if data, err := json.Marshal(result); err != nil || string(data) != test.want {
				t.Errorf("result = %s, %v; want %s", data, err, test.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	denied := `{"type":"about:blank","title":"Forbidden","status":999,"detail":"no ` + token + `","code":"not_allowed","request_id":"req_1","claims":["ref"],"grant":"p/g"}`
	for _, test := range []struct {
		name   string
		status int
		kind   string
		body   string
		code   api.Code
	}{
		{"problem", 403, "application/problem+json; charset=utf-8", denied, api.CodeNotAllowed},
		{"a page with the token in it", 401, "text/html", token, CodeUnexpected},
		{"problem without a code", 400, api.ProblemType, `{}`, CodeUnexpected},
		{"broken problem", 400, api.ProblemType, `{"code":`, CodeUnexpected},
		{"success that is no JSON", 200, "application/json", token, CodeUnexpected},
		{"redirect", 307, "text/html", "", CodeUnexpected},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := broker(t, test.status, test.kind, test.body)
			_, err := c.Session(t.Context(), token)
			problem, ok := errors.AsType[*api.Problem](err)
			if !ok || problem.Code != test.code || problem.Status != test.status {
				t.Fatalf("got %#v, want %s with status %d", err, test.code, test.status)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
}

func TestWebPageIsNotEvaluated(t *testing.T) {
	c, _ := broker(t, 200, "text/html; charset=utf-8", "<html>log in to the Wi-Fi</html>")
	_, err := c.ExchangeRaw(t.Context(), token, api.ExchangeRequest{}, RawOptions{Format: "env"})
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != CodeUnexpected {
		t.Errorf("got %v, want %s", err, CodeUnexpected)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	c, err := New(Config{URL: server.URL, HTTP: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Session(t.Context(), token); err == nil || reached {
		t.Errorf("err = %v, reached the other server: %v", err, reached)
	}
}

func TestAnswerTooLarge(t *testing.T) {
	c, _ := broker(t, 200, "application/json", strings.Repeat(" ", MaxAnswer)+"{}")
	if _, err := c.Session(t.Context(), token); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestTokenIsChecked(t *testing.T) {
	c, got := broker(t, 200, "application/json", "{}")
	for _, bad := range []string{"", "secret token", "secret\n", "sécret", strings.Repeat("s", api.MaxToken+1)} {
		_, err := c.Session(t.Context(), bad)
		if !errors.Is(err, ErrToken) {
			t.Errorf("got %v, want ErrToken", err)
		}
		if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error holds the token: %v", err)
		}
	}
	if got.method != "" {
		t.Error("a request was sent")
	}
}

func TestLeaseID(t *testing.T) {
	c, got := broker(t, 200, "application/json", "{}")
	for _, bad := range []string{"", "..", "a/b", "lse_1?x", "../session"} {
		if _, err := c.Revoke(t.Context(), token, bad, api.RevokeRequest{}); err == nil {
			t.Errorf("id %q was accepted", bad)
		}
	}
	if got.method != "" {
		t.Error("a request was sent")
	}
}

func TestNew(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		config Config
		want   string // in the error; accepted when empty
	}{
		{"https", Config{URL: "https://daypass.example.com/x"}, ""},
		{"loopback", Config{URL: "http://127.0.0.1:8080"}, ""},
		{"loopback of IPv6", Config{URL: "http://[::1]:8080"}, ""},
		{"localhost", Config{URL: "http://localhost"}, ""},
		{"plain http", Config{URL: "http://daypass.example.com"}, "plain http"},
		{"plain http that looks like loopback", Config{URL: "http://localhost.example.com"}, "plain http"},
		{"plain http when asked for", Config{URL: "http://daypass.example.com", InsecureHTTP: true}, ""},
		{"none", Config{}, "empty"},
		{"no scheme", Config{URL: "daypass.example.com"}, "https://HOST"},
		{"other scheme", Config{URL: "ftp://daypass.example.com"}, "https://HOST"},
		{"no URL", Config{URL: "https://u:pw@h:%zz"}, "parsed"},
		{"password", Config{URL: "https://u:pw@daypass.example.com"}, "no place"},
		{"no such CA file", Config{URL: "https://h", CAFile: empty + "x"}, "reading CA certificates"},
		{"CA file without certificates", Config{URL: "https://h", CAFile: empty}, "no PEM certificate"},
		{"CA file and client", Config{URL: "https://h", CAFile: empty, HTTP: &http.Client{}}, "both set"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := New(test.config)
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "pw") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}

func TestCAFile(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"session":{"id":"ses_1"}}`)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{URL: server.URL, CAFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := c.Session(t.Context(), token); err != nil || info.Session.ID != "ses_1" {
		t.Errorf("got %v, %v", info, err)
	}
	if c, err = New(Config{URL: server.URL}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Session(t.Context(), token); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
}

// step is one answer of a scripted network.
type step struct {
	status int
	after  string // Retry-After
	err    error
}

// network plays steps, one a request; the last one again and again.
type network struct {
	steps []step
	at    []time.Time
	keys  []string
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	s := n.steps[min(len(n.at), len(n.steps)-1)]
	n.at = append(n.at, time.Now())
	n.keys = append(n.keys, r.Header.Get("Idempotency-Key"))
	if s.err != nil {
		return nil, s.err
	}
	body := `{"code":"unavailable","detail":"down"}`
	if s.status == 200 {
		body = `{"session":{"id":"ses_1"}}`
	}
	return &http.Response{
		StatusCode: s.status, Body: io.NopCloser(strings.NewReader(body)), Request: r,
		Header: http.Header{"Content-Type": {api.ProblemType}, "Retry-After": {s.after}},
	}, nil
}

func TestRetries(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	lost := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	for _, test := range []struct {
		name     string
		steps    []step
		timeout  time.Duration
		tries    int
		ok       bool
		min, max time.Duration // altogether
	}{
		{"at once", []step{{status: 200}}, 0, 1, true, 0, 0},
		{"unavailable, then up", []step{{status: 503}, {status: 502}, {status: 429}, {status: 200}}, 0, 4, true, 875 * time.Millisecond, 2625 * time.Millisecond},
		{"never up", []step{{status: 503}}, 0, 4, false, 875 * time.Millisecond, 2625 * time.Millisecond},
		{"no connection, then up", []step{{err: refused}, {status: 200}}, 0, 2, true, 125 * time.Millisecond, 375 * time.Millisecond},
		{"answer lost", []step{{err: lost}, {status: 200}}, 0, 2, true, 125 * time.Millisecond, 375 * time.Millisecond},
		{"not trusted", []step{{err: &tls.CertificateVerificationError{Err: errors.New("unknown authority")}}, {status: 200}}, 0, 1, false, 0, 0},
		{"internal error", []step{{status: 500}, {status: 200}}, 0, 1, false, 0, 0},
		{"denied", []step{{status: 403}, {status: 200}}, 0, 1, false, 0, 0},
		{"seconds", []step{{status: 429, after: "7"}, {status: 200}}, 0, 2, true, 7 * time.Second, 7250 * time.Millisecond},
		{"date", []step{{status: 503, after: "Sat, 01 Jan 2000 00:00:09 GMT"}, {status: 200}}, 0, 2, true, 9 * time.Second, 9250 * time.Millisecond},
		{"date in the past", []step{{status: 503, after: "Sat, 01 Jan 1994 00:00:09 GMT"}, {status: 200}}, 0, 2, true, 125 * time.Millisecond, 375 * time.Millisecond},
		{"too late", []step{{status: 429, after: "3600"}, {status: 200}}, 0, 1, false, 0, 0},
		{"later than the caller waits", []step{{status: 429, after: "30"}, {status: 200}}, 10 * time.Second, 1, false, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // its clock begins at 2000-01-01 and jumps
				ctx := t.Context()
				if test.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.timeout)
					defer cancel()
				}
				n := &network{steps: test.steps}
				c, err := New(Config{URL: "https://h", HTTP: &http.Client{Transport: n}})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, err = c.Exchange(ctx, token, api.ExchangeRequest{})
				if (err == nil) != test.ok || len(n.at) != test.tries {
					t.Errorf("%d tries, error %v; want %d tries", len(n.at), err, test.tries)
				}
				if took := time.Since(start); took < test.min || took > test.max {
					t.Errorf("took %v, want %v to %v", took, test.min, test.max)
				}
				for _, key := range n.keys {
					if key == "" || key != n.keys[0] {
						t.Errorf("keys %q, want one for all tries", n.keys)
					}
				}
			})
		})
	}
}

func TestRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := New(Config{URL: "https://h", HTTP: &http.Client{Transport: &network{steps: []step{{status: 503, after: "30"}}}}})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err = c.Session(ctx, token)
		if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeUnavailable || time.Since(start) != time.Second {
			t.Errorf("got %v after %v, want what the broker said after 1s", err, time.Since(start))
		}
	})
}

func TestReloadPolicies(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/v1/policies/reload" || r.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if string(body) == `{"confirm":"abc"}` {
			_, _ = io.WriteString(w, `{"digest":"abc","changed":true,"policies":2,"grants":3,"warnings":[{"file":"a.yaml","line":1,"col":2,"text":"t","rule":"GEN-001","severity":"warning"}],"leases_no_longer_allowed":["lse_1"],"count":1}`)
			return
		}
		w.Header().Set("Content-Type", api.ProblemType)
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"code":"confirmation_required","digest":"abc","removes":["p"],"count":12}`)
	}))
	defer server.Close()
	c, err := New(Config{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.ReloadPolicies(t.Context(), token, "")
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeConfirmation || problem.Digest != "abc" || len(problem.Removes) != 1 || problem.Count != 12 {
		t.Errorf("%v", err)
	}
	out, err := c.ReloadPolicies(t.Context(), token, "abc")
	if err != nil || !out.Changed || out.Policies != 2 || out.Count != 1 || len(out.LeasesNoLongerAllowed) != 1 || len(out.Warnings) != 1 || out.Warnings[0].File != "a.yaml" || out.Warnings[0].Rule != "GEN-001" {
		t.Errorf("%+v, %v", out, err)
	}
}
