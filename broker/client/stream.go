package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync/atomic"
	"time"
)

// streamIdle is how long the broker may keep a stream waiting.
const streamIdle = time.Minute

// errIdle ends a stream on which nobody but the broker is waited for.
var errIdle = errors.New("the broker kept the stream waiting for a minute")

// errEarly says that an answer ended before what it answers did: the rest of the
// text was not looked at.
var errEarly = errors.New("the broker's answer ended before the text did")

// stream makes a call whose answer is read as it comes, and whose body, if there
// is one, is sent as it comes. Of what was read from the body nothing can be sent
// again, so a call is repeated only as long as that is nothing.
func (c *Client) stream(ctx context.Context, k call, body *source) (*stream, error) {
	if err := checkToken(k.token); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		s, pause, err := c.open(ctx, k, body)
		if err == nil {
			return s, nil
		}
		if pause < 0 || try == MaxTries || body != nil && body.touched.Load() {
			return nil, err
		}
		if pause == 0 {
			base := firstPause << (try - 1)
			pause = base/2 + jitter(base)
		}
		if !sleep(ctx, pause) {
			return nil, err
		}
	}
}

// open sends a call once.
func (c *Client) open(ctx context.Context, k call, body *source) (*stream, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := c.request(ctx, k, nil)
	if err != nil {
		cancel(nil)
		return nil, never, err
	}
	request.Header.Set("Accept-Encoding", "identity") // what unpacks it would hold bytes back
	if body != nil {
		request.Body, request.ContentLength, request.GetBody = body, -1, nil
		request.Header.Set("Content-Type", "application/octet-stream")
		// A broker that refuses does so before the text is on its way.
		request.Header.Set("Expect", "100-continue")
	}
	s := &stream{source: body, end: func() { cancel(nil) }, cause: func() error { return context.Cause(ctx) }}
	s.idle = time.AfterFunc(streamIdle, func() { s.tick(cancel) })
	patient := *c.http
	patient.Timeout = 0
	response, err := patient.Do(request) //nolint:bodyclose // the stream closes it
	if err != nil {
		err = s.reason(err)
		s.idle.Stop()
		cancel(nil)
		if notSent(err) && ctx.Err() == nil {
			return nil, 0, err
		}
		return nil, never, err
	}
	s.idle.Stop()
	s.body = response.Body
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if response.StatusCode == http.StatusOK && kind != "text/html" {
		return s, never, nil
	}
	defer s.Close() //nolint:errcheck // it was only read
	if response.StatusCode == http.StatusOK {
		return nil, never, unexpected(response.StatusCode, "it is a web page")
	}
	s.source = nil // it doesn't matter how much of it a refusal has seen
	data, err := io.ReadAll(io.LimitReader(s, MaxAnswer))
	if err != nil {
		return nil, never, err
	}
	// Whatever answered may have echoed the token.
	return nil, c.pause(response), problem(response, bytes.ReplaceAll(data, []byte(k.token), []byte("[redacted]")))
}

// source is a body that is sent as it comes. The transport may go on reading it
// for one Read after the call has ended.
type source struct {
	from    io.Reader
	touched atomic.Bool           // something was read, or tried to be
	waiting atomic.Bool           // a Read is under way: it is the text that is waited for
	ended   atomic.Bool           // by io.EOF
	failed  atomic.Pointer[error] // any other error of from
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	s.touched.Store(true)
	s.waiting.Store(true)
	n, err := s.from.Read(p)
	s.waiting.Store(false)
	switch {
	case errors.Is(err, io.EOF):
		s.ended.Store(true)
	case err != nil:
		s.failed.Store(&err)
	}
	return n, err
}

// Close implements io.Closer: from is the caller's, and stays open.
func (*source) Close() error { return nil }

// stream is an answer that is read as it comes.
type stream struct {
	body   io.ReadCloser
	source *source // what it answers; nil without
	idle   *time.Timer
	end    func()
	cause  func() error
}

// tick ends the stream, unless it is not the broker that is waited for.
func (s *stream) tick(cancel context.CancelCauseFunc) {
	if s.source != nil && s.source.waiting.Load() {
		s.idle.Reset(streamIdle)
		return
	}
	cancel(errIdle)
}

// Read implements io.Reader. It gives io.EOF only when all of the text was
// answered; a stream that breaks off ends with another error.
func (s *stream) Read(p []byte) (int, error) {
	s.idle.Reset(streamIdle)
	n, err := s.body.Read(p)
	s.idle.Stop() // the reader may take its time
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
		err = s.reason(err)
	case s.source != nil && !s.source.ended.Load():
		err = errEarly
	}
	return n, err
}

// reason is why a stream broke off, where more is known than that it did.
func (s *stream) reason(err error) error {
	if s.source != nil {
		if failed := s.source.failed.Load(); failed != nil {
			return *failed
		}
	}
	if cause := s.cause(); cause != nil {
		return cause
	}
	return err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.idle.Stop()
	var err error
	if s.body != nil {
		err = s.body.Close()
	}
	s.end()
	return err
}
