package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

const rulesType = "application/x-ndjson"

func (s *Server) redactionRoutes(e *echo.Echo) {
	e.GET(api.PathRedactionRules, s.redactionRules)
	e.POST(api.PathRedact, s.redact)
	e.POST(api.PathLeaks, s.leaks)
	e.POST(api.PathLeaksGitHub, s.reported("github", s.gitHubReport))
	e.GET(api.PathLeaksGitLabTypes, s.gitLabTypes)
	e.POST(api.PathLeaksGitLab, s.reported("gitlab", s.gitLabReport))
}

// redactionRules is GET /v1/redaction/rules, and ?watch=true.
func (s *Server) redactionRules(c echo.Context) error {
	caller, err := s.caller(c, admin.Viewer)
	if err != nil {
		return err
	}
	var watch string
	if _, err := readQuery(c, map[string]*string{"watch": &watch}); err != nil {
		return err
	}
	switch watch {
	case "true":
		return s.watchRules(c, caller)
	case "", "false":
	default:
		return &broker.RequestError{Detail: "watch is true, or left out"}
	}
	rules, err := s.config.Disclosures.Rules(c.Request().Context(), scope(caller))
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, api.RuleList{Rules: append([]api.Rule{shapeRule()}, wireRules(rules)...)})
}

// shapeRule is that of what the broker itself makes up.
func shapeRule() api.Rule {
	return api.Rule{ID: "daypass", Pattern: issuers.GeneratedPattern, Scope: api.ScopeBroker, Owner: "daypass"}
}

func wireRules(rules []leases.Rule) []api.Rule {
	out := make([]api.Rule, len(rules))
	for i := range rules {
		r := &rules[i]
		since := r.Since.UTC()
		out[i] = api.Rule{ID: r.ID, Pattern: r.Pattern, Scope: api.ScopeGrant, Name: r.Name, Policy: r.Policy, Grant: r.Grant, Owner: r.Owner, Since: &since}
		if r.Policy == "" {
			out[i].Scope = api.ScopeServer
		}
		if r.Until != nil {
			until := r.Until.UTC()
			out[i].Until = &until
		}
	}
	return out
}

// watchRules answers with a line for all rules, and one for each change, until the
// caller's token is worth nothing or the server stops.
func (s *Server) watchRules(c echo.Context, caller broker.Caller) error {
	sent, err := bearer(c)
	if err != nil {
		return err
	}
	if _, err := s.authenticate(c, sent); err != nil {
		return err // a session that has ended has nothing to watch
	}
	ctx, cancel := s.stopping(c.Request().Context(), 0)
	defer cancel()
	out := &streamWriter{c: c, control: http.NewResponseController(c.Response()), kind: rulesType}
	if err := withoutReadDeadline(out.control); err != nil {
		return err
	}
	send := func(change api.RuleChange) error {
		line, err := json.Marshal(change)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
		return out.Flush()
	}
	first := true
	err = s.config.Disclosures.Watch(ctx, scope(caller), func(change disclosures.Change) error {
		wire := api.RuleChange{Type: api.RulesChanged, Rules: wireRules(change.Rules), Removed: change.Removed}
		switch {
		case first:
			first = false
			wire.Type, wire.Rules = api.RulesAll, append([]api.Rule{shapeRule()}, wire.Rules...)
			return send(wire)
		case len(wire.Rules)+len(wire.Removed) == 0:
			wire.Type = api.RulesHeartbeat
		}
		// Each time it is asked anew whether the caller may still know. That the database
		// is away ends nothing: there is nothing to tell then, either.
		if _, err := s.authenticate(c, sent); err != nil && isRefusal(err) {
			return errTokenEnded
		}
		return send(wire)
	})
	switch {
	case errors.Is(context.Cause(ctx), errStopping):
		return send(api.RuleChange{Type: api.RulesEnd, Reason: "shutdown"})
	case errors.Is(err, errTokenEnded):
		return send(api.RuleChange{Type: api.RulesEnd, Reason: "session_ended"})
	case err != nil && out.begun:
		return errors.Join(errAborted, err)
	}
	return err
}

var errTokenEnded = errors.New("the token of a watcher is good for nothing any more")

// isRefusal tells a token that has ended from a database that is away.
func isRefusal(err error) bool {
	p := problemOf(err)
	return p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden
}
