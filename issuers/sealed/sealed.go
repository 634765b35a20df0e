// Package sealed gives out static secrets: those that can't be made for one job,
// such as a key that somebody else's service made. They are kept by a [Vault],
// sealed, in versions.
//
// A job gets the values of the version that is current; a job that puts a new
// value into its target may get the pending one ([Role]). Which lease read which
// version is on record before the job has it.
//
// Ending a lease takes nothing back: whoever has seen a static value goes on
// having it, until it is rotated where it opens something. So the revocation is
// [issuers.Expiry], and the end of the lease is when the job promised to forget.
package sealed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "sealed"

// Vault keeps the secrets. It is safe for concurrent use.
type Vault interface {
	// Read gives a version of a secret to a lease, and puts on record that it did:
	// once for each lease. Errors wrap issuers.ErrRejected where there is no such
	// secret, version or field, or the lease has read already; issuers.ErrLate where
	// its deadline has passed by the vault's clock, or it was ended;
	// issuers.ErrUnavailable where the vault is away.
	Read(ctx context.Context, lease issuers.Lease, wanted Wanted) (*Version, error)
	// End makes sure that a lease reads nothing from now on, and says whether it had.
	// It is idempotent. Errors wrap issuers.ErrUnavailable.
	End(ctx context.Context, lease issuers.Lease) (found bool, err error)
}

// Wanted says what a lease is to read.
type Wanted struct {
	Secret  string
	Pending bool     // the version that is to become current, not the one that is
	Fields  []string // all of which the version must have
}

// Version is one version of a secret.
type Version struct {
	Number int
	Values map[string]Value // by field
}

// Value is one field of a version.
type Value struct {
	Secret     issuers.Secret
	RandomBits int // that nobody can guess; 0 where nobody knows
}

// issueTimeout is how long the vault's statements may run on after a caller left.
const issueTimeout = 5 * time.Second

// Issuer gives out secrets of a vault. It implements [issuers.Issuer] and
// [issuers.ParameterChecker].
type Issuer struct {
	config Config
}

// New checks the configuration. It doesn't ask the vault.
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
	values := make(map[string]bool, len(r.Fields))
	for _, field := range r.Fields {
		values[field] = !slices.Contains(r.Visible, field)
	}
	return issuers.Description{
		Kind: Kind, Revocation: issuers.Expiry, Inside: true, DefaultTTL: i.config.DefaultTTL, IssueTimeout: issueTimeout,
		Env: r.Env, Values: values,
	}
}

// CheckParameters implements [issuers.ParameterChecker]: there are none.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	if _, ok := i.config.Roles[role]; !ok {
		return fmt.Errorf("there is no role %q", role)
	}
	if s := string(parameters); s != "" && s != "{}" && s != "null" {
		return errors.New("a static secret has no parameters: take out `with`")
	}
	return nil
}

// Issue implements [issuers.Issuer].
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := i.CheckParameters(req.Lease.Role, req.Parameters); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	role := i.config.Roles[req.Lease.Role]
	version, err := i.config.Vault.Read(ctx, req.Lease, Wanted{Secret: role.Secret, Pending: role.Pending, Fields: role.Fields})
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", role.Secret, err)
	}
	response := &issuers.IssueResponse{}
	for _, field := range role.Fields {
		value := version.Values[field]
		v := issuers.Value{Name: field, Value: value.Secret, Sensitive: !slices.Contains(role.Visible, field)}
		if v.Sensitive {
			v.RandomBits = value.RandomBits
		}
		response.Values = append(response.Values, v)
	}
	return response, nil
}

// Revoke implements [issuers.Issuer]: the lease reads nothing any more. What it
// has read stays readable to whoever kept it.
func (i *Issuer) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	found, err := i.config.Vault.End(ctx, req.Lease)
	if err != nil {
		return nil, fmt.Errorf("ending a lease of a secret: %w", err)
	}
	return &issuers.RevokeResponse{Found: found}, nil
}
