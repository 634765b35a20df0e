// Package jwt signs JSON Web Tokens with the broker's own key, for whoever
// trusts the broker's JWKS: clouds, Kubernetes, Vault, services of one's own.
//
// A token is an RFC 9068 access token unless its role says otherwise. What says
// who it is for and where it came from is the broker's alone: `sub` is
// daypass:TENANT/POLICY/GRANT, `jti` the lease's id, and no policy can set
// either. A grant chooses `audience` and claims of its own ([Parameters]).
//
// Nothing outside changes when a token is signed, and nothing can call one back:
// it verifies elsewhere until it runs out, so it lives 5 minutes unless a policy
// says otherwise.
package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "jwt"

// MaxToken is the longest token in bytes. Servers refuse headers of 8 KiB and more.
const MaxToken = 8 << 10

const (
	valueToken = "token"
	algorithm  = "ES256"
	// signatureBits is what nobody can guess of a token: its ECDSA signature's.
	signatureBits = 256
	coordinate    = 32 // bytes of r and of s, RFC 7518, section 3.4
)

// Issuer signs tokens. It implements [issuers.Issuer] and [issuers.ParameterChecker].
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
	}
}

// CheckParameters implements [issuers.ParameterChecker]. An audience or claim
// with a template in it is checked again, filled, by Issue.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	_, _, err := i.parameters(role, parameters, true)
	return err
}

func (i *Issuer) parameters(role string, raw json.RawMessage, templates bool) (Role, *Parameters, error) {
	r, ok := i.config.Roles[role]
	if !ok {
		return r, nil, fmt.Errorf("there is no role %q for tokens", role)
	}
	p, err := parseParameters(raw)
	if err != nil {
		return r, nil, err
	}
	for _, audience := range p.Audience {
		if templates && hasTemplate(audience) {
			continue
		}
		if err := i.checkAudience(r, audience); err != nil {
			return r, nil, err
		}
	}
	return r, p, nil
}

// claims are what a token says, in the order of RFC 9068, section 2.2.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	ClientID  string   `json:"client_id"` // RFC 9068 wants one: the subject, since grants have no client but themselves
	Audience  audience `json:"aud"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"` // equal to iat: a verifier's own leeway is for clocks that run behind
	Expires   int64    `json:"exp"`
	ID        string   `json:"jti"`
}

// header is a JWS header (RFC 7515, section 4.1).
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// Issue implements [issuers.Issuer]. It changes nothing outside; the same lease
// can be issued again, which is the caller's to prevent.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	role, parameters, err := i.parameters(req.Lease.Role, req.Parameters, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	lease := req.Lease
	if lease.Tenant == "" || lease.Policy == "" || lease.Grant == "" || lease.ID == "" || !lease.ExpiresAt.After(lease.IssuedAt) {
		return nil, fmt.Errorf("%w: the lease has no tenant, policy, grant, id or life", issuers.ErrRejected)
	}
	subject := "daypass:" + lease.Tenant + "/" + lease.Policy + "/" + lease.Grant
	payload, err := marshalClaims(claims{
		Issuer: i.config.Issuer, Subject: subject, ClientID: subject, Audience: parameters.Audience,
		IssuedAt: lease.IssuedAt.Unix(), NotBefore: lease.IssuedAt.Unix(), Expires: lease.ExpiresAt.Unix(), ID: lease.ID,
	}, parameters.Claims)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	key := i.config.Signer()
	token, err := sign(ctx, key, role.Type, payload)
	if err != nil {
		return nil, err
	}
	return &issuers.IssueResponse{SigningKey: key.KeyID(), Values: []issuers.Value{
		{Name: valueToken, Value: issuers.NewSecret(token), Sensitive: true, RandomBits: signatureBits},
	}}, nil
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

// sign makes a compact JWS (RFC 7515, section 7.1) with ES256.
func sign(ctx context.Context, key issuers.Signer, typ string, payload []byte) (string, error) {
	if key == nil || key.Algorithm() != algorithm || key.KeyID() == "" {
		return "", fmt.Errorf("%w: the signing key is no %s key with an id", issuers.ErrRejected, algorithm)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return "", fmt.Errorf("%w: the signing key is not on P-256", issuers.ErrRejected)
	}
	head, err := json.Marshal(header{Algorithm: algorithm, KeyID: key.KeyID(), Type: typ})
	if err != nil {
		return "", fmt.Errorf("writing the token's header: %w", err)
	}
	encoding := base64.RawURLEncoding
	size := encoding.EncodedLen(len(head)) + encoding.EncodedLen(len(payload)) + encoding.EncodedLen(2*coordinate) + 2
	if size > MaxToken {
		return "", fmt.Errorf("%w: the token would have %d bytes, and %d is the limit: shorten the grant's claims", issuers.ErrRejected, size, MaxToken)
	}
	token := make([]byte, 0, size)
	token = encoding.AppendEncode(token, head)
	token = append(token, '.')
	token = encoding.AppendEncode(token, payload)
	digest := sha256.Sum256(token)
	der, err := key.SignContext(ctx, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	signature, err := fixedSignature(der)
	if err != nil {
		return "", fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	token = append(token, '.')
	return string(encoding.AppendEncode(token, signature)), nil
}

// fixedSignature turns the ASN.1 form that a crypto.Signer returns into r and s
// of 32 bytes each (RFC 7518, section 3.4).
func fixedSignature(der []byte) ([]byte, error) {
	var points struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &points)
	if err != nil {
		return nil, fmt.Errorf("reading the key's signature: %w", err)
	}
	if len(rest) != 0 || points.R.Sign() <= 0 || points.S.Sign() <= 0 || points.R.BitLen() > 8*coordinate || points.S.BitLen() > 8*coordinate {
		return nil, errors.New("the key's signature is malformed")
	}
	signature := make([]byte, 2*coordinate)
	points.R.FillBytes(signature[:coordinate])
	points.S.FillBytes(signature[coordinate:])
	return signature, nil
}
