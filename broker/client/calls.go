package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// Exchange gives a job token (or a session token) for credentials. When one
// grant can't be had, the error's Grant names it and nothing was issued.
func (c *Client) Exchange(ctx context.Context, token string, request api.ExchangeRequest) (*api.ExchangeResponse, error) {
	var answer api.ExchangeResponse
	k := exchange(token, request, nil)
	k.prefer = api.PreferRevocationToken
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("exchanging: %w", err)
	}
	if err := c.wantBound(ctx, &answer); err != nil {
		return nil, fmt.Errorf("exchanging: %w", err)
	}
	return &answer, nil
}

// RawOptions says how the broker renders an exchange.
type RawOptions struct {
	Format  string // json (when empty), env, dotenv, github or value
	Field   string // which value, of format value; the only secret one when empty
	Session bool   // adds the session token to formats other than json
}

// ExchangeRaw is [Client.Exchange], with the credentials as the broker renders
// them for shells and files. Not with Config.DPoP: whoever reads them doesn't have the key.
func (c *Client) ExchangeRaw(ctx context.Context, token string, request api.ExchangeRequest, options RawOptions) ([]byte, error) {
	if c.key != nil {
		return nil, errors.New("exchanging: what is bound to the key of this client (DPoP) is of no use outside of it")
	}
	query := url.Values{}
	set(query, "format", options.Format)
	set(query, "field", options.Field)
	if options.Session {
		query.Set("session", "true")
	}
	answer, err := c.do(ctx, exchange(token, request, query))
	if err != nil {
		return nil, fmt.Errorf("exchanging: %w", err)
	}
	// Scripts eval what comes: a captive portal's page must not get that far.
	if kind, _, _ := mime.ParseMediaType(answer.header.Get("Content-Type")); kind == "text/html" {
		return nil, fmt.Errorf("exchanging: %w", unexpected(answer.status, "it is a web page"))
	}
	return answer.body, nil
}

func exchange(token string, request api.ExchangeRequest, query url.Values) call {
	return call{
		method: http.MethodPost, path: api.PathExchange, token: token, query: query, body: request,
		// One key for all tries: whatever happened to the answer of the first,
		// it is one exchange.
		key: rand.Text(),
	}
}

// Session tells what a session token's session holds.
func (c *Client) Session(ctx context.Context, token string) (*api.SessionInfo, error) {
	var answer api.SessionInfo
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathSession, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("reading session: %w", err)
	}
	return &answer, nil
}

// RevokeSession gives back everything that was obtained with a session token. It takes
// that token, or the revocation token that came with it. State "revoking" in the
// answer means that the broker goes on with it by itself.
func (c *Client) RevokeSession(ctx context.Context, token, reason string) (*api.RevokeResponse, error) {
	var answer api.RevokeResponse
	k := call{method: http.MethodPost, path: api.PathSessionRevoke, token: token, body: api.RevokeRequest{Reason: reason}}
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("revoking session: %w", err)
	}
	return &answer, nil
}

