package vaultapi

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/broker"
)

// secret is GET {path}: a new lease at each time.
func (s *Server) secret(c *call, grant string) error {
	c.visit.Route = routeSecret
	var token any
	inline, err := s.inline(c, grant)
	switch {
	case err != nil:
		return err
	case inline != "":
		token = inline
	default:
		if token, err = tokenOf(c.r.Header); err != nil {
			return err
		}
	}
	query := c.r.URL.Query()
	engine := engineOf(c.path)
	version := query.Get("version")
	switch {
	case c.r.Method != http.MethodGet, query.Get("list") != "" && query.Get("list") != "false":
		// Nothing is made for those who only look: HEAD and lists, too.
		if _, err := s.held(c, false); err != nil {
			return err
		}
		return unsupported()
	case engine.kind == kindKV && version != "" && version != "0" && version != "1":
		return s.nothing(c) // there is one version
	case c.visit.Stopping:
		return stopping()
	}
	out, err := s.config.Broker.Exchange(c.r.Context(), &broker.ExchangeRequest{
		Token: token, Grants: []broker.GrantRequest{{Name: grant}}, RequestID: c.visit.RequestID, RemoteIP: c.visit.RemoteIP, Admit: c.visit.Admit,
	})
	if err != nil && inline != "" {
		c.w.Header().Set(headerInlineFailed, "true")
		return loginError{err}
	}
	if err != nil {
		return err
	}
	got := &out.Credentials[0]
	c.visit.Note(slog.String("session", out.SessionID), slog.Any("leases", []string{got.LeaseID}), slog.Any("grants", []string{got.Grant}))
	return c.answer(s.shape(c, engine, got, inline != ""))
}

// shape is a credential as the engine would answer it that its path speaks of.
func (s *Server) shape(c *call, of engine, got *broker.Credential, inline bool) *envelope {
	now := s.config.Broker.Now()
	values := valuesOf(got)
	if of.kind == kindKV {
		// Readers of a key-value store expect no lease: this one ends by itself, or with
		// the token.
		return &envelope{Data: map[string]any{"data": values, "metadata": map[string]any{
			"created_time": now.UTC().Format(time.RFC3339Nano), "custom_metadata": nil, "deletion_time": "", "destroyed": false, "version": 1,
		}}}
	}
	e := &envelope{LeaseID: c.path + "/" + got.LeaseID, Renewable: got.Renewable, LeaseDuration: seconds(now, got.ExpiresAt), Data: values}
	if inline {
		e.LeaseID, e.Renewable = "", false // there is no token that could renew it
	}
	return e
}

// envField holds all that a grant would set in an environment, in lines that are
// safe to eval: for clients that read one field at a time, with a lease each.
const envField = "env"

// valuesOf are the values of a credential by name. None is called data: clients take
// a data inside data for a key-value store's, and open it.
func valuesOf(got *broker.Credential) map[string]string {
	values := make(map[string]string, len(got.Values)+1)
	byName := map[string]string{}
	for _, v := range got.Values {
		byName[v.Name] = v.Value.Reveal()
		if v.Name == "data" {
			continue
		}
		values[v.Name] = v.Value.Reveal()
	}
	if value, ok := byName["data"]; ok {
		name := "data_"
		for _, taken := values[name]; taken; _, taken = values[name] {
			name += "_"
		}
		values[name] = value
	}
	if _, taken := values[envField]; !taken && len(got.Env) > 0 {
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(got.Env)) {
			// In single quotes nothing is special but the quote itself (XCU §2.2.2).
			fmt.Fprintf(&lines, "export %s='%s'\n", name, strings.ReplaceAll(byName[got.Env[name]], "'", `'\''`))
		}
		values[envField] = lines.String()
	}
	return values
}

// The headers of OpenBao's inline authentication: a read that brings its login.
const (
	headerInlinePath      = "X-Vault-Inline-Auth-Path"
	headerInlineOperation = "X-Vault-Inline-Auth-Operation"
	headerInlineNamespace = "X-Vault-Inline-Auth-Namespace"
	headerInlineFailed    = "X-Vault-Inline-Auth-Failed"
	headerInlineParameter = "X-Vault-Inline-Auth-Parameter-"
)

// inline is the job token of a request that logs in by itself; "" where it doesn't.
// Its role must have the grant. No token is made: the lease belongs to nobody, and
// ends by itself.
func (s *Server) inline(c *call, grant string) (broker.JobToken, error) {
	header := c.r.Header
	if len(header.Values(headerInlinePath)) == 0 {
		return "", nil
	}
	given, err := inlineParameters(header)
	if err == nil && (len(header.Values(headerInlinePath)) > 1 || header.Get("X-Vault-Token") != "" || header.Get("Authorization") != "") {
		err = badRequest("a request with inline authentication has one path for it, and no token")
	}
	if operation := header.Get(headerInlineOperation); err == nil && operation != "" && operation != "update" {
		err = badRequest("inline authentication is an update")
	}
	below, inAuth := strings.CutPrefix(strings.Trim(header.Get(headerInlinePath), "/"), "auth/")
	mountPath, login := strings.CutSuffix(below, "/login")
	if err == nil && (!inAuth || !login) {
		err = badRequest("inline authentication is at auth/MOUNT/login")
	}
	var mount Mount
	var role string
	var grants []string
	if err == nil {
		mount, role, grants, err = s.role(mountPath, given["role"])
	}
	if err == nil && !slices.Contains(grants, grant) {
		err = denied("the role may not read this path")
	}
	var token broker.JobToken
	if err == nil {
		token, err = jobToken(given["jwt"])
	}
	if err != nil {
		c.w.Header().Set(headerInlineFailed, "true")
		return "", err
	}
	c.visit.Note(slog.String("mount", mount.Path), slog.String("role", role))
	return token, nil
}

// inlineParameters reads headers of which each is a {"key": …, "value": …} in base64.
func inlineParameters(header http.Header) (map[string]string, error) {
	given := map[string]string{}
	for name, values := range header {
		if !strings.HasPrefix(name, headerInlineParameter) {
			continue
		}
		bad := badRequest("a parameter of inline authentication stands twice, or is no base64url of {\"key\": …, \"value\": …}")
		if len(values) != 1 {
			return nil, bad
		}
		data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(values[0], "="))
		if err != nil {
			return nil, bad
		}
		object, err := decode(data)
		if err != nil {
			return nil, bad
		}
		key, err := object.text("key")
		if err != nil {
			return nil, bad
		}
		if _, twice := given[key]; twice {
			return nil, bad
		}
		if key == "jwt" || key == "role" {
			if given[key], err = object.text("value"); err != nil {
				return nil, bad
			}
		}
	}
	return given, nil
}
