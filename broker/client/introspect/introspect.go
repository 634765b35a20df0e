// Package introspect is for services that accept API tokens of Daypass: it checks
// the bearer token of each request by asking the broker what it is good for
// (RFC 7662). It needs nothing but the standard library and broker/dpop, which does as
// well, so both may also be copied.
//
//	guard := &introspect.Guard{
//		URL: "https://daypass.example.com/oauth/introspect", Name: "deploy", Secret: secret,
//		Audience: "https://deploy.example.com",
//	}
//	mux.Handle("GET /releases", guard.Require(releases, "deploy:read"))
//
// An answer is kept for a few seconds, so a revoked token may be taken for as long.
// When the broker can't be asked, nothing is let through.
//
// A token that is bound to a key (RFC 9449) is let through with a proof of that key,
// and as a bearer's never. Each proof is taken once, by one Guard: where a service has
// several instances, another one would take it again within a minute. So a service has
// one Guard, and not one for each route.
package introspect

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/dpop"
)

// Guard asks for one service. Its fields don't change once it is in use. It is safe
// for concurrent use.
type Guard struct {
	URL      string // of the broker's call; https, but on loopback
	Name     string // the service's, as in the broker's configuration (resource_servers)
	Secret   string // the service's; empty: Client shows a certificate
	Audience string // the service's own; a token for others alone is refused. Required

	// Origin is how clients reach the service, as in https://deploy.example.com, with the
	// path that something before the service takes away. Proofs name the URL that they are
	// for, and it can't be taken from the request, in which a thief may write another host.
	// Empty: scheme and host of Audience; where that is no URL, no bound token is let through.
	Origin string

	Client *http.Client     // nil: one that gives up after 10 s
	Cache  time.Duration    // how long an answer counts, a refusal too; 0: 5 s, negative: not at all
	Now    func() time.Time // nil: the system's clock

	mu    sync.Mutex
	known map[[sha256.Size]byte]answer // by the token's hash: a heap dump holds no token

	proofs dpop.Verifier
}

// Token is what a live token says (RFC 7662, section 2.2).
type Token struct {
	Active   bool     `json:"active"`
	Subject  string   `json:"sub"` // daypass:TENANT/POLICY/GRANT
	Scope    string   `json:"scope"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"` // seconds since 1970
	ID       string   `json:"jti"` // of the lease: what logs should say

	Confirmation Confirmation `json:"cnf"`
}

// Confirmation is the key that a token is bound to; zero: it is a bearer's.
type Confirmation struct {
	Thumbprint string `json:"jkt"` // RFC 7638, with SHA-256
}

type answer struct {
	token Token
	until time.Time
}

const (
	maxKnown  = 10_000
	maxToken  = 16 << 10
	maxAnswer = 64 << 10
	keep      = 5 * time.Second
	patience  = 10 * time.Second
)

var (
	// ErrInactive says that the token is good for nothing at this service.
	ErrInactive = errors.New("the token is not known, has ended, or is for another service")
	// ErrScheme says that the token came by another scheme than its own: a bound one as a
	// bearer's, or the other way round.
	ErrScheme = errors.New("the token is bound to a key and came as a bearer's, or the other way round")
)

// Require lets requests through to next whose token is good at this service and has
// all of these scopes. Others are answered with 401, with 403 where a scope is missing
// (RFC 6750, section 3; RFC 9449, section 7.1), and with 503 where the broker can't be
// asked. [From] gives next the token.
func (g *Guard) Require(next http.Handler, scopes ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, challenges ...string) {
			for _, challenge := range challenges {
				w.Header().Add("WWW-Authenticate", challenge)
			}
			http.Error(w, http.StatusText(status), status)
		}
		if len(r.Header.Values("Authorization")) == 0 {
			refuse(http.StatusUnauthorized, "Bearer", dpop.Challenge(""))
			return
		}
		found, err := g.CheckRequest(r)
		_, unproven := errors.AsType[*dpop.Error](err)
		switch {
		case errors.Is(err, errForm):
			refuse(http.StatusUnauthorized, `Bearer error="invalid_request"`)
		case errors.Is(err, ErrInactive):
			refuse(http.StatusUnauthorized, challenge(r, "invalid_token"))
		case errors.Is(err, ErrScheme):
			refuse(http.StatusUnauthorized, dpop.Challenge("invalid_token"))
		case unproven:
			refuse(http.StatusUnauthorized, dpop.Challenge("invalid_dpop_proof"))
		case err != nil:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the token could not be checked", http.StatusServiceUnavailable)
		case !found.Has(scopes...):
			refuse(http.StatusForbidden, challenge(r, "insufficient_scope")+`, scope="`+strings.Join(scopes, " ")+`"`)
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, found)))
		}
	})
}

