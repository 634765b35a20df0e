// Package jwt signs JSON Web Tokens with the broker's own key, for whoever
// trusts the broker's JWKS: clouds, Kubernetes, Vault, services of one's own.
//
// A token is an RFC 9068 access token unless its role names another profile: each
// is what one kind of verifier demands (profile.go), and a role, policy or key that
// its verifier would refuse is refused here, when it is loaded. What says who a
// token is for and where it came from is the broker's alone: `sub` is
// daypass:TENANT/POLICY/GRANT, `jti` the lease's id, and no policy can set either.
// A grant chooses `audience`, adds to `sub` without ever leaving its own name in
// it (subject.go), and has claims of its own ([Parameters]).
//
// Nothing outside changes when a token is signed, and nothing can call one back:
// it verifies elsewhere until it runs out, so it lives 5 minutes unless a policy
// says otherwise.
package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "jwt"

// MaxToken is the longest token in bytes. Servers refuse headers of 8 KiB and more.
const MaxToken = 8 << 10

const (
	valueToken = "token"
	// signatureBits is what nobody can guess of a token without its key: the
	// signature's, of all algorithms at least that many.
	signatureBits = 256
)

// Issuer signs tokens. It implements [issuers.Issuer],
// [issuers.ParameterChecker] and [issuers.GrantChecker].
type Issuer struct {
	config Config
}

// New prepares an issuer. It doesn't sign anything.
func New(_ context.Context, config Config) (*Issuer, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Issuer{config: config}, nil
}

// Describe implements [issuers.Issuer].
func (i *Issuer) Describe(role string) issuers.Description {
	r := i.config.Roles[role]
	ttl := r.DefaultTTL
	if ttl <= 0 {
		ttl = i.config.DefaultTTL
	}
	return issuers.Description{
		Kind:           Kind,
		Revocation:     issuers.Expiry,
		SideEffectFree: true,
		DefaultTTL:     ttl,
		Env:            r.Env,
		Values:         map[string]bool{valueToken: true},
		Bindable:       r.profile.bindable,
	}
}

// CheckParameters implements [issuers.ParameterChecker]. What has a template in it
// is checked again, filled, by Issue.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	_, _, err := i.parameters(role, parameters, true)
	return err
}

// CheckGrant implements [issuers.GrantChecker]: whether the verifier takes the
// subject and the life that the grant's tokens will have.
func (i *Issuer) CheckGrant(grant issuers.Grant) error {
	role, wanted, err := i.parameters(grant.Role, grant.Parameters, true)
	if err != nil {
		return err
	}
	lease := issuers.Lease{Tenant: grant.Tenant, Policy: grant.Policy, Grant: grant.Name}
	if err := role.profile.checkSubject(subjectOf(lease, literalParts(wanted.subject))); err != nil {
		return err
	}
	return role.profile.checkLife(grant.TTL)
}

// wanted is what a grant wants of a token, checked.
type wanted struct {
	audience audience
	subject  []string
	claims   map[string]claim
}

func (i *Issuer) parameters(name string, raw json.RawMessage, templates bool) (Role, *wanted, error) {
	role, ok := i.config.Roles[name]
	if !ok {
		return role, nil, fmt.Errorf("there is no role %q for tokens", name)
	}
	p, err := parseParameters(raw)
	if err != nil {
		return role, nil, err
	}
	for _, audience := range p.Audience {
		if templates && hasTemplate(audience) {
			continue
		}
		if err := i.checkAudience(role, audience); err != nil {
			return role, nil, err
		}
	}
	if err := role.profile.checkAudience(p.Audience); err != nil {
		return role, nil, err
	}
	if err := checkParts(p.Subject, templates); err != nil {
		return role, nil, err
	}
	rules := claimRules{sessionTags: role.SessionTags, profile: role.profile, templates: templates}
	claims, err := rules.parse(p.Claims)
	if err != nil {
		return role, nil, err
	}
	return role, &wanted{audience: p.Audience, subject: p.Subject, claims: claims}, nil
}

// claims are what a token says, in the order of RFC 9068, section 2.2.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	ClientID  string   `json:"client_id,omitempty"` // RFC 9068 wants one: the subject, since grants have no client but themselves
	Audience  audience `json:"aud"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"` // equal to iat: a verifier's own leeway is for clocks that run behind
	Expires   int64    `json:"exp"`
	ID        string   `json:"jti"`

	Confirmation *confirmation `json:"cnf,omitempty"`
}

// confirmation names the key that the token is bound to (RFC 9449, section 6.1).
type confirmation struct {
	Thumbprint string `json:"jkt"`
}

// Issue implements [issuers.Issuer]. It changes nothing outside; the same lease
// can be issued again, which is the caller's to prevent.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	role, wanted, err := i.parameters(req.Lease.Role, req.Parameters, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	lease := req.Lease
	if lease.Tenant == "" || lease.Policy == "" || lease.Grant == "" || lease.ID == "" || !lease.ExpiresAt.After(lease.IssuedAt) {
		return nil, fmt.Errorf("%w: the lease has no tenant, policy, grant, id or life", issuers.ErrRejected)
	}
	subject := subjectOf(lease, wanted.subject)
	key := i.config.Signer() // once: a rotation takes effect with the next token
	if err := role.fits(key, subject, lease.ExpiresAt.Sub(lease.IssuedAt)); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	own := claims{
		Issuer: i.config.Issuer, Subject: subject, Audience: wanted.audience,
		IssuedAt: lease.IssuedAt.Unix(), NotBefore: lease.IssuedAt.Unix(), Expires: lease.ExpiresAt.Unix(), ID: lease.ID,
	}
	if role.profile.clientID {
		own.ClientID = subject
	}
	if req.Thumbprint != "" {
		if !role.profile.bindable {
			return nil, fmt.Errorf("%w: a verifier of profile %s asks for no proof of a key", issuers.ErrRejected, role.profile.name)
		}
		own.Confirmation = &confirmation{req.Thumbprint}
	}
	payload, err := marshalClaims(own, wanted.claims)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	token, err := sign(ctx, key, role.profile.typ, payload)
	if err != nil {
		return nil, err
	}
	return &issuers.IssueResponse{SigningKey: key.KeyID(), Values: []issuers.Value{
		{Name: valueToken, Value: issuers.NewSecret(token), Sensitive: true, RandomBits: signatureBits},
	}}, nil
}

// fits says why the verifier wouldn't take a token signed with that key, for that
// subject and of that life.
func (r Role) fits(key issuers.Signer, subject string, life time.Duration) error {
	if key == nil {
		return errors.New("there is no signing key")
	}
	if err := r.profile.checkAlgorithm(key.Algorithm()); err != nil {
		return err
	}
	if err := r.profile.checkSubject(subject); err != nil {
		return err
	}
	return r.profile.checkLife(life)
}

// Revoke implements [issuers.Issuer]: nothing outside can be undone. The token
// verifies elsewhere until it runs out.
func (i *Issuer) Revoke(context.Context, *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	return &issuers.RevokeResponse{Found: true}, nil
}

// marshalClaims joins the broker's claims and the grant's, which share no name.
func marshalClaims(own claims, extra map[string]claim) ([]byte, error) {
	payload, err := json.Marshal(own)
	if err != nil || len(extra) == 0 {
		return payload, err
	}
	more, err := json.Marshal(extra) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("writing claims: %w", err)
	}
	return append(append(payload[:len(payload)-1], ','), more[1:]...), nil
}
