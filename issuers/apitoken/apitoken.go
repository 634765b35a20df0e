// Package apitoken makes opaque tokens for services of one's own: dpt_ and 160
// random bits, which say nothing by themselves. A service that gets one asks the
// broker what it is good for (RFC 7662), and hears no from the moment on that the
// lease has ended or was revoked.
//
// Nothing is kept of a token but what is kept of every secret value: its keyed
// hash, beside its lease; where it is bound to a key of the job's (RFC 9449), that
// stands with the exchange which brought it. What it is good for stands in the role, in the server's
// configuration alone, and is looked up anew each time it is asked for: so a policy
// can widen nothing, and narrowing a role counts at once.
package apitoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "apitoken"

const valueToken = "token"

// Issuer makes tokens. It implements [issuers.Issuer], [issuers.Renewer],
// [issuers.ParameterChecker] and [issuers.Introspected].
type Issuer struct {
	config Config
}

// New checks the configuration.
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
		Kind: Kind, Revocation: issuers.Introspection, SideEffectFree: true, Inside: true, DefaultTTL: ttl,
		Env: r.Env, Values: map[string]bool{valueToken: true}, Bindable: true, BoundOnly: r.BoundOnly,
	}
}

// Access implements [issuers.Introspected].
func (i *Issuer) Access(role string) (issuers.Access, bool) {
	r, ok := i.config.Roles[role]
	return issuers.Access{Audiences: slices.Clone(r.Audiences), Scopes: slices.Clone(r.Scopes), BoundOnly: r.BoundOnly}, ok
}

// CheckParameters implements [issuers.ParameterChecker]: there are none.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	if _, ok := i.config.Roles[role]; !ok {
		return fmt.Errorf("there is no role %q", role)
	}
	if s := string(parameters); s != "" && s != "{}" && s != "null" {
		return errors.New("an API token has no parameters: its role says what it is good for; take out `with`")
	}
	return nil
}

// Issue implements [issuers.Issuer]. It changes nothing outside; the same lease can
// be issued again, which is the caller's to prevent.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: making a token: %w", issuers.ErrUnavailable, err)
	}
	if err := i.CheckParameters(req.Lease.Role, req.Parameters); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	return &issuers.IssueResponse{Values: []issuers.Value{
		{Name: valueToken, Value: issuers.Generate(issuers.APIToken), Sensitive: true, RandomBits: issuers.GeneratedBits},
	}}, nil
}

// Revoke implements [issuers.Issuer]: there is nothing but the lease, and its state
// is what is asked for.
func (i *Issuer) Revoke(context.Context, *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	return &issuers.RevokeResponse{Found: true}, nil
}

// Renew implements [issuers.Renewer]: the end of the lease is the token's.
func (i *Issuer) Renew(ctx context.Context, _ *issuers.RenewRequest) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: renewing a token: %w", issuers.ErrUnavailable, err)
	}
	return nil
}
