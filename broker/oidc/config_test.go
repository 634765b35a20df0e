package oidc

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keySetOf returns the key set behind the first provider of p's issuer.
func keySetOf(v *Verifier, p *fakeProvider) *keySet { return v.byIssuer[p.issuer()][0].keys }

func TestConfig(t *testing.T) {
	good := Provider{Name: "a", Issuer: "https://issuer.example.com", Audience: testAudience}
	change := func(f func(*Provider)) []Provider {
		p := good
		f(&p)
		return []Provider{p}
	}
	second := func(f func(*Provider)) []Provider {
		p := good
		p.Name, p.Audience = "b", "other"
		f(&p)
		return []Provider{good, p}
	}
	for name, test := range map[string]struct {
		cfg  Config
		want string // part of the error; empty: none
	}{
		"good":                    {Config{Providers: []Provider{good}}, ""},
		"nobody":                  {Config{}, ""},
		"shared issuer":           {Config{Providers: second(func(*Provider) {})}, ""},
		"same issuer, audience":   {Config{Providers: second(func(p *Provider) { p.Audience = testAudience })}, "told apart"},
		"same name":               {Config{Providers: second(func(p *Provider) { p.Name = "a" })}, "name"},
		"no name":                 {Config{Providers: change(func(p *Provider) { p.Name = "" })}, "name"},
		"no audience":             {Config{Providers: change(func(p *Provider) { p.Audience = "" })}, "no audience"},
		"own issuer":              {Config{Providers: []Provider{good}, SelfIssuer: good.Issuer}, "own"},
		"own issuer with slash":   {Config{Providers: []Provider{good}, SelfIssuer: good.Issuer + "/"}, "own"},
		"http":                    {Config{Providers: change(func(p *Provider) { p.Issuer = "http://issuer.example.com" })}, "https"},
		"http on localhost":       {Config{Providers: change(func(p *Provider) { p.Issuer = "http://localhost:8080/x" })}, ""},
		"http on ::1":             {Config{Providers: change(func(p *Provider) { p.Issuer = "http://[::1]:8080" })}, ""},
		"http on a private one":   {Config{Providers: change(func(p *Provider) { p.Issuer = "http://10.0.0.1" })}, "https"},
		"http that looks local":   {Config{Providers: change(func(p *Provider) { p.Issuer = "http://127.0.0.1.example.com" })}, "https"},
		"no URL":                  {Config{Providers: change(func(p *Provider) { p.Issuer = "issuer" })}, "https"},
		"no host":                 {Config{Providers: change(func(p *Provider) { p.Issuer = "https:///x" })}, "https"},
		"query":                   {Config{Providers: change(func(p *Provider) { p.Issuer += "?x" })}, "query"},
		"empty query":             {Config{Providers: change(func(p *Provider) { p.Issuer += "?" })}, "query"},
		"fragment":                {Config{Providers: change(func(p *Provider) { p.Issuer += "#" })}, "fragment"},
		"user":                    {Config{Providers: change(func(p *Provider) { p.Issuer = "https://u@issuer.example.com" })}, "user"},
		"HS256":                   {Config{Providers: change(func(p *Provider) { p.Algorithms = []string{"HS256"} })}, "HS256"},
		"none":                    {Config{Providers: change(func(p *Provider) { p.Algorithms = []string{"none"} })}, "none"},
		"leeway":                  {Config{Leeway: 61 * time.Second}, "leeway"},
		"negative leeway":         {Config{Leeway: -1}, "leeway"},
		"session":                 {Config{Providers: change(func(p *Provider) { p.SessionTTL = 25 * time.Hour })}, "session"},
		"age of tokens":           {Config{Providers: change(func(p *Provider) { p.MaxTokenAge = 31 * 24 * time.Hour })}, ""},
		"short age of tokens":     {Config{Providers: change(func(p *Provider) { p.MaxTokenAge = time.Second })}, "age of tokens"},
		"long age of tokens":      {Config{Providers: change(func(p *Provider) { p.MaxTokenAge = 32 * 24 * time.Hour })}, "age of tokens"},
		"negative age of tokens":  {Config{Providers: change(func(p *Provider) { p.MaxTokenAge = -time.Hour })}, "age of tokens"},
		"age of keys":             {Config{Providers: change(func(p *Provider) { p.JWKSMaxAge = time.Second })}, "age"},
		"no authorities file":     {Config{Providers: change(func(p *Provider) { p.CAFile = "no-such-file" })}, "authorities"},
		"authorities given twice": {Config{Providers: change(func(p *Provider) { p.CAFile, p.RootCAs = "x", x509.NewCertPool() })}, "twice"},
		"authorities and client":  {Config{Providers: change(func(p *Provider) { p.CAFile = "x" }), Client: &http.Client{}}, "client"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(t.Context(), test.cfg)
			if test.want == "" && err != nil {
				t.Fatal(err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestProviderDefaults(t *testing.T) {
	v := newVerifier(t, Config{Providers: []Provider{{Name: "a", Type: "github", Issuer: "https://issuer.example.com", Audience: "x"}}})
	p, ok := v.Provider("a")
	if !ok || p.Type != "github" || p.SessionTTL != time.Hour || p.JWKSMaxAge != time.Hour || p.MaxTokenAge != 24*time.Hour || len(p.Algorithms) != 5 {
		t.Errorf("provider is %+v", p)
	}
	if _, ok := v.Provider("b"); ok {
		t.Error("found a provider that isn't there")
	}
}

func TestTwoAudiences(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	cfg := p.config(c)
	cfg.Providers = append(cfg.Providers, Provider{Name: "second", Issuer: p.issuer(), Audience: "second"})
	v := newVerifier(t, cfg)
	identity, err := v.Verify(t.Context(), s.token(t, p.claims(c, map[string]any{"aud": "second"})))
	if err != nil || identity.Provider != "second" {
		t.Errorf("identity %+v, error %v", identity, err)
	}
	_, err = v.Verify(t.Context(), s.token(t, p.claims(c, map[string]any{"aud": []string{"second", testAudience}})))
	wantReason(t, err, ReasonAudience)
}

func TestAudienceAlone(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	cfg := p.config(c)
	cfg.Providers[0].AudienceAlone = true
	v := newVerifier(t, cfg)
	for name, test := range map[string]struct {
		aud  any
		good bool
	}{
		"text":          {testAudience, true},
		"list of one":   {[]string{testAudience}, true},
		"beside others": {[]string{testAudience, "https://other.example.com"}, false},
		"behind others": {[]string{"", testAudience}, false},
		"twice":         {[]string{testAudience, testAudience}, false},
		"another alone": {"https://other.example.com", false},
	} {
		_, err := v.Verify(t.Context(), s.token(t, p.claims(c, map[string]any{"aud": test.aud})))
		switch {
		case !test.good:
			wantReason(t, err, ReasonAudience)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token ends at its exp or when it is too old, whichever is first.
func TestMaximumAge(t *testing.T) {
	const day = 24 * 3600
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	now := c.Now().Unix()
	for name, test := range map[string]struct {
		age      time.Duration // configured
		iat, exp any
		want     Reason // empty: accepted
	}{
		"default, just made":              {0, now, now + 300, ""},
		"default, a day old":              {0, now - day, now + 300, ""},
		"default, older":                  {0, now - day - 1, now + 300, ReasonExpired},
		"default, lives long":             {0, now, now + 30*day, ""},
		"default, without iat":            {0, nil, now + day, ""},
		"default, without iat, for years": {0, nil, maxUnix, ReasonExpired},
		"set":                             {5 * time.Minute, now - 300, now + 300, ""},
		"set, older":                      {5 * time.Minute, now - 301, now + 300, ReasonExpired},
		"set, without iat":                {5 * time.Minute, nil, now + 60, ReasonMalformed},
		"set to the default, without iat": {24 * time.Hour, nil, now + 60, ReasonMalformed},
		"set long":                        {7 * 24 * time.Hour, now - 6*day, now + 60, ""},
		"in the leeway of another clock":  {time.Minute, now + 30, now + 300, ""},
		"young, but past its exp":         {time.Hour, now - 60, now - 1, ReasonExpired},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := p.config(c)
			cfg.Providers[0].MaxTokenAge = test.age
			_, err := newVerifier(t, cfg).Verify(t.Context(), s.token(t, p.claims(c, map[string]any{"iat": test.iat, "exp": test.exp})))
			if test.want == "" && err != nil {
				t.Fatal(err)
			}
			if test.want != "" {
				wantReason(t, err, test.want)
			}
		})
	}
}

// The leeway is what was configured, for nbf and iat, and never helps exp.
func TestLeeway(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	cfg := p.config(c)
	cfg.Leeway = time.Minute
	v := newVerifier(t, cfg)
	now := c.Now().Unix()
	for _, test := range []struct {
		changes map[string]any
		want    Reason
	}{
		{map[string]any{"nbf": now + 60, "iat": now + 60}, ""},
		{map[string]any{"nbf": now + 61}, ReasonNotYetValid},
		{map[string]any{"iat": now + 61}, ReasonNotYetValid},
		{map[string]any{"exp": now}, ReasonExpired},
		{map[string]any{"exp": now + 1}, ""},
	} {
		_, err := v.Verify(t.Context(), s.token(t, p.claims(c, test.changes)))
		if test.want == "" && err != nil {
			t.Errorf("%v: %v", test.changes, err)
		}
		if test.want != "" {
			wantReason(t, err, test.want)
		}
	}
}

// An https issuer whose name leads to a private address is not asked, unless it
// is allowed to live there; and then its certificate counts.
func TestPrivateAddress(t *testing.T) {
	c, s := newClock(), newSigner(t, algES256, "a")
	p := newFakeProvider(t, s.jwk())
	p.server.Close()
	p.server = httptest.NewTLSServer(p)
	t.Cleanup(p.server.Close)
	p.document = map[string]any{"issuer": p.issuer(), "jwks_uri": p.issuer() + "/keys"}
	token := s.token(t, p.claims(c, nil))

	file := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(change func(*Config)) error {
		cfg := p.config(c)
		change(&cfg)
		_, err := newVerifier(t, cfg).Verify(t.Context(), token)
		return err
	}
	wantUnavailable(t, try(func(cfg *Config) { cfg.Providers[0].CAFile = file }))
	wantUnavailable(t, try(func(cfg *Config) { cfg.Providers[0].AllowPrivateAddress = true }))
	if p.discoveries.Load() != 0 {
		t.Error("the provider was reached")
	}
	if err := try(func(cfg *Config) { cfg.Providers[0].CAFile, cfg.Providers[0].AllowPrivateAddress = file, true }); err != nil {
		t.Error(err)
	}
	if err := try(func(cfg *Config) { cfg.Client = p.server.Client() }); err != nil {
		t.Errorf("with a client of its own: %v", err)
	}
	// A proxy from the environment is not used.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	if err := try(func(cfg *Config) { cfg.Providers[0].CAFile, cfg.Providers[0].AllowPrivateAddress = file, true }); err != nil {
		t.Error(err)
	}
	// An https issuer can't send us to http on our own host.
	p.set(func(p *fakeProvider) { p.document["jwks_uri"] = "http://127.0.0.1:1/keys" })
	wantUnavailable(t, try(func(cfg *Config) { cfg.Providers[0].CAFile, cfg.Providers[0].AllowPrivateAddress = file, true }))
}
