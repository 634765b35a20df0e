package httpapi

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/leases"
)

const (
	maxExports      = 2                // exports that run at once; more are asked to come again
	exportWriteTime = 30 * time.Second // for each part of an export
	exportFlush     = 64 << 10         // bytes of a part
	exportType      = "application/jsonl"
)

// auditCheckpoint is GET /v1/audit/checkpoint: the last one, as a signed note.
func (s *Server) auditCheckpoint(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	note, err := s.config.AuditLog.Latest(c.Request().Context())
	if errors.Is(err, sequencer.ErrNoCheckpoint) {
		return newProblem(http.StatusNotFound, api.CodeNotFound, "there is no checkpoint of the audit log yet: where keys.audit is configured, the first one is signed soon")
	}
	if err != nil {
		return errors.Join(leases.ErrUnavailable, err)
	}
	noStore(c)
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(note))
}

// auditExport is GET /v1/audit/export?from=SEQ&to=SEQ: JSON lines, as they are read. An
// export that fails on its way has no last line.
func (s *Server) auditExport(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	var fromText, toText string
	if _, err := readQuery(c, map[string]*string{"from": &fromText, "to": &toText}); err != nil {
		return err
	}
	from, fromErr := exportNumber(fromText, 0)
	to, toErr := exportNumber(toText, -1)
	if fromErr != nil || toErr != nil {
		return &broker.RequestError{Detail: "from and to are numbers of events: the first one is 0, and to is the one behind the last"}
	}
	select {
	case s.exports <- struct{}{}:
		defer func() { <-s.exports }()
	default:
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "other exports of the audit log are running on this broker")
		p.retryAfter = retryWhenFree
		return p
	}
	note(c, slog.Int64("from", from), slog.Int64("to", to))
	out := &exportWriter{c: c, control: http.NewResponseController(c.Response())}
	err := s.config.AuditLog.Export(c.Request().Context(), from, to, out.line)
	if err == nil {
		return out.flush()
	}
	switch {
	case out.begun:
		return err // the answer is under way: it stays without its last line
	case errors.Is(err, sequencer.ErrRange):
		return &broker.RequestError{Detail: err.Error()}
	}
	return errors.Join(leases.ErrUnavailable, err)
}

func exportNumber(text string, absent int64) (int64, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}

// exportWriter sends lines in parts, each with a deadline of its own: an export takes longer
// than an answer may, and a reader that takes nothing must not hold it up.
type exportWriter struct {
	c       echo.Context
	control *http.ResponseController
	buffer  []byte
	begun   bool
}

func (w *exportWriter) line(l *auditlog.Line) error {
	text, err := l.Encode()
	if err != nil {
		return err
	}
	w.buffer = append(w.buffer, text...)
	if len(w.buffer) < exportFlush {
		return nil
	}
	return w.flush()
}

func (w *exportWriter) flush() error {
	response := w.c.Response()
	if !w.begun {
		w.begun = true
		noStore(w.c)
		response.Header().Set(echo.HeaderContentType, exportType)
		response.WriteHeader(http.StatusOK)
	}
	// The deadline is of the machine's clock, whatever clock the broker has.
	if err := w.control.SetWriteDeadline(time.Now().Add(exportWriteTime)); err != nil && !errors.Is(err, http.ErrNotSupported) { //nolint:forbidigo // see above
		return err
	}
	if _, err := response.Write(w.buffer); err != nil {
		return err
	}
	w.buffer = w.buffer[:0]
	return w.control.Flush()
}
