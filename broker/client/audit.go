package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// streamIdle is how long a stream may bring nothing.
const streamIdle = time.Minute

// AuditCheckpoint reads the last checkpoint of the audit log: a signed note.
func (c *Client) AuditCheckpoint(ctx context.Context, token string) (string, error) {
	answer, err := c.do(ctx, call{method: http.MethodGet, path: api.PathAuditCheckpoint, token: token})
	if err != nil {
		return "", fmt.Errorf("reading the last checkpoint: %w", err)
	}
	return string(answer.body), nil
}

// ExportAudit reads a part of the audit log, from a number on: the JSON lines of
// broker/audit/log, as they come. The broker chooses where the part ends; to is the number
// behind the last that is asked for, and negative for as much as is signed. The stream has no
// bound but its reader's patience; it ends with an error when nothing comes for a minute.
func (c *Client) ExportAudit(ctx context.Context, token string, from, to int64) (io.ReadCloser, error) {
	if err := checkToken(token); err != nil {
		return nil, err
	}
	query := url.Values{"from": {strconv.FormatInt(from, 10)}}
	if to >= 0 {
		query.Set("to", strconv.FormatInt(to, 10))
	}
	k := call{method: http.MethodGet, path: api.PathAuditExport, token: token, query: query}
	for try := 1; ; try++ {
		stream, pause, err := c.open(ctx, k)
		if err == nil {
			return stream, nil
		}
		if pause < 0 || try == MaxTries {
			return nil, fmt.Errorf("exporting the audit log: %w", err)
		}
		if pause == 0 {
			base := firstPause << (try - 1)
			pause = base/2 + jitter(base)
		}
		if !sleep(ctx, pause) {
			return nil, fmt.Errorf("exporting the audit log: %w", err)
		}
	}
}

// open sends a call whose answer is read as it comes.
func (c *Client) open(ctx context.Context, k call) (io.ReadCloser, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	idle := time.AfterFunc(streamIdle, func() { cancel(errIdle) })
	request, err := c.request(ctx, k, nil)
	if err != nil {
		cancel(nil)
		return nil, never, err
	}
	patient := *c.http
	patient.Timeout = 0
	response, err := patient.Do(request) //nolint:bodyclose // the stream closes it
	if err != nil {
		idle.Stop()
		cancel(nil)
		if notSent(err) && ctx.Err() == nil {
			return nil, 0, err
		}
		return nil, never, err
	}
	s := &stream{body: response.Body, idle: idle, end: func() { cancel(nil) }, cause: func() error { return context.Cause(ctx) }}
	if response.StatusCode == http.StatusOK {
		return s, never, nil
	}
	defer s.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(s, MaxAnswer))
	if err != nil {
		return nil, never, fmt.Errorf("reading answer: %w", err)
	}
	// Whatever answered may have echoed the token.
	return nil, c.pause(response), problem(response, bytes.ReplaceAll(data, []byte(k.token), []byte("[redacted]")))
}

var errIdle = errors.New("the broker sent nothing for a minute")

// stream is an answer that is read as it comes.
type stream struct {
	body  io.ReadCloser
	idle  *time.Timer
	end   func()
	cause func() error
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	s.idle.Reset(streamIdle)
	n, err := s.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := s.cause(); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.idle.Stop()
	err := s.body.Close()
	s.end()
	return err
}