// challenge tells a client what is wrong, by the scheme that it used.
func challenge(r *http.Request, code string) string {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, dpop.Scheme) {
		return dpop.Challenge(code)
	}
	return `Bearer error="` + code + `"`
}

var errForm = errors.New("not one header Authorization with a bearer token or a bound one")

// CheckRequest says what the token of a request is good for at this service. The error
// is ErrInactive, ErrScheme, or a *dpop.Error where the proof is at fault; any other
// says that the request has no token, or that the broker could not be asked.
func (g *Guard) CheckRequest(r *http.Request) (*Token, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return nil, errForm
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	isBound := strings.EqualFold(scheme, dpop.Scheme)
	if !isBound && !strings.EqualFold(scheme, "Bearer") {
		return nil, errForm
	}
	token = strings.TrimSpace(token)
	found, err := g.find(r.Context(), token)
	if err != nil {
		return nil, err
	}
	if isBound != (found.Confirmation.Thumbprint != "") {
		return nil, ErrScheme
	}
	if isBound {
		return found, g.prove(r, token, found)
	}
	return found, nil
}

// prove checks the proof that comes with a bound token.
func (g *Guard) prove(r *http.Request, token string, found *Token) error {
	proof, err := dpop.Read(r.Header)
	if err != nil {
		return err
	}
	now := g.now()
	if err := proof.Check(dpop.Request{Method: r.Method, URL: g.origin() + r.URL.EscapedPath(), Token: token}, now); err != nil {
		return err
	}
	if proof.Thumbprint.String() != found.Confirmation.Thumbprint {
		return &dpop.Error{Detail: "its key is not the one that the token is bound to"}
	}
	return g.proofs.Use(proof, now)
}

func (g *Guard) origin() string {
	if g.Origin != "" {
		return strings.TrimRight(g.Origin, "/")
	}
	u, err := url.Parse(g.Audience)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

type key struct{}

// From is the token that a request came with; nil where no Guard stands before.
func From(ctx context.Context) *Token {
	token, _ := ctx.Value(key{}).(*Token)
	return token
}

// Has says whether a token has all of these scopes.
func (t *Token) Has(scopes ...string) bool {
	own := strings.Fields(t.Scope)
	return !slices.ContainsFunc(scopes, func(scope string) bool { return !slices.Contains(own, scope) })
}

// Check says what a bearer's token is good for at this service. The error is ErrInactive
// where it is good for nothing, and ErrScheme where it is bound to a key: that needs the
// whole request ([Guard.CheckRequest]). Any other says that the broker could not be asked.
func (g *Guard) Check(ctx context.Context, token string) (*Token, error) {
	found, err := g.find(ctx, token)
	if err == nil && found.Confirmation.Thumbprint != "" {
		return nil, ErrScheme
	}
	return found, err
}

func (g *Guard) find(ctx context.Context, token string) (*Token, error) {
	if token == "" || len(token) > maxToken {
		return nil, ErrInactive
	}
	now, sum := g.now(), sha256.Sum256([]byte(token))
	g.mu.Lock()
	known, ok := g.known[sum]
	g.mu.Unlock()
	if !ok || !now.Before(known.until) {
		found, err := g.ask(ctx, token)
		if err != nil {
			return nil, fmt.Errorf("asking about a token: %w", err)
		}
		known = answer{token: *found, until: now.Add(g.life())}
		g.remember(sum, known, now)
	}
	if t := known.token; t.Active && g.Audience != "" && slices.Contains(t.Audience, g.Audience) && now.Unix() < t.Expires {
		return &t, nil
	}
	return nil, ErrInactive
}

func (g *Guard) remember(sum [sha256.Size]byte, a answer, now time.Time) {
	if g.life() <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= maxKnown {
		for other, old := range g.known {
			if !now.Before(old.until) {
				delete(g.known, other)
			}
		}
	}
	if g.known == nil || len(g.known) >= maxKnown { // strangers' tokens: all are asked for anew
		g.known = map[[sha256.Size]byte]answer{}
	}
	g.known[sum] = a
}

func (g *Guard) ask(ctx context.Context, token string) (*Token, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL, strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	if g.Secret != "" { // form-encoded within it: RFC 6749, section 2.3.1
		request.SetBasicAuth(url.QueryEscape(g.Name), url.QueryEscape(g.Secret))
	}
	client := g.Client
	if client == nil {
		// A redirect would take the token and the secret elsewhere.
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it was read
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the broker answered %s: see resource_servers in its configuration where that is 401", response.Status)
	}
	found := &Token{}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(found); err != nil {
		return nil, fmt.Errorf("reading the broker's answer: %w", err)
	}
	return found, nil
}

func (g *Guard) life() time.Duration {
	if g.Cache == 0 {
		return keep
	}
	return g.Cache
}

func (g *Guard) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now() //nolint:forbidigo // the default of a field
}
