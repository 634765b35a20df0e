package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// Explain asks, with an admin's token, how a decision came about: one that was
// recorded, or one that the broker would make now.
func (c *Client) Explain(ctx context.Context, token string, request api.ExplainRequest) (*api.Explanation, error) {
	var answer api.Explanation
	k := call{method: http.MethodPost, path: api.PathPoliciesExplain, token: token, body: request, carried: request.Token}
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("explaining: %w", err)
	}
	return &answer, nil
}

// DecisionFilter chooses recorded decisions.
type DecisionFilter struct {
	Since time.Time // all that are kept when zero
	Limit int       // of one page; the broker's own when 0
}

// Decisions reads one page of recorded decisions, oldest first, with an admin's
// token. Cursor is the Next of the page before, and empty for the first.
func (c *Client) Decisions(ctx context.Context, token string, filter DecisionFilter, cursor string) (*api.DecisionList, error) {
	query := url.Values{}
	if !filter.Since.IsZero() {
		query.Set("since", filter.Since.UTC().Format(time.RFC3339))
	}
	set(query, "cursor", cursor)
	setLimit(query, filter.Limit)
	var answer api.DecisionList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathDecisions, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("reading decisions: %w", err)
	}
	return &answer, nil
}
