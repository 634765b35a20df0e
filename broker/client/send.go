package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// CodeUnexpected is the code of a Problem that no broker sent: the answer came
// from something else on the way, and Status is all that is known of it.
const CodeUnexpected api.Code = "unexpected_answer"

const (
	firstPause = 250 * time.Millisecond // before the second try; twice as long before each further one
	maxRequest = api.MaxBody
)

// call is one request, however often it is sent.
type call struct {
	method, path, token string
	query               url.Values
	body                any    // JSON; none when nil
	key                 string // Idempotency-Key; none when empty
	prefer              string // Prefer; none when empty
	carried             string // a second token, which the body holds; none when empty
}

// answer is a successful one.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a call until it is answered, refused for good, or out of tries.
func (c *Client) do(ctx context.Context, k call) (*answer, error) {
	if err := checkToken(k.token); err != nil {
		return nil, err
	}
	var body []byte
	if k.body != nil {
		var err error
		if body, err = json.Marshal(k.body); err != nil {
			return nil, fmt.Errorf("encoding request: %w", err)
		}
		if len(body) > maxRequest {
			return nil, fmt.Errorf("the request has %d bytes, more than the %d that a broker accepts", len(body), maxRequest)
		}
	}
	for try := 1; ; try++ {
		a, pause, err := c.try(ctx, k, body)
		if err == nil {
			return a, nil
		}
		if pause < 0 || try == MaxTries {
			return nil, err
		}
		if pause == 0 {
			base := firstPause << (try - 1)
			pause = base/2 + jitter(base)
		}
		if deadline, ok := ctx.Deadline(); ok && c.now().Add(pause).After(deadline) {
			return nil, err // what the broker said tells more than a timeout
		}
		if !sleep(ctx, pause) {
			return nil, err
		}
	}
}

// never is the pause of what must not be repeated.
const never time.Duration = -1

// try sends a call once. With an error comes how long to wait before the next
// try: 0 for the caller to choose, or never.
func (c *Client) try(ctx context.Context, k call, body []byte) (*answer, time.Duration, error) {
	request, err := c.request(ctx, k, body)
	if err != nil {
		return nil, never, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		// What has a key is one exchange however often it is sent: what a try issued
		// whose answer was lost is taken back when the next one comes.
		if (notSent(err) || k.key != "" && !untrusted(err)) && ctx.Err() == nil {
			return nil, 0, err
		}
		return nil, never, err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswer+1))
	if err != nil {
		err = fmt.Errorf("reading answer: %w", err)
		if k.key != "" && ctx.Err() == nil {
			return nil, 0, err
		}
		return nil, never, err
	}
	if len(data) > MaxAnswer {
		return nil, never, fmt.Errorf("%w: status %d, more than %d bytes", ErrTooLarge, response.StatusCode, MaxAnswer)
	}
	if response.StatusCode/100 == 2 {
		return &answer{response.StatusCode, response.Header, data}, never, nil
	}
	// Whatever answered may have echoed the token.
	data = bytes.ReplaceAll(data, []byte(k.token), []byte("[redacted]"))
	if k.carried != "" {
		data = bytes.ReplaceAll(data, []byte(k.carried), []byte("[redacted]"))
	}
	return nil, c.pause(response), problem(response, data)
}

func (c *Client) request(ctx context.Context, k call, body []byte) (*http.Request, error) {
	u := *c.base
	u.Path += k.path
	u.RawQuery = k.query.Encode()
	request, err := http.NewRequestWithContext(ctx, k.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+k.token)
	request.Header.Set("User-Agent", c.userAgent)
	if c.key != nil {
		if err := c.prove(request, &k); err != nil {
			return nil, err
		}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if k.key != "" {
		request.Header.Set("Idempotency-Key", k.key)
	}
	if k.prefer != "" {
		request.Header.Set(api.HeaderPrefer, k.prefer)
	}
	return request, nil
}

// checkToken refuses what no header can carry, before net/http does in its own words.
func checkToken(token string) error {
	switch {
	case token == "":
		return fmt.Errorf("%w: it is empty", ErrToken)
	case len(token) > api.MaxToken:
		return fmt.Errorf("%w: it has more than %d bytes", ErrToken, api.MaxToken)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return fmt.Errorf("%w: byte %d of it is a space, a line end or not ASCII", ErrToken, i)
		}
	}
	return nil
}

// notSent says that no byte of the request can have left: no connection was made.
func notSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// untrusted says that whoever answered has no certificate that is trusted, or
// speaks no TLS: another try won't change that.
func untrusted(err error) bool {
	_, bad := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	return bad || plain || errors.Is(err, http.ErrSchemeMismatch)
}

// pause is how long to wait after a refusal.
func (c *Client) pause(response *http.Response) time.Duration {
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
	default:
		return never
	}
	text := response.Header.Get("Retry-After")
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(c.now())
	}
	if wait > MaxRetryAfter {
		return never
	}
	if wait > 0 {
		wait += jitter(firstPause)
	}
	return max(wait, 0)
}

// problem reads a refusal (RFC 9457).
func problem(response *http.Response, data []byte) *api.Problem {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var p api.Problem
	if kind != api.ProblemType || json.Unmarshal(data, &p) != nil || p.Code == "" {
		return unexpected(response.StatusCode, "it is no problem document")
	}
	p.Status = response.StatusCode // the body's copy is advisory (RFC 9457 §3.1.2)
	return &p
}

func unexpected(status int, why string) *api.Problem {
	title := http.StatusText(status)
	return &api.Problem{
		Type: "about:blank", Title: title, Status: status, Code: CodeUnexpected,
		Detail: fmt.Sprintf("answer %d %s is not a Daypass broker's: %s (hint: check the URL, and proxies on the way)", status, title, why),
	}
}

// jitter is a random duration from 0 up to, without, limit: it spreads clients
// out that were turned away together.
func jitter(limit time.Duration) time.Duration {
	var b [8]byte
	rand.Read(b[:])                                                        // never fails: it ends the program instead
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(limit)) //nolint:gosec // less than limit
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
