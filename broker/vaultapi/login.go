package vaultapi

import (
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
)

// auth is a token, in the answer of a login.
type auth struct {
	ClientToken    string            `json:"client_token"`
	Accessor       string            `json:"accessor"`
	Policies       []string          `json:"policies"`
	TokenPolicies  []string          `json:"token_policies"`
	Metadata       map[string]string `json:"metadata"`
	LeaseDuration  int               `json:"lease_duration"`
	Renewable      bool              `json:"renewable"`
	EntityID       string            `json:"entity_id"`
	TokenType      string            `json:"token_type"`
	Orphan         bool              `json:"orphan"`
	MFARequirement any               `json:"mfa_requirement"`
	NumUses        int               `json:"num_uses"`
}

const tokenType = "service"

func (s *Server) auth(token string, held *leases.Held) *auth {
	return &auth{
		ClientToken: token, Accessor: accessor(held), Policies: held.Grants, TokenPolicies: held.Grants, Metadata: metadata(held),
		LeaseDuration: seconds(s.config.Broker.Now(), held.ExpiresAt), TokenType: tokenType, Orphan: true,
	}
}

// accessor names a token without being one.
func accessor(held *leases.Held) string { return hex.EncodeToString(held.TokenHash[:12]) }

func metadata(held *leases.Held) map[string]string {
	return map[string]string{"role": held.Role, "provider": held.Provider, "subject": held.Subject, "session": held.ID}
}

// role finds what a login asks for.
func (s *Server) role(mountPath, asked string) (mount Mount, role string, grants []string, err error) {
	mount, known := s.mounts[mountPath]
	if !known {
		return mount, "", nil, badRequest("nobody can log in at this mount")
	}
	if role = asked; role == "" {
		role = mount.DefaultRole
	}
	if role == "" {
		return mount, "", nil, badRequest("missing role: this mount has no default")
	}
	if grants, known = mount.Roles[role]; !known {
		return mount, "", nil, badRequest("this role could not be found at this mount")
	}
	return mount, role, grants, nil
}

// login is POST auth/{mount}/login.
func (s *Server) login(c *call, mountPath string) error {
	c.visit.Route = routeLogin
	if err := takes(c, http.MethodPost); err != nil {
		return err
	}
	if c.visit.Stopping {
		return stopping()
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	jwt, err := body.text("jwt")
	if err != nil {
		return err
	}
	asked, err := body.text("role")
	if err != nil {
		return err
	}
	mount, role, grants, err := s.role(mountPath, asked)
	if err != nil {
		return err
	}
	token, err := jobToken(jwt)
	if err != nil {
		return err
	}
	in, err := s.config.Broker.Login(c.r.Context(), &broker.LoginRequest{Token: token, Mount: mount.Path, Role: role, Grants: grants, Visit: c.visit})
	if err != nil {
		return loginError{err}
	}
	c.visit.Note(slog.String("session", in.SessionID), slog.String("mount", mount.Path), slog.String("role", role), slog.Any("allowed", in.Allowed))
	return c.answer(&envelope{Auth: s.auth(in.Token.Reveal(), in.Held)})
}

// jobToken refuses what is no job token by its looks.
func jobToken(jwt string) (broker.JobToken, error) {
	if jwt == "" {
		return "", badRequest("missing token: send the job's OIDC token as jwt")
	}
	if len(jwt) > api.MaxToken {
		return "", badRequest("error validating token (malformed): it is larger than 16 KiB")
	}
	parsed, err := broker.ParseToken(jwt)
	if token, ok := parsed.(broker.JobToken); ok && err == nil {
		return token, nil
	}
	return "", badRequest("error validating token (malformed): this is a token of Daypass, not the OIDC token of a job")
}

// own is what a token does with itself: auth/token/…, where -self says so, or the
// body has the same token once more.
func (s *Server) own(c *call, name string) error {
	c.visit.Route = routeToken
	name, self := strings.CutSuffix(name, "-self")
	var act func(*call) error
	switch name {
	case "lookup":
		act = s.lookupSelf
	case "renew":
		act = s.renewSelf
	case "revoke":
		act = s.revokeSelf
	default:
		return s.nothing(c)
	}
	if !self {
		if err := s.names(c); err != nil {
			return err
		}
	}
	return act(c)
}

// names checks that the token in a body is the caller's own: another one is nobody's
// to ask about, alive or not.
func (s *Server) names(c *call) error {
	if err := takes(c, http.MethodPost); err != nil {
		return err
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	named, err := body.text("token")
	if err != nil {
		return err
	}
	token, err := tokenOf(c.r.Header)
	if err != nil || named == string(token) {
		return err
	}
	if _, err := s.held(c, true); err != nil {
		return err
	}
	if named == "" {
		return badRequest("missing token: send it as token, or use the call that ends in -self")
	}
	return denied("the token is another one")
}

// lookupSelf is GET auth/token/lookup-self. It shows the token to whom it was sent
// by: clients compare.
func (s *Server) lookupSelf(c *call) error {
	if err := takes(c, http.MethodGet, http.MethodPost); err != nil {
		return err
	}
	held, err := s.held(c, false)
	if err != nil {
		return err
	}
	token, err := tokenOf(c.r.Header)
	if err != nil {
		return err
	}
	now := s.config.Broker.Now()
	return c.answer(&envelope{Data: map[string]any{
		"id": string(token), "accessor": accessor(held), "policies": held.Grants, "ttl": seconds(now, held.ExpiresAt),
		"creation_ttl": seconds(held.TokenMadeAt, held.ExpiresAt), "creation_time": held.TokenMadeAt.Unix(), "issue_time": held.TokenMadeAt.UTC().Format(time.RFC3339Nano),
		"expire_time": held.ExpiresAt.UTC().Format(time.RFC3339), "explicit_max_ttl": 0, "renewable": false, "type": tokenType,
		"path": "auth/" + held.Mount + "/login", "display_name": held.Subject, "num_uses": 0, "orphan": true, "meta": metadata(held), "entity_id": "",
	}})
}

// renewSelf is POST auth/token/renew-self. A session ends when it ends: the answer
// says when, so that those who ask at start go on, and those who ask again see it
// come.
func (s *Server) renewSelf(c *call) error {
	if err := takes(c, http.MethodPost); err != nil {
		return err
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	if _, err := body.increment(); err != nil {
		return err
	}
	held, err := s.held(c, false)
	if err != nil {
		return err
	}
	token, err := tokenOf(c.r.Header)
	if err != nil {
		return err
	}
	return c.answer(&envelope{Auth: s.auth(string(token), held), Warnings: []string{"this token ends with its job's session; nothing extends it"}})
}

// revokeSelf is POST auth/token/revoke-self.
func (s *Server) revokeSelf(c *call) error {
	if err := takes(c, http.MethodPost); err != nil {
		return err
	}
	if _, err := c.body(); err != nil {
		return err
	}
	held, err := s.held(c, true)
	if err != nil {
		return err
	}
	ended, err := s.config.Broker.RevokeLogin(c.r.Context(), held, "revoke-self")
	if err != nil {
		return err
	}
	c.visit.Note(slog.Int("leases", len(ended)))
	return c.done()
}