// Lease reads one lease.
func (c *Client) Lease(ctx context.Context, token, id string) (*api.Lease, error) {
	path, err := leasePath(id, "")
	if err != nil {
		return nil, err
	}
	var answer api.Lease
	if err := c.json(ctx, call{method: http.MethodGet, path: path, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("reading lease: %w", err)
	}
	return &answer, nil
}

// LeaseFilter chooses leases. An empty field chooses all; several must all fit.
type LeaseFilter struct {
	Policy, Grant, Issuer, Session, Subject, Provider, State, Target string

	ExpiresBefore time.Time // chooses all when zero
	Limit         int       // of one page; the broker's own when 0
}

func (f LeaseFilter) query() url.Values {
	query := url.Values{}
	set(query, "policy", f.Policy)
	set(query, "grant", f.Grant)
	set(query, "issuer", f.Issuer)
	set(query, "session", f.Session)
	set(query, "subject", f.Subject)
	set(query, "provider", f.Provider)
	set(query, "state", f.State)
	set(query, "target", f.Target)
	if !f.ExpiresBefore.IsZero() {
		query.Set("expires_before", f.ExpiresBefore.UTC().Format(time.RFC3339))
	}
	setLimit(query, f.Limit)
	return query
}

// Leases reads one page of leases, newest first. Cursor is the Next of the page
// before, and empty for the first.
func (c *Client) Leases(ctx context.Context, token string, filter LeaseFilter, cursor string) (*api.LeaseList, error) {
	query := filter.query()
	set(query, "cursor", cursor)
	var answer api.LeaseList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathLeases, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	return &answer, nil
}

// Renew gives a lease a later end: ttl from now, in the notation "10m"; the
// grant's own when empty.
func (c *Client) Renew(ctx context.Context, token, id, ttl string) (*api.Lease, error) {
	path, err := leasePath(id, "/renew")
	if err != nil {
		return nil, err
	}
	var answer api.Lease
	k := call{method: http.MethodPost, path: path, token: token, body: api.RenewRequest{TTL: ttl}}
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("renewing lease: %w", err)
	}
	return &answer, nil
}

// Revoke takes one lease back. It may be repeated.
func (c *Client) Revoke(ctx context.Context, token, id string, how api.RevokeRequest) (*api.RevokeResponse, error) {
	path, err := leasePath(id, "/revoke")
	if err != nil {
		return nil, err
	}
	var answer api.RevokeResponse
	k := call{method: http.MethodPost, path: path, token: token, body: how}
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("revoking lease: %w", err)
	}
	return &answer, nil
}

// EventFilter chooses events of the audit log.
type EventFilter struct {
	Subject string // id of the lease, session or token that they are about; all when empty
	Limit   int    // of one page; the broker's own when 0
}

// Audit reads one page of the audit log, newest first. Cursor is the Next of the
// page before, and empty for the first.
func (c *Client) Audit(ctx context.Context, token string, filter EventFilter, cursor string) (*api.EventList, error) {
	query := url.Values{}
	set(query, "subject", filter.Subject)
	set(query, "cursor", cursor)
	setLimit(query, filter.Limit)
	var answer api.EventList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathAudit, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("reading audit log: %w", err)
	}
	return &answer, nil
}

// RedactionRules reads which patterns must not appear in a log: those of a
// session, with its token; all, with an admin token.
func (c *Client) RedactionRules(ctx context.Context, token string) ([]api.Rule, error) {
	var answer api.RuleList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathRedactionRules, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("reading redaction rules: %w", err)
	}
	return answer.Rules, nil
}

// ReloadPolicies makes the broker read its policy folder. An error with code
// invalid_policies has every mistake; one with confirmation_required has the
// digest that an operator has to look at and send as confirm ("" for none).
func (c *Client) ReloadPolicies(ctx context.Context, token, confirm string) (*api.ReloadResponse, error) {
	var answer api.ReloadResponse
	k := call{method: http.MethodPost, path: api.PathPoliciesReload, token: token, body: api.ReloadRequest{Confirm: confirm}}
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("reloading policies: %w", err)
	}
	return &answer, nil
}

// json makes a call and decodes its answer. Members that this version doesn't
// know are left aside, so that a newer broker can be talked to.
func (c *Client) json(ctx context.Context, k call, into any) error {
	answer, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(answer.body)).Decode(into); err != nil {
		return unexpected(answer.status, "it is not the JSON that was expected") // json's error may quote a value
	}
	return nil
}

// leasePath refuses what can't be an id and would lead to another path.
func leasePath(id, verb string) (string, error) {
	for _, r := range id {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			id = ""
		}
	}
	if id == "" {
		return "", errors.New("not the id of a lease (hint: it looks like lse_01J…; `daypass lease ls` shows them)")
	}
	return api.PathLeases + "/" + id + verb, nil
}

func set(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

func setLimit(query url.Values, limit int) {
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
}
