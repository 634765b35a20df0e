package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// Tokens that stand for a lease by themselves: API tokens, and the JWTs that the
// broker signed. Each is known by the keyed hash that is kept of it, whole. That is
// more than a signature could say: not that some key of ours signed something, but
// that this is, byte for byte, what was handed out for that lease. So one look-up by
// a primary key decides, and a stolen signing key makes no token that is active here.
const (
	kindJWT      = "jwt"
	kindAPIToken = "apitoken"
	fieldToken   = "token"
)

// TokenKinds are the kinds of issuers whose credential is one token.
func TokenKinds() []string { return []string{kindAPIToken, kindJWT} }

// ErrUnsupportedToken says that this is a secret of the broker's, but no token that
// stands for a lease by itself.
var ErrUnsupportedToken = errors.New("not a token of this kind")

// Introspected is a token that is good now.
type Introspected struct {
	Lease      *leases.Lease
	Thumbprint string // of the key that it is bound to, base64url; "": it is a bearer's
	Issuer     string // that a JWT says; "" of an API token
	Subject    string
	ClientID   string
	Audiences  []string
	Scopes     []string
}

// bearerToken says which kind of issuer a token may be of, by its shape; "" where no
// token of ours has it.
func bearerToken(token string) (kind string, err error) {
	if len(token) >= 4 && token[:2] == "dp" && token[3] == '_' {
		made, ok := issuers.IsGenerated(token)
		switch {
		case !ok:
			return "", nil // cut off, or made up
		case made == issuers.APIToken:
			return kindAPIToken, nil
		}
		return "", ErrUnsupportedToken
	}
	if strings.HasPrefix(token, "eyJ") && strings.Count(token, ".") == 2 {
		return kindJWT, nil
	}
	return "", nil
}

// FindToken finds the lease that a token stands for, whatever became of it. Errors
// wrap leases.ErrNotFound, leases.ErrUnavailable, or are ErrUnsupportedToken.
func (b *Broker) FindToken(ctx context.Context, token string) (*leases.TokenLease, error) {
	kind, err := bearerToken(token)
	if err != nil {
		return nil, err
	}
	if kind == "" {
		return nil, fmt.Errorf("%w: nothing here has its shape", leases.ErrNotFound)
	}
	return b.config.Store.FindPrinted(ctx, b.fingerprint(token), fieldToken, []string{kind})
}

// fingerprint is what is kept of a whole value; see fingerprints.
func (b *Broker) fingerprint(value string) [32]byte {
	return b.config.Prints.Sum([]byte(value))
}

// Introspect says what a token is good for at one of these audiences; nil where it
// is good for nothing there, whatever the reason. Audiences and scopes of an API
// token are those of its role as of now.
func (b *Broker) Introspect(ctx context.Context, token string, audiences []string) (*Introspected, error) {
	l, err := b.FindToken(ctx, token)
	switch {
	case errors.Is(err, ErrUnsupportedToken), errors.Is(err, leases.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case l.State != leases.Active || !b.config.Store.Now().Before(l.ExpiresAt):
		return nil, nil
	}
	found := &Introspected{Lease: l.Lease, Subject: "daypass:" + l.Tenant + "/" + l.Policy + "/" + l.Grant}
	found.ClientID = found.Subject
	if l.Kind == kindJWT {
		if err := found.claims(token); err != nil {
			return nil, err
		}
	} else {
		asked, ok := b.config.Issuers[l.Issuer].Issuer.(issuers.Introspected)
		if !ok {
			return nil, nil // no such issuer any more
		}
		access, _ := asked.Access(l.Role) // none where the role is gone
		if access.BoundOnly && l.Thumbprint == nil {
			return nil, nil // from before the role said so
		}
		found.Thumbprint = base64.RawURLEncoding.EncodeToString(l.Thumbprint)
		found.Audiences, found.Scopes = access.Audiences, access.Scopes
	}
	// Whoever asks hears of itself, not of who else may accept the token.
	found.Audiences = slices.DeleteFunc(found.Audiences, func(a string) bool { return !slices.Contains(audiences, a) })
	if len(found.Audiences) == 0 {
		return nil, nil
	}
	return found, nil
}

// claims takes what a JWT says itself. It is the broker's own text, by its
// fingerprint: nothing in it is a stranger's to shape.
func (i *Introspected) claims(token string) error {
	_, payload, _ := strings.Cut(token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return fmt.Errorf("reading a JWT of our own: %w", err)
	}
	var said map[string]any // a grant may give names of its own any type
	if err := json.Unmarshal(decoded, &said); err != nil {
		return fmt.Errorf("reading a JWT of our own: %w", err)
	}
	text := func(name string) string {
		value, _ := said[name].(string)
		return value
	}
	switch audience := said["aud"].(type) {
	case string:
		i.Audiences = []string{audience}
	case []any:
		for _, one := range audience {
			if name, ok := one.(string); ok {
				i.Audiences = append(i.Audiences, name)
			}
		}
	}
	if confirmation, ok := said["cnf"].(map[string]any); ok {
		i.Thumbprint, _ = confirmation["jkt"].(string)
	}
	i.Issuer, i.Subject, i.ClientID = text("iss"), text("sub"), text("client_id")
	if i.ClientID == "" {
		i.ClientID = i.Subject
	}
	return nil
}

// RevokeFound ends the lease that FindToken found, for whoever holds the token: to
// have it is enough, since nobody can do more harm with this than with the token.
//
// FindToken finds none of a session token (ErrUnsupportedToken): with it all that its
// exchange obtained would end, and it has a call of its own, which says so. Nor of an
// admin's, which is for admins to revoke.
func (b *Broker) RevokeFound(ctx context.Context, l *leases.Lease) error {
	ended, err := b.config.Store.BeginRevoke(ctx, []string{l.ID}, leases.Why{Actor: "bearer " + l.ID, Reason: "revoked by who held the token"})
	if err == nil {
		_, err = b.await(ctx, ended)
	}
	return err
}

// KindError says that a grant's credential is not what was asked for.
type KindError struct{ Grant, Kind string }

// Error implements error.
func (e *KindError) Error() string {
	return fmt.Sprintf("grant %s is of kind %s, which is no token of the type that was asked for", e.Grant, e.Kind)
}

// Admit checks the token of an exchange that asks for nothing that there is, so that
// it is told no more than any other that may have nothing.
func (b *Broker) Admit(ctx context.Context, request *ExchangeRequest) error {
	if err := b.config.Store.CheckClock(); err != nil {
		return err
	}
	_, err := b.admit(ctx, request)
	return err
}
