package httpapi

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/policies"
)

// Readiness is what /readyz answers: 200 when Ready, 503 otherwise. Issuers
// that are degraded don't make a broker unready: the others work.
type Readiness struct {
	Ready   bool              `json:"ready"`
	Checks  map[string]string `json:"checks"`  // database, keys, policies …: "ok", or what is wrong
	Issuers map[string]string `json:"issuers"` // "ok", "not tried yet", or "degraded: …"
}

func (s *Server) ready(c echo.Context) error {
	r := s.config.Ready(c.Request().Context())
	if s.draining.Load() {
		r.Ready, r.Checks["shutdown"] = false, "this broker is shutting down"
	}
	if !r.Ready {
		return writeJSON(c, http.StatusServiceUnavailable, r)
	}
	return writeJSON(c, http.StatusOK, r)
}

// keysCache is how long a verifier may keep the keys without asking again: what
// the rotation of keys waits for.
func keysCache() string {
	return "public, max-age=" + strconv.Itoa(int(keys.JWKSMaxAge/time.Second))
}

func (s *Server) jwks(c echo.Context) error {
	body, err := s.config.JWKS()
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderCacheControl, keysCache())
	return c.Blob(http.StatusOK, "application/jwk-set+json", body) // RFC 7517 §8.5
}

// metrics are the broker's own; no label holds anything that a stranger chooses.
type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	panics    prometheus.Counter
	forgotten prometheus.Counter
	reports   *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "daypass_requests_total", Help: "Requests by route, status and error code (of invalid_token with its reason).",
		}, []string{"method", "route", "status", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "daypass_request_seconds", Help: "How long requests took.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"route"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "daypass_panics_total", Help: "Handlers that panicked."}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "daypass_leak_reports_total", Help: "Reports of the secret scanning of others, by who sent them and what became of them: failed ones are worth an alert.",
		}, []string{"from", "outcome"}),
		forgotten: prometheus.NewCounter(prometheus.CounterOpts{Name: "daypass_leases_forgotten_total", Help: "Stuck leases that an operator gave up on: each is worth an alert."}),
	}
	registry.MustRegister(m.requests, m.seconds, m.panics, m.forgotten, m.reports)
	return m
}

func (m *metrics) request(method, route string, status int, code string, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodHead:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status), code).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (*metrics) handler(registry *prometheus.Registry) echo.HandlerFunc {
	return echo.WrapHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}

// causeOf is what the log says of a failed request: more than the answer does,
// and never a token. A denial's detail names the job entries and their claims.
func causeOf(err error) string {
	if denial, ok := errors.AsType[*policies.Denial](err); ok {
		return clipLog(denial.Grant + ": " + denial.Detail)
	}
	return clipLog(err.Error())
}

func clipLog(s string) string {
	if len(s) > 2000 {
		return s[:2000] + "…"
	}
	return s
}
