package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wantUnavailable also checks that the error says when to come back.
func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	var unavailable *UnavailableError
	if !errors.Is(err, ErrUnavailable) || !errors.As(err, &unavailable) {
		t.Fatalf("error is %v, want ErrUnavailable", err)
	}
	if unavailable.RetryAfter < time.Second || unavailable.RetryAfter > cooldown {
		t.Errorf("retry after %v", unavailable.RetryAfter)
	}
	if unavailable.Provider != "fake" {
		t.Errorf("provider is %q", unavailable.Provider)
	}
}

// eventually waits for what a background fetch brings about.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

// idle says that no fetch is under way.
func idle(v *Verifier, p *fakeProvider) func() bool {
	k := keySetOf(v, p)
	return func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.running == nil
	}
}

func TestNewAsksNothing(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	if p.discoveries.Load()+p.fetches.Load() != 0 {
		t.Error("New asked the provider")
	}
	// Refused before the signature, and so without asking.
	for _, changes := range []map[string]any{{"iss": "https://evil.example.com"}, {"aud": "x"}, {"exp": 1}, {"sub": "daypass:x"}} {
		if _, err := v.Verify(t.Context(), s.token(t, p.claims(c, changes))); err == nil {
			t.Error("accepted")
		}
	}
	if p.discoveries.Load()+p.fetches.Load() != 0 {
		t.Error("a token that fails a cheaper check caused a fetch")
	}
}

func TestGarbageCausesOneFetch(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	if _, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil))); err != nil {
		t.Fatal(err)
	}
	c.Advance(cooldown)
	before := p.fetches.Load()
	stranger := newSigner(t, algES256, "")
	signature, unavailable := 0, 0
	for i := range 1000 {
		stranger.kid = fmt.Sprint("unknown-", i)
		_, err := v.Verify(t.Context(), stranger.token(t, p.claims(c, nil)))
		var refused *Error
		switch {
		case errors.Is(err, ErrUnavailable):
			wantUnavailable(t, err)
			unavailable++
		case errors.As(err, &refused) && refused.Reason == ReasonSignature:
			signature++
		default:
			t.Fatal(err)
		}
	}
	if got := p.fetches.Load() - before; got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
	// The first was looked for in a fresh set; of the others nothing can be said yet.
	if signature != 1 || unavailable != 999 {
		t.Errorf("%d refused, %d unavailable", signature, unavailable)
	}
	// A bad signature under a known id causes none either.
	stranger.kid = "a"
	for range 100 {
		_, err := v.Verify(t.Context(), stranger.token(t, p.claims(c, nil)))
		wantReason(t, err, ReasonSignature)
	}
	if got := p.fetches.Load() - before; got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
	if got := p.discoveries.Load(); got != 2 {
		t.Errorf("%d discoveries, want 2", got)
	}
}

func TestRotation(t *testing.T) {
	c, first, second := newClock(), newSigner(t, algES256, "first"), newSigner(t, algES256, "second")
	p := newFakeProvider(t, first.jwk())
	v := newVerifier(t, p.config(c))
	if _, err := v.Verify(t.Context(), first.token(t, p.claims(c, nil))); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fakeProvider) { p.keys = []map[string]any{second.jwk()} })
	_, err := v.Verify(t.Context(), second.token(t, p.claims(c, nil)))
	wantUnavailable(t, err) // asked a moment ago
	c.Advance(cooldown)
	if _, err := v.Verify(t.Context(), second.token(t, p.claims(c, nil))); err != nil {
		t.Errorf("new key not picked up: %v", err)
	}
	// The fetch for the second key has dropped the first.
	c.Advance(cooldown)
	_, err = v.Verify(t.Context(), first.token(t, p.claims(c, nil)))
	wantReason(t, err, ReasonSignature)
}

func TestWithdrawnKeyDiesWithItsLife(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	good := func() error {
		_, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil)))
		return err
	}
	if err := good(); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fakeProvider) { p.keys = []map[string]any{} })
	c.Advance(defaultLife) // past its life: asked anew before use
	wantReason(t, good(), ReasonSignature)
	if got := p.fetches.Load(); got != 2 {
		t.Errorf("%d fetches, want 2", got)
	}
}

func TestRefreshInTheBackground(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	verify := func() error {
		_, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil)))
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	// The next fetch hangs until released: tokens are answered meanwhile.
	release := make(chan struct{})
	p.set(func(p *fakeProvider) {
		p.jwks = func(w http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = w.Write([]byte(`{"keys":[]}`))
		}
	})
	c.Advance(defaultLife * 9 / 10)
	for range 50 {
		if err := verify(); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	eventually(t, "the background fetch drops the withdrawn key", func() bool { return verify() != nil })
	if got := p.fetches.Load(); got != 2 {
		t.Errorf("%d fetches, want 2", got)
	}
}

