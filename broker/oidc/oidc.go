// Package oidc turns a job token into an identity: who runs, as said by a
// provider that the configuration names.
//
// A job token is a JWT (RFC 7519) that a CI system signs for one job. Whoever can
// reach the broker can send anything in its place, so checks run from the
// cheapest to the dearest, and nothing is asked of the network before issuer,
// audience and times are known to be right:
//
//	size, shape, header           parseHeader, readHeader (token.go)
//	algorithm is one of ours      Verify
//	base64url, strict JSON        parsePayload (token.go), parseObject (json.go)
//	types of registered claims    readClaims (token.go)
//	issuer, not minted by us      choose
//	audience, alone where asked   choose
//	algorithm of this provider    choose
//	exp, nbf, iat, greatest age   checkTimes
//	key id, key fits algorithm    snapshot.check (keyset.go)
//	algorithm as declared         snapshot.check
//	signature                     key.verify (keys.go)
//
// The keys come from keyset.go (life, cooldown), fetch.go and client.go.
//
// A token is read once, and strictly: duplicate names, case variants of registered
// names, trailing data and the like are refused, because the one that checks and
// the policy that decides might otherwise read two different tokens. For the same
// reason no library reads it a second time. The tests hold our verdicts against
// those of go-oidc and golang-jwt: what one of them refuses is refused here.
//
// Two kinds of errors come out. *Error is the caller's fault (HTTP 401), with the
// Reason. ErrUnavailable says that the provider's keys can't be had (HTTP 503).
// Neither ever holds the token or a claim's value.
//
// Whether a token was used before is not known here: Identity.Digest is what the
// session store tells that by.
package oidc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/outbound"
)

const (
	defaultLeeway  = 30 * time.Second
	maxLeeway      = time.Minute
	defaultSession = time.Hour
	maxSession     = 24 * time.Hour

	defaultTokenAge = 24 * time.Hour
	minTokenAge     = time.Minute
	maxTokenAge     = 31 * 24 * time.Hour
)

// Config says whose tokens are accepted. A Verifier keeps what it needs of it.
type Config struct {
	// Providers are those whose tokens are accepted; none: no token is.
	Providers []Provider
	// Client fetches discovery documents and keys. Nil: one per provider, made
	// here, which connects to public addresses alone, knows no proxy, and asks
	// for TLS 1.2. A client given here answers for these itself; redirects are
	// refused with it too.
	Client *http.Client
	// Now is the clock; nil: the system's.
	Now func() time.Time
	// SelfIssuer is the `iss` of the tokens that this broker mints. No provider
	// may have it. Empty: it mints none.
	SelfIssuer string
	// Logger takes what went wrong with a provider's keys; nil: nowhere.
	Logger *slog.Logger
	// Leeway is how far `nbf` and `iat` may lie in the future, for clocks that
	// differ. Zero: 30 seconds; at most 60. `exp` has none.
	Leeway time.Duration
}

// Provider is one issuer of job tokens, for one audience.
type Provider struct {
	// Name is the operator's name for it, unique.
	Name string
	// Type is the CI system: github, gitlab, … It means nothing to this package.
	Type string
	// Issuer is compared with `iss` byte for byte. An https URL without query,
	// fragment and user part; http on a loopback address, for demo and tests.
	Issuer string
	// Audience must stand in `aud`. Several providers may share an issuer, with
	// an audience each; a token that fits two of them is refused.
	Audience string
	// AudienceAlone asks that it stands there alone: a token that other services
	// accept too could be sent here by any of them.
	AudienceAlone bool
	// MaxTokenAge is how long after its `iat` a token is accepted, whatever its
	// `exp` says. Between 1 minute and 31 days. Zero: 24 hours; a token without
	// `iat`, which is refused where this is set, may then have that long to live.
	MaxTokenAge time.Duration
	// Algorithms that are accepted, of RS256, PS256, ES256, ES384 and EdDSA, as far
	// as the discovery document declares them too, where it declares any. Empty:
	// all five.
	Algorithms []string
	// SessionTTL is how long a session of this provider's jobs may last, for
	// those who open sessions. Zero: 1 hour; at most 24.
	SessionTTL time.Duration
	// AllowPrivateAddress lets the provider live in a private network or on a
	// loopback address. Link-local addresses stay out of reach. Unset: public
	// addresses alone (for an http issuer: loopback ones too).
	AllowPrivateAddress bool
	// CAFile is a PEM file of the authorities that its TLS certificate is checked
	// against, read by New. Empty: RootCAs.
	CAFile string
	// RootCAs is the same as a pool. Nil: the system's. Neither can be combined
	// with Config.Client.
	RootCAs *x509.CertPool
	// JWKSMaxAge bounds how long fetched keys are used without asking again,
	// where the answer allows longer. Between 1 minute and 1 hour; zero: 1 hour.
	JWKSMaxAge time.Duration
}

