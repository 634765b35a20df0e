package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/policies"
)

// Reloader reads the policies and puts their set in force.
type Reloader func(ctx context.Context, trigger reloader.Trigger) (*reloader.Result, error)

// reload is POST /v1/policies/reload.
func (s *Server) reload(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	var confirm string
	if err := decodeOptional(c, map[string]any{"confirm": &confirm}); err != nil {
		return err
	}
	if len(confirm) > 64 {
		return &broker.RequestError{Detail: "confirm is the digest of a set: 64 hex digits"}
	}
	result, err := s.config.Reload(c.Request().Context(), reloader.Trigger{Actor: caller.Actor(), By: "api", Confirm: confirm})
	if err != nil {
		return err
	}
	note(c, slog.String("digest", result.Digest), slog.Bool("changed", result.Changed))
	body := api.ReloadResponse{
		Digest: result.Digest, Changed: result.Changed, Policies: result.Policies, Grants: result.Grants,
		Warnings: []api.Finding{}, LeasesNoLongerAllowed: append([]string{}, result.NoLongerAllowed...), Count: result.Count,
	}
	for _, f := range result.Warnings {
		body.Warnings = append(body.Warnings, api.Finding{
			Mistake: api.Mistake{File: f.File, Line: f.Line, Col: f.Col, Text: f.Text, Hint: f.Hint}, Rule: f.Rule, Severity: string(f.Severity),
		})
	}
	return writeJSON(c, http.StatusOK, body)
}

func invalidPolicies(err *policies.LoadError) *problem {
	p := newProblem(http.StatusUnprocessableEntity, api.CodeInvalidPolicies, "the policy folder has mistakes; the former set stays in force")
	for _, m := range err.Mistakes {
		p.Mistakes = append(p.Mistakes, api.Mistake{File: m.File, Line: m.Line, Col: m.Col, Text: m.Text, Hint: m.Hint})
	}
	return p
}

func confirmationRequired(err *reloader.ConfirmationError) *problem {
	p := newProblem(http.StatusConflict, api.CodeConfirmation, err.Why+`; the former set stays in force (hint: look at the change, then send {"confirm": "`+err.Digest+`"})`)
	p.Digest, p.Removes, p.Leases, p.Count = err.Digest, err.Removes, err.Leases, err.Count
	return p
}

// explained is what POST /v1/policies/explain answers.
type explained struct {
	*policies.Explanation

	RequestID string        `json:"request_id,omitempty"`
	DecidedAt time.Time     `json:"decided_at"`
	Recorded  *api.Recorded `json:"recorded,omitempty"`
	Note      string        `json:"note,omitempty"`
}

// explain is POST /v1/policies/explain.
func (s *Server) explain(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	req, err := decodeExplain(c.Request())
	if err != nil {
		return err
	}
	out, err := s.config.Broker.Explain(c.Request().Context(), *req)
	if errors.Is(err, leases.ErrNotFound) {
		return newProblem(http.StatusNotFound, api.CodeNotFound,
			"nothing was kept of this request: it decided nothing, it is too old, or it was a stranger's, of which few are kept")
	}
	if err != nil {
		return err
	}
	body := explained{Explanation: out.Explanation, DecidedAt: out.At.UTC(), Note: out.Note}
	if d := out.Decision; d != nil {
		body.RequestID = d.RequestID
		body.Recorded = &api.Recorded{Allowed: d.Allowed, Digest: d.Digest, Detail: d.Detail}
	}
	noStore(c)
	return writeJSON(c, http.StatusOK, body)
}

func decodeExplain(r *http.Request) (*broker.ExplainRequest, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var requestID, token, provider, grant, ttl, ip, at string
	var claims json.RawMessage
	if err := decodeObject(body, map[string]any{
		"request_id": &requestID, "token": &token, "provider": &provider, "claims": &claims, "grant": &grant, "ttl": &ttl, "ip": &ip, "at": &at,
	}); err != nil {
		return nil, err
	}
	req := &broker.ExplainRequest{RequestID: requestID, Token: broker.JobToken(token), Provider: provider, Grant: grant}
	switch {
	case requestID != "" && (token != "" || provider != "" || claims != nil || ttl != "" || ip != "" || at != ""):
		return nil, &broker.RequestError{Detail: "request_id stands for itself, or with grant: what was asked then is on record"}
	case requestID != "":
		if !ids.Valid(ids.Request, requestID) {
			return nil, &broker.RequestError{Detail: "request_id is what an answer's request_id or X-Request-Id says: req_…"}
		}
		return req, nil
	case (token != "") == (claims != nil) || (claims != nil) != (provider != ""):
		return nil, &broker.RequestError{Detail: "send request_id, or token and grant, or provider, claims and grant"}
	case len(token) > api.MaxToken:
		return nil, &broker.RequestError{Detail: "the token is larger than 16 KiB"}
	}
	if _, err := (wantedGrant{name: grant}).request(); err != nil {
		return nil, err
	}
	if req.TTL, err = parseTTL(ttl); err != nil {
		return nil, err
	}
	if ip != "" {
		if req.IP, err = netip.ParseAddr(ip); err != nil {
			return nil, &broker.RequestError{Detail: "ip is an address such as 203.0.113.7"}
		}
		req.IP = req.IP.Unmap()
	}
	if at != "" {
		if req.At, err = time.Parse(time.RFC3339, at); err != nil {
			return nil, &broker.RequestError{Detail: "at is a time such as 2026-11-23T10:00:00Z (RFC 3339)"}
		}
	}
	if claims != nil {
		req.Claims, err = decodeClaims(claims)
	}
	return req, err
}

