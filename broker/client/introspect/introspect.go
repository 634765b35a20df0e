// Package introspect is for services that accept API tokens of Daypass: it checks
// the bearer token of each request by asking the broker what it is good for
// (RFC 7662). It needs nothing but the standard library, so it may also be copied.
//
//	guard := &introspect.Guard{
//		URL: "https://daypass.example.com/oauth/introspect", Name: "deploy", Secret: secret,
//		Audience: "https://deploy.example.com",
//	}
//	mux.Handle("GET /releases", guard.Require(releases, "deploy:read"))
//
// An answer is kept for a few seconds, so a revoked token may be taken for as long.
// When the broker can't be asked, nothing is let through.
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
)

// Guard asks for one service. Its fields don't change once it is in use. It is safe
// for concurrent use.
type Guard struct {
	URL      string // of the broker's call; https, but on loopback
	Name     string // the service's, as in the broker's configuration (resource_servers)
	Secret   string // the service's; empty: Client shows a certificate
	Audience string // the service's own; a token for others alone is refused. Required

	Client *http.Client     // nil: one that gives up after 10 s
	Cache  time.Duration    // how long an answer counts, a refusal too; 0: 5 s, negative: not at all
	Now    func() time.Time // nil: the system's clock

	mu    sync.Mutex
	known map[[sha256.Size]byte]answer // by the token's hash: a heap dump holds no token
}

// Token is what a live token says (RFC 7662, section 2.2).
type Token struct {
	Active   bool     `json:"active"`
	Subject  string   `json:"sub"` // daypass:TENANT/POLICY/GRANT
	Scope    string   `json:"scope"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"` // seconds since 1970
	ID       string   `json:"jti"` // of the lease: what logs should say
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

// ErrInactive says that the token is good for nothing at this service.
var ErrInactive = errors.New("the token is not known, has ended, or is for another service")

// Require lets requests through to next whose bearer token is good at this service
// and has all of these scopes. Others are answered with 401, with 403 where a scope
// is missing (RFC 6750, section 3), and with 503 where the broker can't be asked.
// [From] gives next the token.
func (g *Guard) Require(next http.Handler, scopes ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, challenge string) {
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, http.StatusText(status), status)
		}
		headers := r.Header.Values("Authorization")
		if len(headers) == 0 {
			refuse(http.StatusUnauthorized, "Bearer")
			return
		}
		scheme, token, _ := strings.Cut(headers[0], " ")
		if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") {
			refuse(http.StatusUnauthorized, `Bearer error="invalid_request"`)
			return
		}
		found, err := g.Check(r.Context(), strings.TrimSpace(token))
		switch {
		case errors.Is(err, ErrInactive):
			refuse(http.StatusUnauthorized, `Bearer error="invalid_token"`)
		case err != nil:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the token could not be checked", http.StatusServiceUnavailable)
		case !found.Has(scopes...):
			refuse(http.StatusForbidden, `Bearer error="insufficient_scope", scope="`+strings.Join(scopes, " ")+`"`)
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, found)))
		}
	})
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

// Check says what a token is good for at this service. The error is ErrInactive
// where it is good for nothing; any other says that the broker could not be asked.
func (g *Guard) Check(ctx context.Context, token string) (*Token, error) {
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