// Identity is what a verified token says.
type Identity struct {
	// Provider is the configured name of the provider that vouches for it.
	Provider string
	// Issuer is `iss`.
	Issuer string
	// Subject is `sub`, never empty.
	Subject string
	// ID is `jti`; empty where the provider sends none.
	ID string
	// Audience is `aud`, as a list.
	Audience []string
	// Claims are all claims of the token, by name. Values are string, bool, nil,
	// []any, map[string]any, int64 (numbers written without fraction and
	// exponent; a token with one that doesn't fit is refused) and float64 (other
	// numbers). Not to be changed.
	Claims map[string]any
	// IssuedAt is `iat`; zero where the provider sends none.
	IssuedAt time.Time
	// Expiry is `exp`.
	Expiry time.Time
	// Digest is the SHA-256 of the signed `header.payload`. It names the token
	// without the signature, of which ECDSA allows more than one per content.
	Digest [32]byte
}

// Verifier checks job tokens. It is safe for concurrent use.
type Verifier struct {
	byIssuer   map[string][]*provider
	algorithms []string // of any provider
	now        func() time.Time
	leeway     time.Duration
}

// provider is a Provider ready for use.
type provider struct {
	Provider

	needsIssuedAt bool // MaxTokenAge was configured
	keys          *keySet
}

// New checks the configuration. It asks nothing of the network: the first token
// of each provider does. Fetches end with ctx.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the one place where the system's clock becomes the default
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Leeway == 0 {
		cfg.Leeway = defaultLeeway
	}
	if cfg.Leeway < 0 || cfg.Leeway > maxLeeway {
		return nil, fmt.Errorf("reading leeway: %v is not between 0 and %v", cfg.Leeway, maxLeeway)
	}
	v := &Verifier{byIssuer: make(map[string][]*provider), now: cfg.Now, leeway: cfg.Leeway}
	names := map[string]bool{}
	for _, configured := range cfg.Providers {
		if configured.Name == "" || names[configured.Name] {
			return nil, fmt.Errorf("reading provider %q: its name is empty, or another's too", configured.Name)
		}
		names[configured.Name] = true
		p, err := newProvider(ctx, &cfg, configured)
		if err != nil {
			return nil, fmt.Errorf("reading provider %q: %w", configured.Name, err)
		}
		for _, other := range v.byIssuer[p.Issuer] {
			if other.Audience == p.Audience {
				return nil, fmt.Errorf("reading provider %q: issuer and audience are those of provider %q, so no token could be told apart", p.Name, other.Name)
			}
		}
		v.byIssuer[p.Issuer] = append(v.byIssuer[p.Issuer], p)
		v.algorithms = append(v.algorithms, p.Algorithms...)
	}
	slices.Sort(v.algorithms)
	v.algorithms = slices.Compact(v.algorithms)
	return v, nil
}

func newProvider(ctx context.Context, cfg *Config, p Provider) (*provider, error) {
	plain, err := checkIssuer(p.Issuer)
	if err != nil {
		return nil, fmt.Errorf("reading issuer: %w", err)
	}
	if sameIssuer(p.Issuer, cfg.SelfIssuer) {
		return nil, errors.New("its issuer is this broker's own: minted credentials are no job tokens")
	}
	if p.Audience == "" {
		return nil, errors.New("no audience\nhint: choose one that is unique to this broker, such as its URL")
	}
	if len(p.Algorithms) == 0 {
		p.Algorithms = Algorithms()
	}
	for _, alg := range p.Algorithms {
		if !slices.Contains(Algorithms(), alg) {
			return nil, fmt.Errorf("algorithm %q is none of %s", alg, strings.Join(Algorithms(), ", "))
		}
	}
	needsIssuedAt := p.MaxTokenAge != 0
	if err := p.setDurations(); err != nil {
		return nil, err
	}
	client, err := p.client(cfg.Client, plain)
	if err != nil {
		return nil, err
	}
	keys := &keySet{
		provider: p.Name, now: cfg.Now, logger: cfg.Logger,
		begin: func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, fetchTimeout) },
		fetcher: &fetcher{
			provider: p.Name, issuer: p.Issuer, plain: plain, maxLife: p.JWKSMaxAge,
			client: client, now: cfg.Now, logger: cfg.Logger,
		},
	}
	return &provider{Provider: p, needsIssuedAt: needsIssuedAt, keys: keys}, nil
}

