package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
)

// Streams bounds what is sent to be masked or searched. Every field is required.
type Streams struct {
	MaxBytes int64
	MaxTime  time.Duration // of all of it
	Idle     time.Duration // without a byte
}

const (
	// streamWrite is how long whoever reads a stream may take for each part of it.
	streamWrite = 30 * time.Second
	// drainStreams is how long streams may go on once the server stops.
	drainStreams = 20 * time.Second
	streamPiece  = 32 << 10
)

// errAborted ends an answer that is under way so that its reader sees that it isn't
// whole: the connection is cut.
var errAborted = errors.New("the answer was cut off")

var (
	errStreamLong = errors.New("the stream is longer than it may be")
	errStreamSlow = errors.New("the stream took longer than it may, or nothing came for a while")
	errStreamCut  = errors.New("the stream could not be read to its end")
	errStopping   = errors.New("the server is shutting down")
)

func streamProblem(err error) *problem {
	switch {
	case errors.Is(err, errStreamLong):
		return newProblem(http.StatusRequestEntityTooLarge, api.CodeTooLarge, "the stream is longer than redaction.max_megabytes in the server's configuration: send it in parts")
	case errors.Is(err, errStreamSlow):
		return newProblem(http.StatusRequestTimeout, api.CodeInvalidRequest, "the stream took longer than it may, or nothing came for too long: send it again, in parts")
	case errors.Is(err, errStreamCut):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, "the stream could not be read to its end")
	case errors.Is(err, errStopping):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this broker is shutting down; send the stream again")
		p.retryAfter = retrySoon
		return p
	}
	return nil
}

// streamReader reads a body that may be long, within its bounds.
type streamReader struct {
	body    io.Reader
	control *http.ResponseController
	bounds  Streams
	until   time.Time // by the machine's clock
	read    int64
}

func (s *Server) streamReader(c echo.Context) *streamReader {
	return &streamReader{
		body: c.Request().Body, control: http.NewResponseController(c.Response()), bounds: s.config.Streams,
		until: time.Now().Add(s.config.Streams.MaxTime), //nolint:forbidigo // deadlines of connections are of the machine's clock
	}
}

// Read implements io.Reader.
func (r *streamReader) Read(p []byte) (int, error) {
	deadline := time.Now().Add(r.bounds.Idle) //nolint:forbidigo // as above
	if deadline.After(r.until) {
		deadline = r.until
	}
	if err := r.control.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("%w: %w", errStreamCut, err)
	}
	if left := r.bounds.MaxBytes - r.read + 1; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := r.body.Read(p)
	r.read += int64(n)
	switch {
	case r.read > r.bounds.MaxBytes:
		return 0, errStreamLong
	case errors.Is(err, io.EOF):
		if failed := withoutReadDeadline(r.control); failed != nil {
			return n, failed
		}
		return n, io.EOF
	case err == nil:
		return n, nil
	case !time.Now().Before(deadline): //nolint:forbidigo // as above
		return n, errStreamSlow
	}
	return n, errStreamCut
}

// withoutReadDeadline takes the deadline back that the connection is read with. net/http goes on
// reading beside the handler, to notice that the caller has gone, and takes a deadline
// that passes for just that: this request would be cancelled, and the next one on the
// connection too.
func withoutReadDeadline(control *http.ResponseController) error {
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errStreamCut, err)
	}
	return nil
}

// streamWriter sends an answer that takes longer than answers may. Each part has its
// deadline, and goes out at once.
type streamWriter struct {
	c       echo.Context
	control *http.ResponseController
	kind    string // of content
	begun   bool
}

// Begin sends the header.
func (w *streamWriter) Begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	noStore(w.c)
	header := w.c.Response().Header()
	header.Set(echo.HeaderContentType, w.kind)
	header.Set("X-Accel-Buffering", "no") // what proxies keep is late
	w.c.Response().WriteHeader(http.StatusOK)
	return w.Flush()
}

// Write implements io.Writer.
func (w *streamWriter) Write(p []byte) (int, error) {
	if err := w.Begin(); err != nil {
		return 0, err
	}
	w.extend()
	return w.c.Response().Write(p)
}

// Flush sends what is waiting.
func (w *streamWriter) Flush() error {
	w.extend()
	return w.control.Flush()
}

func (w *streamWriter) extend() {
	_ = w.control.SetWriteDeadline(time.Now().Add(streamWrite)) //nolint:forbidigo // as above; a connection without deadlines has none to be moved
}

// callerWithRole takes a session token whose session lives, or the token of an admin
// who has one of some roles.
func (s *Server) callerWithRole(c echo.Context, roles ...admin.Role) (broker.Caller, error) {
	sent, err := bearer(c)
	if err != nil {
		return broker.Caller{}, err
	}
	caller, err := s.authenticate(c, sent)
	if err != nil {
		return broker.Caller{}, err
	}
	if caller.Admin == nil {
		note(c, slog.String("session", caller.Session.ID))
		return caller, nil
	}
	note(c, slog.String("admin", caller.Admin.ID), slog.String("owner", caller.Admin.Owner))
	if !slices.ContainsFunc(roles, caller.Admin.Can) {
		return broker.Caller{}, broker.ErrForbidden
	}
	return caller, nil
}

// authenticate says whose token it is, if it is good for anything now.
func (s *Server) authenticate(c echo.Context, sent *presented) (caller broker.Caller, err error) {
	ctx := c.Request().Context()
	err = s.admit(c, func(bool) (err error) {
		switch token := sent.token.(type) {
		case broker.SessionToken:
			if caller.Session, err = s.config.Broker.FindSession(ctx, token); err == nil {
				err = s.lives(caller.Session)
			}
			if err == nil {
				err = s.checkKey(c, sent, caller.Session)
			}
		case broker.AdminToken:
			caller.Admin, err = s.config.Admins.Authenticate(ctx, string(token))
		default:
			err = &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this call takes a session token or an admin token, not a job token"}
		}
		return err
	})
	return caller, err
}

func (s *Server) lives(held *leases.Held) error {
	if held.TokenRevoked || held.RevokedAt != nil || !s.config.Store.Now().Before(held.ExpiresAt) {
		return &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session of this token has ended"}
	}
	return nil
}

// stopping is done a while after the server began to stop.
func (s *Server) stopping(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-s.drained:
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			cancel(errStopping)
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
