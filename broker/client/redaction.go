package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/daypass/daypass/broker/api"
)

const (
	maxLeaks = 16 << 20 // of an answer that lists what leaked, in bytes
	maxRules = 32 << 20 // of one set of rules, in bytes

	// A watch that breaks off is made again after a pause, twice as long each time.
	firstWatchPause = time.Second
	lastWatchPause  = time.Minute
)

// Redact sends a text and gives the same text masked, both as they come: with a
// session's token, by its own leases' values, the broker's shape and its grants'
// patterns; with a redactor's or operator's, by all that the broker knows.
//
// What is read from the answer is masked. It ends with [io.EOF] only when the
// whole text was answered: after any other error the rest was not masked, and
// must not be passed on. A broker that keeps the stream waiting for a minute ends
// it; a text that takes its time doesn't. Nothing is repeated once r was read.
//
// The caller closes the answer. R isn't closed, and is read for as long as the
// answer is open; one Read of it may still be under way after that.
func (c *Client) Redact(ctx context.Context, token string, r io.Reader) (io.ReadCloser, error) {
	stream, err := c.stream(ctx, call{method: http.MethodPost, path: api.PathRedact, token: token}, &source{from: r})
	if err != nil {
		return nil, fmt.Errorf("masking: %w", err)
	}
	return stream, nil
}

// Leaks sends a text and tells which leases' secrets stand in it: with a
// session's token, of its own leases; with a redactor's or operator's, of all.
// With revoke they are taken back as well. The answer never holds a value.
//
// R is read to its end, as the broker takes it, and not closed.
func (c *Client) Leaks(ctx context.Context, token string, r io.Reader, revoke bool) (*api.LeaksResponse, error) {
	k := call{method: http.MethodPost, path: api.PathLeaks, token: token, query: url.Values{}}
	if revoke {
		k.query.Set("revoke", "true")
	}
	var found api.LeaksResponse
	err := c.whole(ctx, k, &source{from: r}, &found)
	if err != nil {
		return nil, fmt.Errorf("looking for leaks: %w", err)
	}
	return &found, nil
}

// whole reads the whole answer to a body that is sent as it comes.
func (c *Client) whole(ctx context.Context, k call, body *source, into any) error {
	stream, err := c.stream(ctx, k, body)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(stream, maxLeaks+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxLeaks:
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, maxLeaks)
	case json.Unmarshal(data, into) != nil:
		return unexpected(http.StatusOK, "it is not the JSON that was expected") // json's error may quote a value
	}
	return nil
}

// WatchRedactionRules tells changed of the patterns that must not appear in a
// log, as [Client.RedactionRules] reads them: of all at once, and again of all
// whenever there are others.
//
// It returns when ctx has ended, when changed gives an error, or when the broker
// refuses for good (the token has ended, its owner may not). Whatever else
// happens, it asks again, after a pause of at most a minute, and tells of the
// whole set anew; what was told last stays what is known until then.
//
// The broker sends one JSON document a line. Empty lines keep the connection
// alive; when none comes for a minute it is made again.
func (c *Client) WatchRedactionRules(ctx context.Context, token string, changed func(api.RuleList) error) error {
	k := call{method: http.MethodGet, path: api.PathRedactionRules, token: token, query: url.Values{"watch": {"true"}}}
	if err := checkToken(token); err != nil {
		return fmt.Errorf("watching redaction rules: %w", err)
	}
	pause := firstWatchPause
	for {
		told, wait, err := c.watch(ctx, k, changed)
		if own, ok := errors.AsType[*notWanted](err); ok {
			return own.err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("watching redaction rules: %w", context.Cause(ctx))
		}
		if problem, ok := errors.AsType[*api.Problem](err); ok && final(problem) {
			return fmt.Errorf("watching redaction rules: %w", err)
		}
		if told {
			pause = firstWatchPause
		}
		// Whoever was cut off together must not come back together.
		sleep(ctx, max(wait, pause/2+jitter(pause)))
		pause = min(2*pause, lastWatchPause)
	}
}

// final says that asking again the same way will be answered the same way.
func final(p *api.Problem) bool {
	return p.Status/100 == 4 && p.Status != http.StatusTooManyRequests && p.Status != http.StatusRequestTimeout && p.Code != CodeUnexpected
}

// notWanted is the error of whoever is told of rules.
type notWanted struct{ err error }

func (e *notWanted) Error() string { return e.err.Error() }

// watch follows the rules over one connection. Told says that it brought a set.
func (c *Client) watch(ctx context.Context, k call, changed func(api.RuleList) error) (told bool, wait time.Duration, err error) {
	stream, wait, err := c.open(ctx, k, nil)
	if err != nil {
		return false, wait, err
	}
	defer stream.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxRules)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var rules api.RuleList
		if json.Unmarshal(line, &rules) != nil {
			return told, 0, unexpected(http.StatusOK, "it is not the JSON that was expected")
		}
		told = true
		if err := changed(rules); err != nil {
			return told, 0, &notWanted{err}
		}
	}
	return told, 0, lines.Err()
}
