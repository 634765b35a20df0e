package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// Seen is what a broker answered to somebody who showed no token.
type Seen struct {
	Status int
	Body   []byte
	// Date is the broker's clock, by the second; zero when it didn't say. Ahead is
	// how far it is ahead of ours, as far as one can tell.
	Date  time.Time
	Ahead time.Duration
}

// See asks once for a path that is open to all (api.PathReady, api.PathDiscovery),
// and gives whatever answer comes: for finding out what is wrong.
func (c *Client) See(ctx context.Context, path string) (*Seen, error) {
	u := *c.base
	u.Path += path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	request.Header.Set("User-Agent", c.userAgent)
	sent := c.now()
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	arrived := c.now()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	seen := &Seen{Status: response.StatusCode, Body: body}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		seen.Date = date
		// It was written at some moment of its second, between our sending and now.
		switch {
		case date.Add(time.Second).Before(sent):
			seen.Ahead = date.Add(time.Second).Sub(sent)
		case date.After(arrived):
			seen.Ahead = date.Sub(arrived)
		}
	}
	return seen, nil
}

// WouldExchange asks whether a grant would be given for a token, without anything
// being issued: it asks for the one value of the grant that none can have, which
// a broker refuses after its policies decided, and before anything is made. Nil
// says that the grant would be given; an [*api.Problem] why not.
func (c *Client) WouldExchange(ctx context.Context, token, grant string) error {
	query := url.Values{"grant": {grant}, "format": {"value"}, "field": {noField}}
	_, err := c.do(ctx, call{method: http.MethodPost, path: api.PathExchange, token: token, query: query})
	switch problem, refused := errors.AsType[*api.Problem](err); {
	case err == nil:
		return errors.New("the broker gave what does not exist: it is none")
	case refused && problem.Code == api.CodeInvalidRequest && strings.Contains(problem.Detail, strconv.Quote(noField)):
		return nil
	}
	return fmt.Errorf("asking about %s: %w", grant, err)
}

// noField is a value that no grant has: names of values have no question mark.
const noField = "would-it?"
