package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const testAudience = "https://ci.daypass.example.com"

// clock is a clock that moves when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fakeProvider is an OIDC provider on loopback that can be made to misbehave.
type fakeProvider struct {
	server      *httptest.Server
	discoveries atomic.Int64
	fetches     atomic.Int64

	mu           sync.Mutex
	keys         []map[string]any
	document     map[string]any
	cacheControl string
	discovery    http.HandlerFunc // instead of the document
	jwks         http.HandlerFunc // instead of the keys
}

func newFakeProvider(t testing.TB, keys ...map[string]any) *fakeProvider {
	t.Helper()
	p := &fakeProvider{keys: keys}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	p.document = map[string]any{"issuer": p.issuer(), "jwks_uri": p.issuer() + "/keys"}
	return p
}

func (p *fakeProvider) issuer() string { return p.server.URL }

// set changes the provider's behaviour between requests.
func (p *fakeProvider) set(change func(*fakeProvider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *fakeProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	var instead http.HandlerFunc
	var answer any
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		p.discoveries.Add(1)
		instead, answer = p.discovery, p.document
	case "/keys":
		p.fetches.Add(1)
		instead, answer = p.jwks, map[string]any{"keys": p.keys}
	}
	body, err := json.Marshal(answer)
	cacheControl := p.cacheControl
	p.mu.Unlock()
	switch {
	case instead != nil:
		instead(w, r)
	case err != nil || answer == nil:
		http.NotFound(w, r)
	default:
		if cacheControl != "" {
			w.Header().Set("Cache-Control", cacheControl)
		}
		_, _ = w.Write(body)
	}
}

// signer is a key of a provider, with all that a token needs of it.
type signer struct {
	alg, kid string
	key      crypto.Signer
}

func newSigner(t testing.TB, alg, kid string) *signer {
	t.Helper()
	s := &signer{alg: alg, kid: kid}
	var err error
	switch alg {
	case algRS256, algPS256:
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	case algES256:
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case algES384:
		s.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case algEdDSA:
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk is the public key as the provider publishes it.
func (s *signer) jwk() map[string]any {
	j := map[string]any{"use": "sig", "alg": s.alg, "kid": s.kid}
	switch public := s.key.Public().(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64(public.N.Bytes()), b64(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		j["kty"], j["crv"] = "EC", public.Curve.Params().Name
		j["x"], j["y"] = b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(public)
	}
	return j
}

// bytes signs as alg says, which may not be the key's own.
func (s *signer) bytes(t testing.TB, alg, signed string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(signed))
	digest, options := sum[:], crypto.SignerOpts(crypto.SHA256)
	switch alg {
	case algPS256:
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	case algES384:
		long := sha512.Sum384([]byte(signed))
		digest, options = long[:], crypto.SHA384
	case algEdDSA:
		digest, options = []byte(signed), crypto.Hash(0)
	}
	if key, ok := s.key.(*ecdsa.PrivateKey); ok {
		r, v, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			t.Fatal(err)
		}
		size := (key.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		v.FillBytes(out[size:])
		return out
	}
	out, err := s.key.Sign(rand.Reader, digest, options)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// raw signs header and payload as they stand, however wrong they are.
func (s *signer) raw(t testing.TB, header, payload string) string {
	t.Helper()
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(s.bytes(t, s.alg, signed))
}

func (s *signer) header() string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, s.alg, s.kid)
}

func (s *signer) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return s.raw(t, s.header(), string(payload))
}

// claims is a good payload; changes are laid over it, and nil takes one away.
func (p *fakeProvider) claims(c *clock, changes map[string]any) map[string]any {
	now := c.Now().Unix()
	claims := map[string]any{
		"iss": p.issuer(), "aud": testAudience, "sub": "repo:octo-org/octo-repo:ref:refs/heads/main",
		"jti": "533e8e75", "iat": now, "nbf": now - 5, "exp": now + 300,
		"repository": "octo-org/octo-repo", "repository_id": "74", "runner_id": 1,
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

func (p *fakeProvider) config(c *clock) Config {
	return Config{
		Providers: []Provider{{Name: "fake", Issuer: p.issuer(), Audience: testAudience}},
		Now:       c.Now, SelfIssuer: "https://daypass.example.com",
	}
}

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	v, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
