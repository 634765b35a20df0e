package broker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/policies"
)

// ExplainRequest asks how the set in force decides, and why: about a request
// that was decided on once (RequestID), a job token (Token), or made-up claims
// (Provider and Claims).
type ExplainRequest struct {
	RequestID string
	Token     JobToken
	Provider  string
	Claims    map[string]any
	Grant     string // POLICY/GRANT; of a RequestID only where several grants were asked for
	TTL       time.Duration
	IP        netip.Addr
	At        time.Time // zero: now. Not for a RequestID.
}

// Explained is a decision with everything that had a say in it.
type Explained struct {
	*policies.Explanation

	At       time.Time
	Decision *leases.Decision // what was decided then; nil where it is none of record
	Note     string
}

// Explain decides once more and says how it came about. Nothing is issued, and a
// job token isn't used up.
func (b *Broker) Explain(ctx context.Context, req ExplainRequest) (*Explained, error) {
	if req.RequestID != "" {
		return b.explainRecorded(ctx, req)
	}
	identity := policies.Identity{Provider: req.Provider, Claims: req.Claims}
	if req.Token != "" {
		id, err := b.config.Verifier.Verify(ctx, string(req.Token))
		if refused, ok := errors.AsType[*oidc.Error](err); ok {
			return nil, &RequestError{Detail: fmt.Sprintf("the job token in the body is refused (%s): %s. A token that has ended can be explained by its claims: send provider, claims and grant", refused.Reason, refused.Detail)}
		}
		if err != nil {
			return nil, err
		}
		identity = policies.Identity{Provider: id.Provider, Subject: id.Subject, Claims: id.Claims, Expiry: id.Expiry}
	} else {
		identity.Subject, _ = req.Claims["sub"].(string)
		identity.Expiry = claimedExpiry(req.Claims)
	}
	provider, known := b.config.Verifier.Provider(identity.Provider)
	if !known {
		return nil, &RequestError{Detail: fmt.Sprintf("no provider %q is configured", identity.Provider)}
	}
	identity.ProviderType = provider.Type
	at := req.At
	if at.IsZero() {
		at = b.config.Store.Now()
	}
	explanation, err := b.config.Policies().Explain(identity, policies.Request{Grant: req.Grant, TTL: req.TTL, IP: req.IP}, at)
	if err != nil {
		return nil, err
	}
	out := &Explained{Explanation: explanation, At: at}
	b.noteSwitches(ctx, out, identity.Provider, req.Grant)
	return out, nil
}

func (b *Broker) explainRecorded(ctx context.Context, req ExplainRequest) (*Explained, error) {
	found, err := b.config.Store.DecisionsOf(ctx, req.RequestID)
	if err != nil {
		return nil, err
	}
	decision := found[0]
	var grants []string
	for _, d := range found {
		grants = append(grants, d.Grant)
		if d.Grant == req.Grant {
			decision = d
		}
	}
	switch {
	case req.Grant == "" && len(found) > 1:
		return nil, &RequestError{Detail: "this request asked for several grants: add grant, one of " + strings.Join(grants, ", ")}
	case req.Grant != "" && req.Grant != decision.Grant:
		return nil, &RequestError{Detail: "nothing was decided on that grant in this request, but on " + strings.Join(grants, ", ")}
	}
	identity, err := b.identityOf(&leases.Session{Provider: decision.Provider, Subject: decision.Subject, Claims: decision.Claims, TokenExpiresAt: decision.TokenExpiresAt})
	if err != nil {
		return nil, err
	}
	set := b.config.Policies()
	explanation, err := set.Explain(identity, policies.Request{Grant: decision.Grant, TTL: decision.AskedTTL, IP: parseIP(decision.IP)}, decision.At)
	if err != nil {
		return nil, err
	}
	out := &Explained{Explanation: explanation, At: decision.At, Decision: decision}
	if set.Digest() != decision.Digest {
		out.Note = fmt.Sprintf("decided by set %s; this tree is by set %s, in force now", decision.Digest, set.Digest())
	}
	b.noteSwitches(ctx, out, decision.Provider, decision.Grant)
	return out, nil
}

// identityOf is who asked, from what was stored of a verified token.
func (b *Broker) identityOf(session *leases.Session) (policies.Identity, error) {
	claims, err := decodeClaims(session.Claims)
	if err != nil {
		return policies.Identity{}, err
	}
	provider, _ := b.config.Verifier.Provider(session.Provider)
	identity := policies.Identity{Provider: session.Provider, ProviderType: provider.Type, Subject: session.Subject, Claims: claims, Expiry: claimedExpiry(claims)}
	if identity.Expiry.IsZero() {
		identity.Expiry = session.TokenExpiresAt
	}
	return identity, nil
}

// claimedExpiry is the token's end as its claims say it, over which there is a
// MAC where they are stored.
func claimedExpiry(claims map[string]any) time.Time {
	if exp, ok := claims["exp"].(int64); ok {
		return time.Unix(exp, 0).UTC()
	}
	return time.Time{}
}

func parseIP(text string) netip.Addr {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return ip
}

// StillAllowed says whether a set allows what a lease was given: decided on the
// session's claims, as at the time when it was issued, for the same ttl and
// address. The error says why not, for operators.
func (b *Broker) StillAllowed(set *policies.Set, l *leases.Lease, session *leases.Session) (*policies.Grant, error) {
	identity, err := b.identityOf(session)
	if err != nil {
		return nil, err
	}
	grant, err := set.Decide(identity, policies.Request{Grant: l.Policy + "/" + l.Grant, TTL: l.AskedTTL, IP: parseIP(l.IP)}, l.IssuedAt)
	if denial, ok := errors.AsType[*policies.Denial](err); ok {
		return nil, errors.New(denial.Detail)
	}
	if err != nil {
		return nil, err
	}
	if grant.Issuer != l.Issuer || grant.Role != l.Role {
		return nil, errors.New("the grant is of another issuer or role now")
	}
	return grant, nil
}

// ProviderType is the type of a configured provider; "" where there is none of
// that name.
func (b *Broker) ProviderType(name string) string {
	provider, _ := b.config.Verifier.Provider(name)
	return provider.Type
}
