package broker

import (
	"context"
	"errors"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/issuers"
)

// The kinds of bearer token are types of their own, told apart by their shape
// before anything is looked up, so that no call can mistake one for another.
type (
	// JobToken is the OIDC token of a job, not yet verified.
	JobToken string
	// SessionToken is what an exchange gave out, not yet looked up.
	SessionToken string
	// RevocationToken came with a session token and is good for giving its session
	// back alone, not yet looked up. ParseToken takes it for nothing: see
	// [ParseRevocationToken].
	RevocationToken string
	// AdminToken is a person's, made with `daypassd admin token create`, not yet looked up.
	AdminToken string
	// VaultToken is what a login at the Vault façade gave out, not yet looked up. It
	// is good there and nowhere else.
	VaultToken string
)

// ParseToken tells which kind a bearer token is: one of the types above,
// or an error for a value of the broker's own shape that is neither.
func ParseToken(raw string) (any, error) {
	if len(raw) >= 4 && raw[:2] == "dp" && raw[3] == '_' {
		kind, ok := issuers.IsGenerated(raw)
		switch {
		case ok && kind == issuers.SessionToken:
			return SessionToken(raw), nil
		case ok && kind == issuers.AdminToken:
			return AdminToken(raw), nil
		case ok && kind == issuers.VaultToken:
			return VaultToken(raw), nil
		case ok:
			return nil, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this is a secret of Daypass, but neither a session token nor an admin token"}
		}
		return nil, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this looks like a token of Daypass, but its checksum is wrong: was it cut off?"}
	}
	return JobToken(raw), nil
}

// ParseRevocationToken says whether a bearer token is a revocation token. The one call
// that takes them asks; everywhere else they are what any secret of Daypass is that
// isn't taken there.
func ParseRevocationToken(raw string) (RevocationToken, bool) {
	kind, ok := issuers.IsGenerated(raw)
	if !ok || kind != issuers.RevocationToken {
		return "", false
	}
	return RevocationToken(raw), true
}

// FindRevocable looks up the session that a revocation token gives back. It may have
// ended: see Held.
func (b *Broker) FindRevocable(ctx context.Context, token RevocationToken) (*leases.Held, error) {
	held, err := b.FindSession(ctx, SessionToken(leases.SessionTokenOf(string(token), b.config.SessionTokens).Reveal()))
	if err != nil {
		return nil, err
	}
	held.ByRevocation = true
	return held, nil
}

// sessionSecrets are the tokens of an exchange; zero where it came with one that holds
// what it obtains.
type sessionSecrets struct{ token, revocation issuers.Secret }

// sessionToken is what the leases of an exchange are held by: a new token, or the
// one of the Vault façade that it came with.
func (b *Broker) sessionToken(caller *asking, orders []*order) (sessionSecrets, leases.Token) {
	if caller.vault {
		return sessionSecrets{}, leases.Token{Hash: caller.held.TokenHash, Held: true}
	}
	made := sessionSecrets{revocation: issuers.Generate(issuers.RevocationToken)}
	made.token = leases.SessionTokenOf(made.revocation.Reveal(), b.config.SessionTokens)
	return made, leases.Token{
		Hash: b.config.SessionTokens.Sum(leases.TokenDomain, []byte(made.token.Reveal())), KeyID: b.config.SessionTokens.KeyID(), Grants: grantNames(orders),
		Thumbprint: caller.thumbprint,
	}
}

// FindSession looks a session token up. The session may have ended: see Held.
func (b *Broker) FindSession(ctx context.Context, token SessionToken) (*leases.Held, error) {
	return b.findToken(ctx, b.config.SessionTokens.Sum(leases.TokenDomain, []byte(token)))
}

func (b *Broker) findToken(ctx context.Context, hash [32]byte) (*leases.Held, error) {
	held, err := b.config.Store.FindToken(ctx, hash)
	if errors.Is(err, leases.ErrNotFound) {
		return nil, &oidc.Error{Reason: oidc.ReasonExpired, Detail: "no session has this token"}
	}
	if err == nil && held.OpenedAt.Before(b.config.Since) {
		return nil, &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session is from before the broker's database was restored: exchange a new job token"}
	}
	return held, err
}

// checkSince refuses a job token that may be from before the broker's database was
// restored: whether it was used already isn't on record. Where it doesn't say when
// it was issued, its end tells.
func (b *Broker) checkSince(id *oidc.Identity, longest time.Duration) error {
	since := b.config.Since
	switch {
	case since.IsZero():
		return nil
	case id.IssuedAt.IsZero() && id.Expiry.Add(-longest).After(since), id.IssuedAt.After(since):
		return nil
	}
	return &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the token was issued before the broker's database was restored, so nobody knows whether it was used: ask the provider for a new one"}
}

// Caller is who asks about leases: a session, or an admin.
type Caller struct {
	Session *leases.Held
	Admin   *admin.Token
}

// Actor is how the audit log names the caller.
func (c Caller) Actor() string {
	if c.Admin != nil {
		return "admin " + c.Admin.ID + " " + c.Admin.Owner
	}
	return leases.JobActor(c.Session.Provider, c.Session.Subject)
}

// may says whether the caller may see a lease: admins all of them, a session
// token those that were obtained with it.
func (c Caller) may(l *leases.Lease) bool {
	return c.Admin != nil || (c.Session != nil && c.Session.ID == l.SessionID && string(c.Session.TokenHash[:]) == string(l.SessionToken))
}
