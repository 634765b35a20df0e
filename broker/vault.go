package broker

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

// Visit is what a server knows of a request before it has looked at its token,
// whatever API the request speaks.
type Visit struct {
	RequestID string     // by which decisions are found again
	RemoteIP  netip.Addr // who sent it; the zero Addr where it isn't known
	// Admit runs the check of a token when it is its turn; see ExchangeRequest.Admit.
	Admit func(check func(quick bool) error) error
	// Note adds to the request's line in the log. Never a secret.
	Note func(...slog.Attr)
	// Route is set by whoever answers: the path as metrics and log call it, which
	// holds nothing that the caller chose.
	Route string
	// Stopping says that this server is about to end: nothing new is begun.
	Stopping bool
}

// LoginRequest is a job token that is to become a token of the Vault façade.
type LoginRequest struct {
	Token       JobToken
	Mount, Role string   // where it logs in
	Grants      []string // POLICY/GRANT: what the role may read
	Visit       *Visit
}

// LoggedIn is what a login brought.
type LoggedIn struct {
	SessionID string
	Token     issuers.Secret // a VaultToken
	Held      *leases.Held   // what it stands for
	Allowed   []string       // the role's grants that the policies give this job now
}

// Login turns a job token into a token of the Vault façade. The policies are asked
// first: a job that may have no grant of the role is refused, and opens no session.
// The token reads what the role may read, and the policies decide anew at each time.
func (b *Broker) Login(ctx context.Context, request *LoginRequest) (*LoggedIn, error) {
	if err := b.config.Store.CheckClock(); err != nil {
		return nil, err
	}
	caller, err := b.admit(ctx, &ExchangeRequest{
		Token: request.Token, RequestID: request.Visit.RequestID, RemoteIP: request.Visit.RemoteIP, Admit: request.Visit.Admit,
	})
	if err != nil {
		return nil, err
	}
	allowed, err := b.allowed(ctx, caller, request.Grants)
	if err != nil {
		return nil, err
	}
	secret := issuers.Generate(issuers.VaultToken)
	login := &leases.Login{
		Reservation: leases.Reservation{
			Now: b.config.Store.Now(), Session: caller.session, Once: b.config.Once[caller.session.Provider],
			Token: leases.Token{
				Hash: b.config.SessionTokens.Sum(leases.VaultTokenDomain, []byte(secret.Reveal())), KeyID: b.config.SessionTokens.KeyID(), Grants: request.Grants,
			},
			JobKey: caller.job, Whose: caller.whose, RequestID: caller.request, IP: shownIP(caller.ip),
		},
		Mount: request.Mount, Role: request.Role, Digest: caller.digest,
	}
	if err := b.config.Store.Login(ctx, login); err != nil {
		if errors.Is(err, leases.ErrReusedJTI) {
			b.reusedJTI(ctx, &login.Reservation)
		}
		return nil, err
	}
	session := caller.session
	session.ID, session.ExpiresAt = login.SessionID, login.SessionExpiresAt
	return &LoggedIn{
		SessionID: login.SessionID, Token: secret, Allowed: allowed,
		Held: &leases.Held{
			Session: session, TokenHash: login.Token.Hash, Grants: request.Grants, TokenMadeAt: login.Now, Mount: request.Mount, Role: request.Role,
		},
	}, nil
}

// allowed are the grants that the policies give the caller now; a denial where
// there is none.
func (b *Broker) allowed(ctx context.Context, caller *asking, grants []string) (allowed []string, err error) {
	set := b.config.Policies()
	caller.digest = set.Digest()
	var first *policies.Denial
	var of policies.Request
	for _, name := range grants {
		asked := policies.Request{Grant: name, IP: caller.ip}
		_, err := set.Decide(caller.identity, asked, b.config.Store.Now())
		denial, denied := errors.AsType[*policies.Denial](err)
		switch {
		case err == nil:
			allowed = append(allowed, name)
		case !denied:
			return nil, err
		case first == nil || (denial.Ours && !first.Ours):
			first, of = denial, asked
		}
	}
	if len(allowed) > 0 {
		return allowed, nil
	}
	if first == nil {
		return nil, &policies.Denial{Code: policies.CodeNotAllowed, Detail: "the role has no grants"}
	}
	b.refused(ctx, caller, of, first)
	return nil, first
}

// FindVault looks a token of the Vault façade up. It may have ended: see Held.
func (b *Broker) FindVault(ctx context.Context, token VaultToken) (*leases.Held, error) {
	return b.findToken(ctx, b.config.SessionTokens.Sum(leases.VaultTokenDomain, []byte(token)))
}

// AdmitVault looks a token of the Vault façade up when it is its turn. One that was
// given back is refused; with gone, one of a session that has ended is not: its
// holder may still take back what it got.
func (b *Broker) AdmitVault(ctx context.Context, v *Visit, token VaultToken, gone bool) (held *leases.Held, err error) {
	err = v.Admit(func(bool) (err error) {
		if held, err = b.FindVault(ctx, token); err != nil {
			return err
		}
		if held.TokenRevoked || (!gone && !held.Live(b.config.Store.Now())) {
			return &oidc.Error{Reason: oidc.ReasonExpired, Detail: "this token was given back, or its session has ended"}
		}
		return nil
	})
	return held, err
}

// RevokeLogin gives back a token of the Vault façade and all that was obtained with
// it. Other logins of the same job token, and their leases, stay.
func (b *Broker) RevokeLogin(ctx context.Context, held *leases.Held, reason string) ([]*leases.Lease, error) {
	why := leases.Why{Actor: Caller{Session: held}.Actor(), Reason: orElse(reason, "token given back")}
	ended, err := b.config.Store.RevokeToken(ctx, held, why)
	if err != nil {
		return nil, err
	}
	return b.await(ctx, ended)
}

// Now is the time by the clock that decides.
func (b *Broker) Now() time.Time { return b.config.Store.Now() }
