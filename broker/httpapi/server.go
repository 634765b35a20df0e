// Package httpapi is the broker over HTTP: routes, limits, and the one table
// from errors to answers. A handler decodes, calls the broker, and renders.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/dpop"
	"github.com/daypass/daypass/broker/fleet"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/broker/switches"
)

// Config of a Server. Every field is required, unless it says otherwise.
type Config struct {
	Broker      *broker.Broker
	Store       *leases.Store
	Admins      *admin.Tokens
	Audit       AuditLister
	AuditLog    *sequencer.Sequencer
	Secrets     *secrets.Store // static ones
	Switches    *switches.Store
	Members     func(ctx context.Context) ([]fleet.Member, error) // brokers that are there
	Targets     *reconciler.Reconciler
	Jobs        *jobs.Jobs // revocations of many leases
	Reload      Reloader
	ExternalURL string
	OAuth       OAuth                  // of its calls; may be zero
	JWKS        func() ([]byte, error) // public keys that verify what the broker mints
	Algorithms  func() []string        // of those keys
	Ready       func(ctx context.Context) Readiness
	Metrics     *prometheus.Registry
	Logger      *slog.Logger
	Now         func() time.Time
	Gate        *limit.Gate // stands before the check of every token
	Disclosures *disclosures.Service
	Streams     Streams // bounds of what is masked and searched
	Reporters   Reporters
	// TrustedProxies are the networks whose X-Forwarded-For is believed; none when empty.
	TrustedProxies []echo.TrustOption
	Guest          Guest // has what lies below its prefix; nil: none
}

// Server answers requests. See [Server.API] and [Server.Operations].
type Server struct {
	config   Config
	metrics  *metrics
	draining atomic.Bool
	drained  chan struct{} // closed by Drain
	drain    func()
	exports  chan struct{} // a place for each export that runs
	proofs   dpop.Verifier
}

// New checks the configuration.
func New(config Config) (*Server, error) {
	if config.Broker == nil || config.Store == nil || config.Admins == nil || config.Audit == nil || config.AuditLog == nil || config.Secrets == nil || config.Jobs == nil || config.Switches == nil || config.Members == nil || config.Targets == nil || config.Reload == nil || config.ExternalURL == "" ||
		config.JWKS == nil || config.Algorithms == nil || config.Ready == nil || config.Metrics == nil || config.Logger == nil || config.Now == nil || config.Gate == nil ||
		config.Disclosures == nil || config.Streams.MaxBytes == 0 || config.Streams.MaxTime == 0 || config.Streams.Idle == 0 {
		return nil, errors.New("making HTTP API: a required field of its configuration is missing")
	}
	s := &Server{config: config, metrics: newMetrics(config.Metrics), exports: make(chan struct{}, maxExports), drained: make(chan struct{})}
	s.drain = sync.OnceFunc(func() { close(s.drained) })
	return s, nil
}

// Drain makes new exchanges answer 503; those that run finish. Streams end.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.drain()
}

// API is everything that jobs and admins call. Health and metrics are part of
// it unless they have a listener of their own.
func (s *Server) API(withOperations bool) http.Handler {
	e := s.newEcho()
	e.POST(api.PathExchange, s.exchange)
	e.GET(api.PathSession, s.session)
	e.POST(api.PathSessionRevoke, s.revokeSession)
	e.GET(api.PathLeases, s.listLeases)
	e.GET(api.PathLeases+"/:id", s.lease)
	e.POST(api.PathLeases+"/:id/renew", s.renew)
	e.POST(api.PathLeases+"/:id/revoke", s.revoke)
	e.POST(api.PathLeases+"/:id/forget", s.forget)
	e.GET(api.PathAudit, s.audit)
	e.GET(api.PathAuditCheckpoint, s.auditCheckpoint)
	e.GET(api.PathAuditExport, s.auditExport)
	s.redactionRoutes(e)
	e.POST(api.PathPoliciesReload, s.reload)
	e.POST(api.PathPoliciesExplain, s.explain)
	e.GET(api.PathDecisions, s.decisions)
	s.secretRoutes(e)
	s.fleetRoutes(e)
	s.targetRoutes(e)
	s.jobRoutes(e)
	s.publish(e)
	s.oauthRoutes(e)
	e.GET(api.PathJWKS, s.jwks)
	e.GET(api.PathOpenAPI, openAPI())
	if withOperations {
		s.operations(e)
	}
	if s.config.Guest != nil {
		return s.besides(e, s.config.Guest)
	}
	return e
}

// Operations is liveness, readiness and metrics, for a listener of their own.
func (s *Server) Operations() http.Handler {
	e := s.newEcho()
	s.operations(e)
	return e
}

func (s *Server) operations(e *echo.Echo) {
	e.GET(api.PathLive, func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]string{"status": "ok"}) })
	e.GET(api.PathReady, s.ready)
	e.GET(api.PathMetrics, s.metrics.handler(s.config.Metrics))
}

func (s *Server) newEcho() *echo.Echo { return s.newEchoRefusing((*problem).refuse) }

func (s *Server) newEchoRefusing(how refuser) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	// echo believes X-Forwarded-For from anybody unless told otherwise.
	e.IPExtractor = echo.ExtractIPDirect()
	if len(s.config.TrustedProxies) > 0 {
		trust := append([]echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}, s.config.TrustedProxies...)
		e.IPExtractor = echo.ExtractIPFromXFFHeader(trust...)
	}
	e.HTTPErrorHandler = func(error, echo.Context) {} // recorded writes every answer
	e.Use(s.recorded(how))
	return e
}

