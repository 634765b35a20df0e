package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
)

// exchange is POST /v1/exchange.
func (s *Server) exchange(c echo.Context) error {
	if s.draining.Load() {
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this broker is shutting down; send the token again")
		p.retryAfter = retrySoon
		return p
	}
	sent, err := bearer(c)
	if err != nil {
		return err
	}
	if _, isAdmin := sent.token.(broker.AdminToken); isAdmin {
		return &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this call takes a job token or a session token, not an admin's"}
	}
	wanted, format, err := decodeExchange(c.Request())
	if err != nil {
		return err
	}
	if format.name == "value" && len(wanted) == 1 {
		wanted[0].Accept = format.pick
	}
	if err := format.check(len(wanted)); err != nil {
		return err
	}
	key, err := retryKey(c.Request())
	if err != nil {
		return err
	}
	noStore(c)
	request := broker.ExchangeRequest{
		Token: sent.token, Grants: wanted, RetryKey: key, RequestID: requestID(c), Admit: func(check func(quick bool) error) error { return s.admit(c, check) },
		Prove: func(held *leases.Held) ([]byte, error) { return s.prove(c, sent, held) },
	}
	request.RemoteIP, _ = netip.ParseAddr(c.RealIP()) // none is the zero Addr: conditions that ask for it deny
	out, err := s.config.Broker.Exchange(c.Request().Context(), &request)
	if err != nil {
		return err
	}
	leaseIDs, grants := make([]string, len(out.Credentials)), make([]string, len(out.Credentials))
	for i, cred := range out.Credentials {
		leaseIDs[i], grants[i] = cred.LeaseID, cred.Grant
	}
	note(c, slog.String("session", out.SessionID), slog.Any("leases", leaseIDs), slog.Any("grants", grants))
	return s.render(c, format, out)
}

func (s *Server) render(c echo.Context, f *format, out *broker.Exchanged) error {
	body := exchangeResponse(out)
	switch f.name {
	case "json":
		if prefers(c.Request(), api.PreferRevocationToken) {
			body.Session.RevocationToken = out.RevocationToken.Reveal()
			c.Response().Header().Set(api.HeaderPreferenceApplied, api.PreferRevocationToken)
		}
		return writeJSON(c, http.StatusOK, body)
	case "value":
		return c.String(http.StatusOK, body.Credentials[0].Values[f.field])
	}
	return c.String(http.StatusOK, f.write(body))
}

// prefers says whether a request has a preference (RFC 7240, section 2), which are
// separated by commas. What it says beyond its name is left aside.
func prefers(r *http.Request, name string) bool {
	for _, value := range r.Header.Values(api.HeaderPrefer) {
		for preference := range strings.SplitSeq(value, ",") {
			if said, _, _ := strings.Cut(preference, ";"); strings.EqualFold(strings.TrimSpace(said), name) {
				return true
			}
		}
	}
	return false
}

func exchangeResponse(out *broker.Exchanged) *api.ExchangeResponse {
	body := &api.ExchangeResponse{
		Session:   api.Session{ID: out.SessionID, Token: out.SessionToken.Reveal(), ExpiresAt: out.ExpiresAt.Truncate(time.Second)},
		Redaction: api.Redaction{Patterns: out.Patterns},
	}
	if out.Bound {
		body.Session.TokenType = api.TokenTypeDPoP
	}
	for _, cred := range out.Credentials {
		wire := api.Credential{
			Grant: cred.Grant, LeaseID: cred.LeaseID, Issuer: cred.Issuer, Kind: cred.Kind, Revocation: string(cred.Revocation),
			ExpiresAt: cred.ExpiresAt, Renewable: cred.Renewable, Values: map[string]string{}, Secret: []string{}, Env: map[string]string{},
		}
		if cred.Bound {
			wire.TokenType = api.TokenTypeDPoP
		}
		for _, v := range cred.Values {
			wire.Values[v.Name] = v.Value.Reveal()
			if v.Sensitive {
				wire.Secret = append(wire.Secret, v.Name)
			}
		}
		for name, value := range cred.Env {
			wire.Env[name] = wire.Values[value]
		}
		body.Credentials = append(body.Credentials, wire)
	}
	return body
}