func TestOneFetchForAll(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	token := s.token(t, p.claims(c, nil))
	var wait sync.WaitGroup
	var failed atomic.Int64
	for range 64 {
		wait.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				failed.Add(1)
			}
		})
	}
	wait.Wait()
	if p.fetches.Load() != 1 || p.discoveries.Load() != 1 || failed.Load() != 0 {
		t.Errorf("%d fetches, %d discoveries, %d failed", p.fetches.Load(), p.discoveries.Load(), failed.Load())
	}
}

func TestProviderDown(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	v := newVerifier(t, p.config(c))
	verify := func(s *signer) error {
		_, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil)))
		return err
	}
	if err := verify(s); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fakeProvider) {
		p.discovery = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
		p.jwks = p.discovery
	})
	for elapsed := time.Duration(0); elapsed < defaultLife+staleLife-5*time.Minute; elapsed += 5 * time.Minute {
		c.Advance(5 * time.Minute)
		if err := verify(s); err != nil {
			t.Fatalf("after %v: %v", elapsed, err)
		}
		eventually(t, "fetch ends", idle(v, p))
	}
	// An unknown key can be judged neither good nor bad while nobody can be asked.
	c.Advance(time.Minute)
	wantUnavailable(t, verify(newSigner(t, algES256, "b")))
	c.Advance(4 * time.Minute)
	wantUnavailable(t, verify(s))
	// Failure is remembered for the cooldown, and not longer.
	before := p.discoveries.Load()
	for range 10 {
		wantUnavailable(t, verify(s))
	}
	if got := p.discoveries.Load(); got != before {
		t.Errorf("%d requests during the cooldown", got-before)
	}
	p.set(func(p *fakeProvider) { p.discovery, p.jwks = nil, nil })
	c.Advance(cooldown)
	if err := verify(s); err != nil {
		t.Errorf("after the provider came back: %v", err)
	}
}