// sameIssuer is wider than the comparison of tokens: a twin of the own issuer in
// another spelling is a mistake too.
func sameIssuer(a, b string) bool {
	return b != "" && strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

func (p *Provider) setDurations() error {
	if p.SessionTTL == 0 {
		p.SessionTTL = defaultSession
	}
	if p.SessionTTL < 0 || p.SessionTTL > maxSession {
		return fmt.Errorf("session ttl %v is not between 0 and %v", p.SessionTTL, maxSession)
	}
	if p.MaxTokenAge == 0 {
		p.MaxTokenAge = defaultTokenAge
	}
	if p.MaxTokenAge < minTokenAge || p.MaxTokenAge > maxTokenAge {
		return fmt.Errorf("maximum age of tokens %v is not between %v and %v", p.MaxTokenAge, minTokenAge, maxTokenAge)
	}
	if p.JWKSMaxAge == 0 {
		p.JWKSMaxAge = maxLife
	}
	if p.JWKSMaxAge < minLife || p.JWKSMaxAge > maxLife {
		return fmt.Errorf("maximum age of keys %v is not between %v and %v", p.JWKSMaxAge, minLife, maxLife)
	}
	return nil
}

func (p *Provider) client(given *http.Client, plain bool) (*http.Client, error) {
	if given != nil {
		if p.CAFile != "" || p.RootCAs != nil {
			return nil, errors.New("authorities can't be set beside a client of its own")
		}
		own := *given
		own.CheckRedirect = outbound.NoRedirect
		return &own, nil
	}
	roots := p.RootCAs
	if p.CAFile != "" {
		if roots != nil {
			return nil, errors.New("authorities are given twice, as a file and as a pool")
		}
		var err error
		if roots, err = outbound.Roots(p.CAFile); err != nil {
			return nil, err
		}
	}
	return outbound.New(outbound.Reach{Private: p.AllowPrivateAddress, Loopback: plain}, roots, fetchTimeout), nil
}

// Provider returns the provider of that name with its defaults filled in.
func (v *Verifier) Provider(name string) (Provider, bool) {
	for _, sharing := range v.byIssuer {
		for _, p := range sharing {
			if p.Name == name {
				return p.Provider, true
			}
		}
	}
	return Provider{}, false
}

// Verify checks a job token in compact form and returns what it says. Errors are
// *Error for a token that is refused, or wrap ErrUnavailable where it couldn't be
// checked; ctx bounds the wait for a provider's keys.
func (v *Verifier) Verify(ctx context.Context, rawToken string) (*Identity, error) {
	t, err := parseHeader(rawToken)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.algorithms, t.alg) {
		return nil, refuse(ReasonAlgorithm, "alg is none that is allowed")
	}
	if err := t.parsePayload(); err != nil {
		return nil, err
	}
	p, err := v.choose(t)
	if err != nil {
		return nil, err
	}
	if err := v.checkTimes(t, p); err != nil {
		return nil, err
	}
	if err := p.keys.verify(ctx, t); err != nil {
		return nil, err
	}
	return t.identity(p.Name), nil
}

// choose returns the one provider that the token says it is from and for.
func (v *Verifier) choose(t *token) (*provider, error) {
	sharing := v.byIssuer[t.iss]
	if len(sharing) == 0 {
		return nil, refuse(ReasonIssuer, "iss is none of the configured issuers")
	}
	if strings.HasPrefix(t.sub, brokerSubject) {
		return nil, refuse(ReasonMalformed, "a credential minted by a broker is no job token")
	}
	var chosen *provider
	for _, p := range sharing {
		if !slices.Contains(t.aud, p.Audience) {
			continue
		}
		if chosen != nil {
			return nil, refuse(ReasonAudience, "aud fits more than one provider")
		}
		chosen = p
	}
	if chosen == nil {
		return nil, refuse(ReasonAudience, "aud holds none of the audiences configured for this issuer")
	}
	if chosen.AudienceAlone && len(t.aud) != 1 {
		return nil, refuse(ReasonAudience, "aud holds others beside the audience of this provider, which demands to be alone")
	}
	if !slices.Contains(chosen.Algorithms, t.alg) {
		return nil, refuse(ReasonAlgorithm, "alg is not allowed for this provider")
	}
	return chosen, nil
}

func (v *Verifier) checkTimes(t *token, p *provider) error {
	now := v.now()
	if !now.Before(t.exp) { // RFC 7519 §4.1.4: on or after
		return refuse(ReasonExpired, "exp has passed")
	}
	latest := now.Add(v.leeway)
	if t.nbf.After(latest) {
		return refuse(ReasonNotYetValid, "nbf lies in the future")
	}
	if t.iat.After(latest) {
		return refuse(ReasonNotYetValid, "iat lies in the future")
	}
	switch {
	case !t.iat.IsZero():
		if now.Sub(t.iat) > p.MaxTokenAge {
			return refuse(ReasonExpired, "iat lies further back than this provider's max_token_age")
		}
	case p.needsIssuedAt:
		return refuse(ReasonMalformed, "claim iat is missing, and this provider has a max_token_age")
	case t.exp.Sub(now) > p.MaxTokenAge:
		return refuse(ReasonExpired, "claim iat is missing, and exp lies further ahead than this provider's max_token_age")
	}
	return nil
}
