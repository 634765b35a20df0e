package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/catalogue"
)

// asking is who asks, whichever token it came with.
type asking struct {
	identity policies.Identity
	session  leases.Session // opened by this exchange, or joined
	held     *leases.Held   // what a session token stands for; nil for a job token
	vault    bool           // held is of a token of the Vault façade
	job      []byte         // names the job; see jobKey
	whose    []byte         // names the tenant whose job it is
	asked    time.Time
	request  string     // the request's id
	ip       netip.Addr // who sent it
	digest   string     // of the set that decides

	thumbprint []byte // of the key that it has proved to have; nil: none
}

func (b *Broker) identify(ctx context.Context, token any) (*asking, error) {
	now := b.config.Store.Now()
	switch token := token.(type) {
	case JobToken:
		id, err := b.config.Verifier.Verify(ctx, string(token))
		if err != nil {
			return nil, err
		}
		claims, err := json.Marshal(id.Claims)
		if err != nil {
			return nil, fmt.Errorf("encoding claims: %w", err)
		}
		provider, _ := b.config.Verifier.Provider(id.Provider)
		if err := b.checkSince(id, provider.MaxTokenAge); err != nil {
			return nil, err
		}
		session := leases.Session{
			ID: ids.New(ids.Session, now), Provider: id.Provider, Issuer: id.Issuer, TokenDigest: id.Digest, Subject: id.Subject,
			Claims: claims, OpenedAt: now, ExpiresAt: now.Add(min(provider.SessionTTL, maxSession)), TokenExpiresAt: id.Expiry,
		}
		if id.ID != "" {
			session.JTI = b.name(len(session.TokenDigest), "jti", id.Provider, id.Issuer, id.ID)
		}
		identity := policies.Identity{Provider: id.Provider, ProviderType: provider.Type, Subject: id.Subject, Claims: id.Claims, Expiry: id.Expiry}
		return b.asking(now, session, identity), nil
	case SessionToken:
		held, err := b.FindSession(ctx, token)
		if err != nil {
			return nil, err
		}
		return b.holding(held, now)
	case VaultToken:
		held, err := b.FindVault(ctx, token)
		if err != nil {
			return nil, err
		}
		caller, err := b.holding(held, now)
		if err == nil {
			caller.vault = true
		}
		return caller, err
	}
	return nil, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this call takes a job token or a session token"}
}

// holding is who asks with a session token, if its session lives.
func (b *Broker) holding(held *leases.Held, now time.Time) (*asking, error) {
	if !held.Live(now) {
		return nil, &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session of this token has ended"}
	}
	identity, err := b.identityOf(&held.Session)
	if err != nil {
		return nil, err
	}
	caller := b.asking(now, held.Session, identity)
	caller.held = held
	return caller, nil
}

func (b *Broker) asking(now time.Time, session leases.Session, identity policies.Identity) *asking {
	a := &asking{identity: identity, session: session, asked: now}
	job, whose := "", ""
	if known, ok := catalogue.Lookup(identity.ProviderType); ok {
		job, whose = known.Job(identity.Claims), known.Whose(identity.Claims)
	}
	if job == "" {
		job = fmt.Sprintf("token %x", session.TokenDigest) // it is a job of its own
	}
	a.job = b.name(keyLength, "job", session.Provider, session.Issuer, job)
	// Jobs of which nothing says whose they are count together.
	a.whose = b.name(keyLength, "whose", session.Provider, session.Issuer, whose)
	return a
}

// keyLength is enough for names that nobody gains by finding twice.
const keyLength = 16

// name is a hash by which the database knows something of a tenant: as many
// bytes of a SHA-256, over parts that can't run into each other.
func (b *Broker) name(length int, parts ...string) []byte {
	var text strings.Builder
	fmt.Fprintf(&text, "%q", b.config.Tenant)
	for _, part := range parts {
		fmt.Fprintf(&text, " %q", part)
	}
	sum := sha256.Sum256([]byte(text.String()))
	return sum[:length]
}

// retry is by what a second try of an exchange is known. Its key counts for the
// token that it came with, and nobody else's is touched by it.
func (b *Broker) retry(caller *asking, request *ExchangeRequest) *leases.Retry {
	if request.RetryKey == "" {
		return nil
	}
	bearer := fmt.Sprintf("job token %x", caller.session.TokenDigest)
	if caller.held != nil {
		bearer = fmt.Sprintf("session token %x", caller.held.TokenHash)
	}
	var wanted strings.Builder
	for _, w := range request.Grants {
		fmt.Fprintf(&wanted, "%q %d ", w.Name, w.TTL)
		if w.CSR != "" || w.PublicKey != "" {
			fmt.Fprintf(&wanted, "%q %q ", w.CSR, w.PublicKey)
		}
	}
	return &leases.Retry{
		Key:     b.name(keyLength, "retry", caller.session.Provider, caller.session.Issuer, bearer, request.RetryKey),
		Request: b.name(keyLength, "request", wanted.String()),
		Asked:   caller.asked,
	}
}

// decodeClaims gives stored claims the types that a verified token has: whole
// numbers are int64.
func decodeClaims(stored []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(stored))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, fmt.Errorf("decoding stored claims: %w", err)
	}
	typed, _ := typeNumbers(claims).(map[string]any)
	return typed, nil
}

func typeNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return whole
		}
		fraction, _ := v.Float64()
		return fraction
	case map[string]any:
		for k := range v {
			v[k] = typeNumbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = typeNumbers(v[i])
		}
	}
	return v
}
