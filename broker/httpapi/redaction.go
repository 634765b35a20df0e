package httpapi

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/disclosures"
)

// quiet is how long nothing comes before what waits is let go of: a prompt shows.
const quiet = 20 * time.Millisecond

// redact is POST /v1/redaction/redact: what is sent comes back masked, while it is
// being sent.
func (s *Server) redact(c echo.Context) error {
	caller, err := s.callerWithRole(c, admin.Redactor, admin.Operator)
	if err != nil {
		return err
	}
	ctx, cancel := s.stopping(c.Request().Context(), drainStreams)
	defer cancel()
	control := http.NewResponseController(c.Response())
	// HTTP/1 otherwise reads all of a request before it answers. HTTP/2 never does.
	_ = control.EnableFullDuplex()
	out := &streamWriter{c: c, control: control, kind: echo.MIMEOctetStream}
	mask, err := s.config.Disclosures.Mask(ctx, scope(caller), out)
	if err != nil {
		return err
	}
	defer mask.Abandon()
	if err := out.Begin(); err != nil {
		return err
	}
	in := s.streamReader(c)
	parts := read(ctx.Done(), in)
	err = pass(ctx.Done(), parts, mask, out)
	if cancel(); err != nil {
		// The reader must have let go of the body before the handler returns.
		_ = control.SetReadDeadline(time.Now()) //nolint:forbidigo // as in streamReader
	}
	for range parts { // it is emptied
	}
	note(c, slog.Int64("bytes", in.read))
	if err != nil {
		return errors.Join(errAborted, err)
	}
	return nil
}

// part is what one Read brought. Its bytes are the reader's again once another part
// was received.
type part struct {
	bytes []byte
	err   error
}

// read reads a stream beside its masking, one part ahead at the most.
func read(stop <-chan struct{}, from io.Reader) <-chan part {
	parts := make(chan part)
	go func() {
		defer close(parts)
		var buffers [2][streamPiece]byte
		for turn := 0; ; turn = 1 - turn {
			n, err := from.Read(buffers[turn][:])
			select {
			case parts <- part{buffers[turn][:n], err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return parts
}

// pass masks parts as they come.
func pass(stop <-chan struct{}, parts <-chan part, mask *disclosures.Mask, out *streamWriter) error {
	still := time.NewTimer(quiet)
	defer still.Stop()
	for {
		select {
		case <-stop:
			return errStopping
		case p, more := <-parts:
			if !more {
				return errStreamCut
			}
			if _, err := mask.Write(p.bytes); err != nil {
				return err
			}
			if errors.Is(p.err, io.EOF) {
				if err := mask.Close(); err != nil {
					return err
				}
				return out.Flush()
			}
			if p.err != nil {
				return p.err
			}
			still.Reset(quiet)
		case <-still.C:
			if err := mask.Flush(); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}
