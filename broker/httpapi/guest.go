package httpapi

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
)

// Guest is an API of another shape on this server, below a path of its own, such as
// the façade for clients of Vault. Its requests get what all get: an id, their line
// in the log, metrics, the gate before tokens, an end for panics. Routes and answers
// are its own.
type Guest interface {
	// Prefix is the path that all of it lies below: /vault.
	Prefix() string
	// Serve answers a request, or returns an error before anything is written. It
	// sets the visit's Route. An error of its own kind wraps an *api.Problem.
	Serve(w http.ResponseWriter, r *http.Request, visit *broker.Visit) error
	// Refuse answers with an error. problem is what the native API would say of it;
	// retryAfter is 0 where trying again is of no use.
	Refuse(w http.ResponseWriter, err error, problem *api.Problem, retryAfter time.Duration) error
}

// besides sends what lies below a guest's prefix to it, whatever the method and the
// path, and all else to the native API.
func (s *Server) besides(native http.Handler, guest Guest) http.Handler {
	e := s.newEchoRefusing(func(p *problem, c echo.Context, err error) error {
		p.RequestID = requestID(c)
		return guest.Refuse(c.Response(), err, &p.Problem, p.retryAfter)
	})
	// There are no routes: what this router doesn't know is the guest's to refuse, in
	// its own words.
	e.Use(func(echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return guest.Serve(c.Response(), c.Request(), s.visit(c)) }
	})
	prefix := guest.Prefix()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			e.ServeHTTP(w, r)
			return
		}
		native.ServeHTTP(w, r)
	})
}

// visit is what a guest is told of a request.
func (s *Server) visit(c echo.Context) *broker.Visit {
	v := &broker.Visit{
		RequestID: requestID(c), Admit: func(check func(quick bool) error) error { return s.admit(c, check) },
		Note: func(attrs ...slog.Attr) { note(c, attrs...) }, Stopping: s.draining.Load(),
	}
	v.RemoteIP, _ = netip.ParseAddr(c.RealIP()) // none is the zero Addr: conditions that ask for it deny
	if r, ok := c.Get(recordKey).(*record); ok {
		r.visit = v
	}
	return v
}
