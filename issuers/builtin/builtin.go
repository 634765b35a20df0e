// Package builtin knows every kind of issuer that is part of the program: the
// one place that imports them all.
package builtin

import (
	"context"
	"errors"
	"fmt"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/apitoken"
	"github.com/daypass/daypass/issuers/jwt"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/issuers/sealed"
	"github.com/daypass/daypass/issuers/ssh"
	"github.com/daypass/daypass/issuers/x509"
)

// The kinds, as they stand under `type` in the configuration.
const (
	KindJWT      = "jwt"
	KindPostgres = "postgres"
	KindX509     = "x509"
	KindSealed   = "sealed"
	KindSSH      = "ssh"
	KindAPIToken = "apitoken"
)

// Kinds lists what Open accepts, sorted.
func Kinds() []string {
	return []string{KindAPIToken, KindJWT, KindPostgres, KindSealed, KindSSH, KindX509}
}

// Spec is one issuer to open.
type Spec struct {
	Name         string                // the issuer's name in the configuration, for errors
	Kind         string                // one of Kinds
	Installation string                // the broker's random id
	Epoch        int64                 // and its epoch: see issuers.EpochKeeper
	ExternalURL  string                // the broker's own URL, the `iss` of what it signs
	Signer       func() issuers.Signer // the key of the moment, that tokens are signed with
	Key          issuers.Signer        // the authority's own, for kinds that certify

	// The configuration of the kind: the one that fits Kind is required. Where
	// Installation, Epoch, Issuer, Signer or PublicURL is zero in it, the Spec's is used.
	Postgres *postgres.Config
	JWT      *jwt.Config
	X509     *x509.Config
	Sealed   *sealed.Config
	SSH      *ssh.Config
	APIToken *apitoken.Config
}

// Open builds one issuer. It doesn't reach for the target: one that is down
// never keeps the broker from starting. What it returns may also be an
// io.Closer, to be closed when the program ends.
func Open(ctx context.Context, spec Spec) (issuers.Issuer, error) {
	issuer, err := open(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("issuer %q: %w", spec.Name, err)
	}
	return issuer, nil
}

func open(ctx context.Context, spec Spec) (issuers.Issuer, error) {
	switch spec.Kind {
	case KindPostgres:
		if spec.Postgres == nil {
			return nil, errors.New("the configuration of kind postgres is missing")
		}
		config := *spec.Postgres
		if config.Installation == "" {
			config.Installation = spec.Installation
		}
		if config.Epoch == 0 {
			config.Epoch = spec.Epoch
		}
		return postgres.New(ctx, config)
	case KindJWT:
		config := jwt.Config{}
		if spec.JWT != nil {
			config = *spec.JWT
		}
		if config.Issuer == "" {
			config.Issuer = spec.ExternalURL
		}
		if config.Signer == nil {
			config.Signer = spec.Signer
		}
		return jwt.New(ctx, config)
	case KindX509:
		if spec.X509 == nil {
			return nil, errors.New("the configuration of kind x509 is missing")
		}
		config := *spec.X509
		if config.Signer == nil {
			config.Signer = spec.Key
		}
		if config.PublicURL == "" {
			config.PublicURL = spec.ExternalURL + "/v1/issuers/" + spec.Name
		}
		return x509.New(ctx, config)
	case KindSealed:
		if spec.Sealed == nil {
			return nil, errors.New("the configuration of kind sealed is missing")
		}
		return sealed.New(ctx, *spec.Sealed)
	case KindSSH:
		if spec.SSH == nil {
			return nil, errors.New("the configuration of kind ssh is missing")
		}
		config := *spec.SSH
		if config.Signer == nil {
			config.Signer = spec.Key
		}
		return ssh.New(ctx, config)
	case KindAPIToken:
		if spec.APIToken == nil {
			return nil, errors.New("the configuration of kind apitoken is missing")
		}
		return apitoken.New(ctx, *spec.APIToken)
	default:
		return nil, fmt.Errorf("there is no kind %q: use one of %v", spec.Kind, Kinds())
	}
}