// session is GET /v1/session.
func (s *Server) session(c echo.Context) error {
	caller, err := s.caller(c, "")
	if err != nil {
		return err
	}
	held := caller.Session
	list, err := s.config.Store.List(c.Request().Context(), leases.Filter{Session: held.ID, SessionToken: held.TokenHash[:], Limit: maxPage})
	if err != nil {
		return err
	}
	noStore(c)
	return writeJSON(c, http.StatusOK, api.SessionInfo{Session: api.Session{ID: held.ID, ExpiresAt: held.ExpiresAt.UTC().Truncate(time.Second)}, Leases: wireLeases(list)})
}

// revokeSession is POST /v1/session/revoke. A token that is bound to a key is taken
// without a proof too: it takes power away and gives none, as RFC 7009 has it of all
// tokens, and whoever tidies up behind a job that was killed doesn't have its key.
func (s *Server) revokeSession(c echo.Context) error {
	caller, err := s.givingBack(c)
	if err != nil {
		return err
	}
	reason, err := decodeReason(c)
	if err != nil {
		return err
	}
	ended, err := s.config.Broker.RevokeSession(c.Request().Context(), caller.Session, reason)
	if err != nil {
		return err
	}
	body := api.RevokeResponse{}
	if !caller.Session.ByRevocation { // which shows nothing of what it ends
		body.Leases = wireLeases(ended)
	}
	return answerRevoked(c, ended, body)
}

// givingBack takes a session token, or its revocation token, which is a bearer's.
func (s *Server) givingBack(c echo.Context) (broker.Caller, error) {
	scheme, raw, err := authorization(c)
	if err != nil {
		return broker.Caller{}, err
	}
	token, ok := broker.ParseRevocationToken(raw)
	if !ok {
		sent, err := bearer(c)
		if err != nil {
			return broker.Caller{}, err
		}
		sent.bare = true
		return s.caller(c, "")
	}
	if scheme != schemeBearer {
		return broker.Caller{}, &schemeError{"revocation tokens are bound to no key: send this one as `Authorization: Bearer TOKEN`"}
	}
	var held *leases.Held
	if err := s.admit(c, func(bool) (err error) {
		held, err = s.config.Broker.FindRevocable(c.Request().Context(), token)
		return err
	}); err != nil {
		return broker.Caller{}, err
	}
	note(c, slog.String("session", held.ID), slog.String("by", "revocation token"))
	return broker.Caller{Session: held}, nil
}

// lease is GET /v1/leases/{id}.
func (s *Server) lease(c echo.Context) error {
	caller, id, err := s.callerAndLease(c, admin.Viewer)
	if err != nil {
		return err
	}
	l, err := s.config.Broker.Lease(c.Request().Context(), caller, id)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireLease(l))
}

// renew is POST /v1/leases/{id}/renew.
func (s *Server) renew(c echo.Context) error {
	caller, id, err := s.callerAndLease(c, admin.Operator)
	if err != nil {
		return err
	}
	var asked string
	if err := decodeOptional(c, map[string]any{"ttl": &asked}); err != nil {
		return err
	}
	ttl, err := parseTTL(asked)
	if err != nil {
		return err
	}
	l, err := s.config.Broker.Renew(c.Request().Context(), caller, id, ttl)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireLease(l))
}