// record is the one log line of a request, filled on the way.
type record struct {
	id    string
	attrs []slog.Attr
	visit *broker.Visit // of a guest's request
}

const recordKey = "daypass.record"

// requestID is the request's id.
func requestID(c echo.Context) string {
	r, _ := c.Get(recordKey).(*record)
	if r == nil {
		return ""
	}
	return r.id
}

func note(c echo.Context, attrs ...slog.Attr) {
	if r, ok := c.Get(recordKey).(*record); ok {
		r.attrs = append(r.attrs, attrs...)
	}
}

// recorded gives every request its id, its answer when it failed, and its line
// in the log. It is also where a panic ends.
func (s *Server) recorded(how refuser) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return s.record(c, next, how) }
	}
}

func (s *Server) record(c echo.Context, next echo.HandlerFunc, how refuser) error {
	began := s.config.Now()
	r := &record{id: ids.New(ids.Request, began)}
	c.Set(recordKey, r)
	c.Response().Header().Set(echo.HeaderXRequestID, r.id)
	err := s.guarded(next, c)
	level := slog.LevelInfo
	code := ""
	if err != nil {
		p := problemOf(err)
		code = string(p.Code)
		r.attrs = append(r.attrs, slog.String("code", code))
		if p.Reason != "" {
			r.attrs = append(r.attrs, slog.String("reason", string(p.Reason)))
			code += "_" + string(p.Reason)
		}
		r.attrs = append(r.attrs, slog.String("error", causeOf(err)))
		if p.Status >= http.StatusInternalServerError {
			level = slog.LevelError
		}
		if !c.Response().Committed {
			if writing := how(p, c, err); writing != nil {
				r.attrs = append(r.attrs, slog.String("write_error", writing.Error()))
			}
		}
	}
	took := s.config.Now().Sub(began)
	route := c.Path()
	if r.visit != nil {
		route = r.visit.Route
	}
	if route == "" {
		route = "none"
	}
	s.metrics.request(c.Request().Method, route, c.Response().Status, code, took)
	s.config.Logger.LogAttrs(c.Request().Context(), level, "request", append([]slog.Attr{
		slog.String("request_id", r.id), slog.String("method", c.Request().Method), slog.String("route", route),
		slog.Int("status", c.Response().Status), slog.Float64("took_ms", float64(took.Microseconds())/1000), slog.String("remote", c.RealIP()),
	}, r.attrs...)...)
	if errors.Is(err, errAborted) {
		panic(http.ErrAbortHandler) // what net/http knows as: cut the connection
	}
	return nil
}

func (s *Server) guarded(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value of a panic may hold anything: it is not logged.
			err = errors.New("a handler panicked")
			s.metrics.panics.Inc()
		}
	}()
	return next(c)
}

// caller takes a session token, or an admin's token with that role, and no
// other. An empty role: no admin.
func (s *Server) caller(c echo.Context, role admin.Role) (broker.Caller, error) {
	sent, err := bearer(c)
	if err != nil {
		return broker.Caller{}, err
	}
	ctx := c.Request().Context()
	switch token := sent.token.(type) {
	case broker.SessionToken:
		var held *leases.Held
		if err := s.admit(c, func(bool) (err error) {
			if held, err = s.config.Broker.FindSession(ctx, token); err == nil {
				err = s.checkKey(c, sent, held)
			}
			return err
		}); err != nil {
			return broker.Caller{}, err
		}
		note(c, slog.String("session", held.ID))
		return broker.Caller{Session: held}, nil
	case broker.AdminToken:
		var found *admin.Token
		if err := s.admit(c, func(bool) (err error) {
			found, err = s.config.Admins.Authenticate(ctx, string(token))
			return err
		}); err != nil {
			return broker.Caller{}, err
		}
		note(c, slog.String("admin", found.ID), slog.String("owner", found.Owner))
		if role == "" || !found.Can(role) {
			return broker.Caller{}, broker.ErrForbidden
		}
		return broker.Caller{Admin: found}, nil
	}
	return broker.Caller{}, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this call takes a session token or an admin token, not a job token"}
}

// admit checks a token when it is the turn of the address that it came from.
//
// A sender whose tokens keep failing has to connect anew for each further one. A
// request that was prepared costs it next to nothing, and a handshake costs it
// what it costs us. A proxy's connections are not the sender's.
func (s *Server) admit(c echo.Context, check func(quick bool) error) error {
	err := s.config.Gate.Check(c.Request().Context(), c.RealIP(), check, func(err error) bool {
		_, bad := errors.AsType[*oidc.Error](err)
		return bad || errors.Is(err, admin.ErrUnknown) || errors.Is(err, errClient) || proofFault(err)
	})
	if _, often := errors.AsType[*limit.Error](err); often {
		if host, _, splitting := net.SplitHostPort(c.Request().RemoteAddr); splitting == nil && host == c.RealIP() {
			c.Response().Header().Set(echo.HeaderConnection, "close")
		}
	}
	return err
}

// adminOnly is a caller that must be an admin with that role.
func (s *Server) adminOnly(c echo.Context, role admin.Role) (broker.Caller, error) {
	caller, err := s.caller(c, role)
	if err == nil && caller.Admin == nil {
		err = broker.ErrForbidden
	}
	return caller, err
}

func noStore(c echo.Context) { c.Response().Header().Set(echo.HeaderCacheControl, "no-store") }

func writeJSON(c echo.Context, status int, v any) error {
	encoded, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, encoded)
}
