package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/disclosures"
	members "github.com/daypass/daypass/broker/fleet"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/broker/switches"
)

func TestReadiness(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Probe: true})
	read := func(status int) (r httpapi.Readiness) {
		a := b.Do(http.MethodGet, api.PathReady, "", nil)
		if err := json.Unmarshal(a.Body, &r); err != nil || a.Status != status || r.Ready != (status == 200) {
			t.Fatalf("%d %v %s", a.Status, err, a.Body)
		}
		return r
	}
	brokertest.Poll(t, "the targets were tried", func() bool {
		r := read(200)
		return r.Issuers["db"] == "ok" && r.Issuers["other"] == "ok" && r.Issuers["release-jwt"] == "ok"
	})
	r := read(200)
	if r.Checks["database"] != "ok" || r.Checks["keys"] != "ok" || !strings.HasPrefix(r.Checks["policies"], "ok, digest ") {
		t.Errorf("%+v", r)
	}
	brokertest.Poll(t, "the tries were taken back", func() bool {
		return b.Count(`SELECT count(*) FROM leases WHERE policy = 'system' AND state = 'revoked'`) == 2
	})
	if live := len(b.DB.Live()) + len(b.Other.Live()); live != 0 {
		t.Errorf("%d credentials of tries are left", live)
	}
	if a := b.Do(http.MethodGet, api.PathLive, "", nil); a.Status != 200 {
		t.Errorf("not alive: %d", a.Status)
	}
	b.Drain()
	if r := read(503); r.Checks["shutdown"] == "" {
		t.Errorf("%+v", r)
	}
	for _, token := range []string{b.Job(), "", "rubbish"} {
		a := b.TryExchange(token, "payments/deploy-db")
		wantProblem(t, a, 503, api.CodeUnavailable)
	}
	if a := b.Do(http.MethodGet, api.PathLive, "", nil); a.Status != 200 {
		t.Errorf("a broker that drains isn't alive: %d", a.Status)
	}
}

func TestDegradedIssuerIsToldAndHarmsNobody(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Probe: true, Idle: true})
	b.Other.Set(brokertest.Hooks{Down: true})
	b.Start()
	var r httpapi.Readiness
	brokertest.Poll(t, "the dead target is degraded", func() bool {
		a := b.Do(http.MethodGet, api.PathReady, "", nil)
		return json.Unmarshal(a.Body, &r) == nil && a.Status == 200 && strings.HasPrefix(r.Issuers["other"], "degraded: ") && r.Issuers["db"] == "ok"
	})
	if a := b.Do(http.MethodGet, api.PathMetrics, "", nil); !strings.Contains(string(a.Body), `daypass_issuer_degraded{issuer="other"} 1`) {
		t.Error("the gauge doesn't say so")
	}
	b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	wantProblem(t, b.TryExchange(b.Job(), "payments/other-db"), 502, api.CodeIssuerFailed)
	b.Other.Set(brokertest.Hooks{})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	// Every few seconds, and not while the lease is being taken back.
	brokertest.Poll(t, "what is overdue was counted", func() bool {
		return strings.Contains(string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body), `daypass_leases_overdue{issuer="db"} 0`)
	})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	b.TryExchange("rubbish", "payments/deploy-db")
	b.TryExchange(b.Token("github", map[string]any{"repository_id": "1"}), "payments/deploy-db")
	b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil)
	b.Do(http.MethodGet, "/no/such/path-of-a-stranger", "", nil)
	b.Do("BREW", api.PathExchange, "", nil)
	b.Do(http.MethodGet, api.PathReady, "", nil)
	a := b.Do(http.MethodGet, api.PathMetrics, "", nil)
	text := string(a.Body)
	for _, series := range []string{
		`daypass_requests_total{code="",method="POST",route="/v1/exchange",status="200"} 1`,
		`daypass_requests_total{code="invalid_token_malformed",method="POST",route="/v1/exchange",status="401"} 1`,
		`daypass_requests_total{code="not_allowed",method="POST",route="/v1/exchange",status="403"} 1`,
		`daypass_request_seconds_count{route="/v1/exchange"}`, "daypass_panics_total 0", "daypass_leases_forgotten_total 0",
		`daypass_revocations_total{issuer="db"} 1`, `daypass_revocation_lag_seconds_count{issuer="db"} 1`,
		`daypass_leases_overdue{issuer="db"} 0`, `daypass_leases_stuck{issuer="other"} 0`, `daypass_issuer_degraded{issuer="db"} 0`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(text, series) {
			t.Errorf("no %s", series)
		}
	}
	for _, strange := range []string{"stranger", "BREW", "octo"} {
		if strings.Contains(text, strange) {
			t.Errorf("%s, which somebody else chose, is a label", strange)
		}
	}
}