// revoke is POST /v1/leases/{id}/revoke.
func (s *Server) revoke(c echo.Context) error {
	caller, id, err := s.callerAndLease(c, admin.Operator)
	if err != nil {
		return err
	}
	var reason string
	var job bool
	if err := decodeOptional(c, map[string]any{"reason": &reason, "job": &job}); err != nil {
		return err
	}
	if err := checkReason(reason); err != nil {
		return err
	}
	if job {
		ended, err := s.config.Broker.RevokeJob(c.Request().Context(), caller, id, reason)
		if err != nil {
			return err
		}
		return answerRevoked(c, ended, api.RevokeResponse{Leases: wireLeases(ended)})
	}
	l, err := s.config.Broker.Revoke(c.Request().Context(), caller, id, reason)
	if err != nil {
		return err
	}
	return answerRevoked(c, []*leases.Lease{l}, api.RevokeResponse{ValidElsewhereUntil: l.ValidElsewhereUntil()})
}

// answerRevoked says "revoked" once nothing is left to do, even where a copy
// still verifies elsewhere: valid_elsewhere_until tells how long.
func answerRevoked(c echo.Context, ended []*leases.Lease, body api.RevokeResponse) error {
	for _, l := range ended {
		if !l.State.Ended() {
			body.State = string(leases.Revoking)
			return writeJSON(c, http.StatusAccepted, body)
		}
	}
	body.State = string(leases.Revoked)
	return writeJSON(c, http.StatusOK, body)
}

// forget is POST /v1/leases/{id}/forget.
func (s *Server) forget(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	id, err := leaseID(c)
	if err != nil {
		return err
	}
	reason, err := decodeReason(c)
	if err != nil {
		return err
	}
	if strings.TrimSpace(reason) == "" {
		return &broker.RequestError{Detail: `giving up on a revocation needs a reason: {"reason": "…"}`}
	}
	l, err := s.config.Store.Forget(c.Request().Context(), id, leases.Why{Actor: caller.Actor(), Reason: reason})
	if err != nil {
		return err
	}
	s.config.Logger.WarnContext(c.Request().Context(), "a lease was forgotten: its credential may still be on the target", "lease", id, "issuer", l.Issuer, "actor", caller.Actor(), "why", reason)
	s.metrics.forgotten.Inc()
	return writeJSON(c, http.StatusOK, wireLease(l))
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// listLeases is GET /v1/leases.
func (s *Server) listLeases(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	f := leases.Filter{}
	var expires, stuck string
	limit, err := readQuery(c, map[string]*string{
		"policy": &f.Policy, "grant": &f.Grant, "issuer": &f.Issuer, "session": &f.Session, "subject": &f.Subject,
		"provider": &f.Provider, "target": &f.Target, "state": (*string)(&f.State), "cursor": &f.Before, "expires_before": &expires, "stuck": &stuck,
	})
	if err != nil {
		return err
	}
	if expires != "" {
		if f.ExpiresBefore, err = time.Parse(time.RFC3339, expires); err != nil {
			return &broker.RequestError{Detail: "expires_before is a time such as 2026-11-23T10:00:00Z (RFC 3339)"}
		}
	}
	switch {
	case stuck != "" && stuck != "true":
		return &broker.RequestError{Detail: "stuck is true, or left out"}
	case f.State == api.StateStuck: // no state of its own: people look for it by this name
		f.State, f.Stuck = "", true
	case stuck == "true":
		f.Stuck = true
	}
	// A grant is named POLICY/GRANT everywhere else: take that here too.
	if policy, grant, both := strings.Cut(f.Grant, "/"); both {
		f.Policy, f.Grant = policy, grant
	}
	f.Limit = limit
	list, next, err := s.config.Store.Page(c.Request().Context(), f)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, api.LeaseList{Leases: wireLeases(list), Next: next})
}

// AuditLister reads the audit log.
type AuditLister func(ctx context.Context, page audit.Page) ([]audit.Event, error)

