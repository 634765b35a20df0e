package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/daypass/daypass/broker/api"
)

const (
	maxLeaks = 16 << 20 // of an answer that lists what leaked, in bytes
	maxLine  = 32 << 20 // of one line of a watch, in bytes
	maxRules = 50_000   // of a set

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
// it; a text that takes its time doesn't. A refusal that may pass is tried again as
// long as what was sent of the text is still kept (256 KiB).
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

// LeakSearch says more about a search than its text. The zero value is fine.
type LeakSearch struct {
	Revoke bool   // whether what is found is taken back
	Source string // where the text is from, for the record of what an admin's search finds
}

// Leaks sends a text and tells which leases' secrets stand in it: with a
// session's token, of its own leases; with a redactor's or operator's, of all.
// The answer never holds a value.
//
// R is read to its end, as the broker takes it, and not closed.
func (c *Client) Leaks(ctx context.Context, token string, r io.Reader, search LeakSearch) (*api.LeaksResponse, error) {
	k := call{method: http.MethodPost, path: api.PathLeaks, token: token, query: url.Values{}}
	if search.Revoke {
		k.query.Set("revoke", "true")
	}
	if search.Source != "" {
		k.query.Set("source", search.Source)
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
// A broker that says nothing for a minute counts as lost.
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
	lines.Buffer(nil, maxLine)
	rules := ruleSet{}
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var change api.RuleChange
		if json.Unmarshal(line, &change) != nil {
			return told, 0, unexpected(http.StatusOK, "it is not the JSON that was expected")
		}
		if !rules.apply(change) {
			continue
		}
		if len(rules) > maxRules {
			return told, 0, fmt.Errorf("%w: more than %d rules", ErrTooLarge, maxRules)
		}
		told = true
		if err := changed(rules.list()); err != nil {
			return told, 0, &notWanted{err}
		}
	}
	return told, 0, lines.Err()
}

// ruleSet is what a watch has brought, by id.
type ruleSet map[string]api.Rule

// apply takes one line of a watch, and says whether it was about rules.
func (s ruleSet) apply(change api.RuleChange) bool {
	switch change.Type {
	case api.RulesAll:
		clear(s)
	case api.RulesChanged:
		for _, id := range change.Removed {
			delete(s, id)
		}
	default: // a heartbeat, the end, or what only later versions know
		return false
	}
	for _, rule := range change.Rules {
		s[rule.ID] = rule
	}
	return true
}

// list gives the rules by id, so that equal sets look equal.
func (s ruleSet) list() api.RuleList {
	list := api.RuleList{Rules: make([]api.Rule, 0, len(s))}
	for _, id := range slices.Sorted(maps.Keys(s)) {
		list.Rules = append(list.Rules, s[id])
	}
	return list
}