const maxClaimDepth = 32

// decodeClaims reads claims as a verified token's are read: each name once,
// whole numbers as int64.
func decodeClaims(data []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	value, err := decodeStrict(decoder, 0)
	if err != nil {
		return nil, err
	}
	claims, ok := value.(map[string]any)
	if !ok {
		return nil, &broker.RequestError{Detail: "claims must be a JSON object"}
	}
	return claims, nil
}

func decodeStrict(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, badJSON(err)
	}
	if depth > maxClaimDepth {
		return nil, &broker.RequestError{Detail: fmt.Sprintf("claims with more than %d levels", maxClaimDepth)}
	}
	switch token := token.(type) {
	case json.Number:
		if whole, err := token.Int64(); err == nil {
			return whole, nil
		}
		return token.Float64()
	case json.Delim:
		if token == '[' {
			return decodeList(decoder, depth)
		}
		return decodeMapping(decoder, depth)
	default:
		return token, nil
	}
}

func decodeList(decoder *json.Decoder, depth int) (any, error) {
	list := []any{}
	for decoder.More() {
		item, err := decodeStrict(decoder, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	_, err := decoder.Token() // the closing bracket
	return list, err
}

func decodeMapping(decoder *json.Decoder, depth int) (any, error) {
	mapping := map[string]any{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, badJSON(err)
		}
		name, _ := key.(string)
		if _, twice := mapping[name]; twice {
			return nil, &broker.RequestError{Detail: fmt.Sprintf("claim %q stands twice", clip(name))}
		}
		if mapping[name], err = decodeStrict(decoder, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := decoder.Token() // the closing brace
	return mapping, err
}

// decisions is GET /v1/decisions.
func (s *Server) decisions(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	var since, cursor string
	limit, err := readQuery(c, map[string]*string{"since": &since, "cursor": &cursor})
	if err != nil {
		return err
	}
	var from time.Time
	if since != "" {
		if from, err = time.Parse(time.RFC3339, since); err != nil {
			return &broker.RequestError{Detail: "since is a time such as 2026-11-23T10:00:00Z (RFC 3339)"}
		}
	}
	if cursor != "" && !ids.Valid("", cursor) {
		return &broker.RequestError{Detail: "cursor is the next of the page before"}
	}
	list, next, err := s.config.Store.Decisions(c.Request().Context(), from, cursor, limit)
	if err != nil {
		return err
	}
	body := api.DecisionList{Decisions: []api.Decision{}, Next: next}
	for _, d := range list {
		wire, err := s.wireDecision(d)
		if err != nil {
			return err
		}
		body.Decisions = append(body.Decisions, wire)
	}
	noStore(c)
	return writeJSON(c, http.StatusOK, body)
}

func (s *Server) wireDecision(d *leases.Decision) (api.Decision, error) {
	claims, err := decodeClaims(d.Claims)
	if err != nil {
		return api.Decision{}, fmt.Errorf("decoding the claims of %s: %w", d.ID, err)
	}
	wire := api.Decision{
		ID: d.ID, At: d.At, RequestID: d.RequestID, Provider: d.Provider, ProviderType: s.config.Broker.ProviderType(d.Provider), Subject: d.Subject, Claims: claims,
		Grant: d.Grant, IP: d.IP, TokenExpiresAt: d.TokenExpiresAt, Allowed: d.Allowed, Job: d.Job, Digest: d.Digest, Detail: d.Detail,
	}
	if d.AskedTTL > 0 {
		wire.TTL = d.AskedTTL.String()
	}
	return wire, nil
}