// audit is GET /v1/audit.
func (s *Server) audit(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	page := audit.Page{}
	limit, err := readQuery(c, map[string]*string{"subject": &page.Subject, "cursor": &page.Before})
	if err != nil {
		return err
	}
	page.Limit = limit + 1
	events, err := s.config.Audit(c.Request().Context(), page)
	if err != nil {
		return err
	}
	body := api.EventList{Events: []api.Event{}}
	if len(events) > limit {
		events = events[:limit]
		body.Next = events[limit-1].ID
	}
	for _, e := range events {
		actor, data := e.Details()
		body.Events = append(body.Events, api.Event{
			ID: e.ID, At: e.At.UTC(), Type: string(e.Type), Subject: e.Subject, Count: e.Count, Actor: actor, Data: data,
			Leaf: e.LeafHex(), MAC: e.MACHex(), KeyID: e.KeyID,
		})
	}
	return writeJSON(c, http.StatusOK, body)
}

func (s *Server) callerAndLease(c echo.Context, role admin.Role) (broker.Caller, string, error) {
	caller, err := s.caller(c, role)
	if err != nil {
		return caller, "", err
	}
	id, err := leaseID(c)
	return caller, id, err
}

func leaseID(c echo.Context) (string, error) {
	id := c.Param("id")
	if !ids.Valid(ids.Lease, id) {
		return "", leases.ErrNotFound
	}
	note(c, slog.String("lease", id))
	return id, nil
}

func decodeOptional(c echo.Context, fields map[string]any) error {
	body, err := readBody(c.Request())
	if err != nil || len(body) == 0 {
		return err
	}
	return decodeObject(body, fields)
}

func decodeReason(c echo.Context) (string, error) {
	var reason string
	if err := decodeOptional(c, map[string]any{"reason": &reason}); err != nil {
		return "", err
	}
	return reason, checkReason(reason)
}

func checkReason(reason string) error {
	if len(reason) > 1000 {
		return &broker.RequestError{Detail: "a reason has at most 1,000 characters"}
	}
	return nil
}

// readQuery reads known parameters, each at most once, and `limit`.
func readQuery(c echo.Context, into map[string]*string) (limit int, err error) {
	limit = defaultPage
	for name, values := range c.QueryParams() {
		if len(values) > 1 || len(values[0]) > 512 || strings.ContainsRune(values[0], 0) || !utf8.ValidString(values[0]) {
			return 0, &broker.RequestError{Detail: "a query parameter stands twice, is too long, or is no text: " + clip(name)}
		}
		if name == "limit" {
			limit, err = strconv.Atoi(values[0])
			if err != nil || limit < 1 || limit > maxPage {
				return 0, &broker.RequestError{Detail: "limit is a number from 1 to 1000"}
			}
			continue
		}
		target, known := into[name]
		if !known {
			return 0, &broker.RequestError{Detail: "unknown query parameter " + strconv.Quote(clip(name))}
		}
		*target = values[0]
	}
	return limit, nil
}

func wireLeases(list []*leases.Lease) []api.Lease {
	out := make([]api.Lease, len(list))
	for i, l := range list {
		out[i] = wireLease(l)
	}
	return out
}

func wireLease(l *leases.Lease) api.Lease {
	out := api.Lease{
		ID: l.ID, State: string(l.State), Policy: l.Policy, Grant: l.Grant, Issuer: l.Issuer, Kind: l.Kind, Target: l.Target,
		Revocation: string(l.Revocation), Session: l.SessionID, Provider: l.Provider, Subject: l.Subject,
		IssuedAt: l.IssuedAt, ExpiresAt: l.ExpiresAt, EndedAt: l.EndedAt, Renewable: l.Renewable && l.State == leases.Active,
		ValidElsewhereUntil: l.ValidElsewhereUntil(), PolicyDigest: l.PolicyDigest, SigningKey: l.SigningKey, Stuck: l.Stuck, Attempts: l.Attempts, LastError: l.LastError,
	}
	if out.Renewable {
		out.MaxExpiresAt = &l.MaxExpiresAt
	}
	return out
}