func TestMisbehavingProvider(t *testing.T) {
	s := newSigner(t, algES256, "a")
	elsewhere := newFakeProvider(t, s.jwk())
	write := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	redirect := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", elsewhere.issuer()+r.URL.Path)
		w.WriteHeader(http.StatusFound)
	}
	huge := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"keys":[],"x":"`))
		for range 2 * maxDocument >> 10 {
			if _, err := w.Write([]byte(strings.Repeat("x", 1<<10))); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte(`"}`))
	}
	broken := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{`))
	}
	many := `{"keys":[` + strings.TrimSuffix(strings.Repeat(`{},`, maxKeys+1), ",") + `]}`
	for name, misbehave := range map[string]func(*fakeProvider){
		"lying issuer":               func(p *fakeProvider) { p.document["issuer"] = "https://evil.example.com" },
		"issuer with trailing slash": func(p *fakeProvider) { p.document["issuer"] = p.issuer() + "/" },
		"no issuer":                  func(p *fakeProvider) { delete(p.document, "issuer") },
		"no jwks_uri":                func(p *fakeProvider) { delete(p.document, "jwks_uri") },
		"jwks_uri on http":           func(p *fakeProvider) { p.document["jwks_uri"] = "http://192.0.2.1/keys" },
		"jwks_uri in a file":         func(p *fakeProvider) { p.document["jwks_uri"] = "file:///etc/passwd" },
		"discovery redirects":        func(p *fakeProvider) { p.discovery = redirect },
		"keys redirect":              func(p *fakeProvider) { p.jwks = redirect },
		"discovery is huge":          func(p *fakeProvider) { p.discovery = huge },
		"keys are huge":              func(p *fakeProvider) { p.jwks = huge },
		"keys are too many":          func(p *fakeProvider) { p.jwks = write(many) },
		"keys are garbage":           func(p *fakeProvider) { p.jwks = write("<html>") },
		"keys are null":              func(p *fakeProvider) { p.jwks = write(`{"keys":null}`) },
		"keys break off":             func(p *fakeProvider) { p.jwks = broken },
		"discovery is garbage":       func(p *fakeProvider) { p.discovery = write("{") },
		"discovery is not found":     func(p *fakeProvider) { p.discovery = http.NotFound },
		"keys fail":                  func(p *fakeProvider) { p.jwks = http.NotFound },
		"keys answered without a 200": func(p *fakeProvider) {
			p.jwks = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := newClock(), newFakeProvider(t, s.jwk())
			p.set(misbehave)
			v := newVerifier(t, p.config(c))
			_, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil)))
			wantUnavailable(t, err)
			if elsewhere.discoveries.Load()+elsewhere.fetches.Load() != 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// A slow provider holds a caller no longer than the caller wants, and itself no
// longer than its timeout.
func TestSlowProvider(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	hanging := make(chan struct{})
	p.set(func(p *fakeProvider) {
		p.discovery = func(_ http.ResponseWriter, r *http.Request) {
			close(hanging)
			<-r.Context().Done()
		}
	})
	broker, shutdown := context.WithCancel(t.Context())
	v, err := New(broker, p.config(c))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-hanging
		cancel()
	}()
	_, err = v.Verify(ctx, s.token(t, p.claims(c, nil)))
	wantUnavailable(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want the caller's cancellation in it", err)
	}
	// The fetch goes on for others, and ends with the broker.
	if idle(v, p)() {
		t.Error("the fetch ended with the request that began it")
	}
	shutdown()
	eventually(t, "the fetch ends with the broker", idle(v, p))

	ctx, cancel = keySetOf(v, p).begin()
	defer cancel()
	deadline, ok := ctx.Deadline()
	if !ok || time.Until(deadline) > fetchTimeout {
		t.Errorf("a fetch may last until %v", deadline)
	}
}

// Keys of several issuers may be kept on one host.
func TestKeysOnAnotherHost(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	keys, p := newFakeProvider(t, s.jwk()), newFakeProvider(t)
	p.set(func(p *fakeProvider) { p.document["jwks_uri"] = keys.issuer() + "/keys" })
	if _, err := newVerifier(t, p.config(c)).Verify(t.Context(), s.token(t, p.claims(c, nil))); err != nil {
		t.Error(err)
	}
}

// An algorithm is accepted where the provider's metadata and the configuration agree.
func TestDeclaredAlgorithms(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	token := s.token(t, p.claims(c, nil))
	for name, test := range map[string]struct {
		declared, configured []string
		good                 bool
	}{
		"nobody says anything":  {nil, nil, true},
		"declared":              {[]string{algRS256, algES256}, nil, true},
		"configured":            {nil, []string{algES256}, true},
		"both":                  {[]string{algES256}, []string{algEdDSA, algES256}, true},
		"not declared":          {[]string{algRS256}, nil, false},
		"configured against it": {[]string{algRS256}, []string{algES256}, false},
		"declared against it":   {[]string{algES256}, []string{algRS256}, false},
		"declared with none":    {[]string{"none", "HS256"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			p.set(func(p *fakeProvider) { p.document["id_token_signing_alg_values_supported"] = test.declared })
			cfg := p.config(c)
			cfg.Providers[0].Algorithms = test.configured
			_, err := newVerifier(t, cfg).Verify(t.Context(), token)
			switch {
			case !test.good:
				wantReason(t, err, ReasonAlgorithm)
			case err != nil:
				t.Error(err)
			}
		})
	}
}

func TestTokenWithoutKeyID(t *testing.T) {
	c := newClock()
	a, b, other := newSigner(t, algES256, "a"), newSigner(t, algES256, "b"), newSigner(t, algEdDSA, "c")
	p := newFakeProvider(t, a.jwk(), other.jwk())
	payload := `{"iss":"` + p.issuer() + `","aud":"` + testAudience + `","sub":"x","exp":` + fmt.Sprint(c.Now().Unix()+60) + `}`
	v := newVerifier(t, p.config(c))
	if _, err := v.Verify(t.Context(), a.raw(t, `{"alg":"ES256"}`, payload)); err != nil {
		t.Errorf("with one key of that algorithm: %v", err)
	}
	p.set(func(p *fakeProvider) { p.keys = []map[string]any{a.jwk(), b.jwk()} })
	v = newVerifier(t, p.config(c))
	_, err := v.Verify(t.Context(), a.raw(t, `{"alg":"ES256"}`, payload)) // which of the two?
	wantReason(t, err, ReasonSignature)
	c.Advance(cooldown)
	_, err = v.Verify(t.Context(), other.raw(t, `{"alg":"EdDSA"}`, payload)) // none
	wantReason(t, err, ReasonSignature)
}

func TestLifetime(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                             defaultLife,
		"public":                       defaultLife,
		"max-age=900":                  15 * time.Minute,
		"public, Max-Age=900":          15 * time.Minute,
		`max-age="900"`:                15 * time.Minute,
		"max-age=0, private":           minLife,
		"max-age=86400":                maxLife,
		"max-age=99999999999999999999": defaultLife,
		"max-age=-1":                   defaultLife,
		"no-store, max-age=900":        minLife,
		"no-cache":                     minLife,
	} {
		if got := lifetime(http.Header{"Cache-Control": {header}}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	p.set(func(p *fakeProvider) { p.cacheControl = "max-age=3000" })
	cfg := p.config(c)
	cfg.Providers[0].JWKSMaxAge = 2 * time.Minute
	v := newVerifier(t, cfg)
	if _, err := v.Verify(t.Context(), s.token(t, p.claims(c, nil))); err != nil {
		t.Fatal(err)
	}
	if got := keySetOf(v, p).current.Load().freshUntil; !got.Equal(c.Now().Add(2 * time.Minute)) {
		t.Errorf("fresh until %v: the configured bound was not kept", got)
	}
}