func TestPathsAndMethods(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	wantProblem(t, b.Do(http.MethodGet, "/v1/nothing", "", nil), 404, api.CodeNotFound)
	wantProblem(t, b.Do(http.MethodGet, api.PathExchange, b.Job(), nil), 405, api.CodeMethod)
	wantProblem(t, b.Do(http.MethodDelete, api.PathLeases+"/x", "", nil), 405, api.CodeMethod)
	var discovery map[string]any
	a := b.Do(http.MethodGet, api.PathDiscovery, "", nil)
	if err := json.Unmarshal(a.Body, &discovery); err != nil || discovery["issuer"] != b.URL || discovery["jwks_uri"] != b.URL+api.PathJWKS || !strings.Contains(a.Header.Get("Cache-Control"), "max-age") {
		t.Errorf("discovery: %v %s", err, a.Body)
	}
	var jwks struct {
		Keys []map[string]string `json:"keys"`
	}
	a = b.Do(http.MethodGet, api.PathJWKS, "", nil)
	if err := json.Unmarshal(a.Body, &jwks); err != nil || len(jwks.Keys) != 1 || jwks.Keys[0]["alg"] != "ES256" || jwks.Keys[0]["d"] != "" {
		t.Errorf("JWKS: %v %s", err, a.Body)
	}
	if a.Header.Get("Content-Type") != "application/jwk-set+json" || a.Header.Get("X-Request-Id") == "" {
		t.Errorf("headers of the JWKS: %v", a.Header)
	}
}

func TestForwardedAddresses(t *testing.T) {
	t.Parallel()
	remote := func(b *brokertest.Broker, forwarded string) any {
		request := b.Request(http.MethodGet, api.PathLive, "", nil)
		request.Header.Set("X-Forwarded-For", forwarded)
		request.Header.Set("X-Real-Ip", "198.51.100.99")
		id := b.Send(request).Header.Get("X-Request-Id")
		var seen any
		brokertest.Poll(t, "the line in the log", func() bool {
			for _, line := range b.Log.Lines("request") {
				if line["request_id"] == id {
					seen = line["remote"]
				}
			}
			return seen != nil
		})
		return seen
	}
	plain := brokertest.New(t, brokertest.Options{})
	if got := remote(plain, "203.0.113.7"); got != "127.0.0.1" {
		t.Errorf("anybody may say where they come from: %v", got)
	}
	_, loopback, err := net.ParseCIDR("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	behind := brokertest.New(t, brokertest.Options{TrustedProxies: []echo.TrustOption{echo.TrustIPRange(loopback)}})
	for forwarded, want := range map[string]string{
		"203.0.113.7":              "203.0.113.7",
		"10.1.2.3, 203.0.113.7":    "203.0.113.7", // what stands before the first that isn't ours was made up
		"203.0.113.7, 10.1.2.3":    "10.1.2.3",    // private isn't trusted by itself
		"203.0.113.7, 127.0.0.2":   "203.0.113.7",
		"rubbish":                  "127.0.0.1",
		"203.0.113.7, 169.254.1.1": "169.254.1.1",
	} {
		if got := remote(behind, forwarded); got != want {
			t.Errorf("X-Forwarded-For %q: taken for %v, want %s", forwarded, got, want)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	const secret = "a value that nobody may see"
	var log brokertest.Log
	failure := func() error { panic(secret) }
	registry := prometheus.NewRegistry()
	s, err := httpapi.New(httpapi.Config{
		Broker: &broker.Broker{}, Store: &leases.Store{}, Admins: &admin.Tokens{}, ExternalURL: "https://daypass.example", Metrics: registry, Now: time.Now,
		Gate:   limit.NewGate(0, 1, time.Now),
		Logger: slog.New(slog.NewJSONHandler(&log, nil)),
		Audit:  func(context.Context, audit.Page) ([]audit.Event, error) { return nil, nil },
		Reload: func(context.Context, reloader.Trigger) (*reloader.Result, error) { return nil, nil },
		Ready:  func(context.Context) httpapi.Readiness { panic(secret) },
		JWKS:   func() ([]byte, error) { return nil, failure() },

		Switches: &switches.Store{}, Members: func(context.Context) ([]members.Member, error) { return nil, nil },
		AuditLog: &sequencer.Sequencer{}, Jobs: &jobs.Jobs{}, Targets: &reconciler.Reconciler{},
		Disclosures: &disclosures.Service{}, Streams: httpapi.Streams{MaxBytes: 1, MaxTime: time.Second, Idle: time.Second},
		Secrets: &secrets.Store{}, Algorithms: func() []string { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *brokertest.Answer {
		recorder := httptest.NewRecorder()
		s.API(true).ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		a := &brokertest.Answer{Status: recorder.Code, Header: recorder.Header(), Body: recorder.Body.Bytes()}
		if err := a.Into(&a.Problem); err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, path := range []string{api.PathReady, api.PathJWKS} {
		a := get(path)
		wantProblem(t, a, 500, api.CodeInternal)
		if strings.Contains(string(a.Body)+log.String(), secret) {
			t.Errorf("the panic's value got out:\n%s\n%s", a.Body, log.String())
		}
	}
	failure = func() error { return errors.New(secret) }
	a := get(api.PathJWKS)
	wantProblem(t, a, 500, api.CodeInternal)
	if strings.Contains(string(a.Body), secret) {
		t.Errorf("an unknown error is told to everybody: %s", a.Body)
	}
	counted, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range counted {
		if family.GetName() == "daypass_panics_total" && family.GetMetric()[0].GetCounter().GetValue() != 2 {
			t.Errorf("%v panics counted, want 2", family)
		}
	}
	if _, err := httpapi.New(httpapi.Config{}); err == nil {
		t.Error("a server of nothing was made")
	}
}
