package devkit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	providerWarning = "demo OIDC provider: it gives any token to whoever asks. For demos and tests only; no broker with real targets may trust it."
	tokenLife       = 5 * time.Minute // GitHub's
	providerPort    = "port"
)

// ProviderConfig says where the demo provider listens and how it signs.
type ProviderConfig struct {
	// Listen is an address on loopback; any other is refused. Empty: 127.0.0.1:0, which is any free port.
	Listen string
	// KeyDir keeps signing keys and port across restarts, and is made when missing. Empty: new ones each time.
	KeyDir string
	// Algorithm is RS256 (the default, and what the providers use), PS256, ES256 or EdDSA.
	Algorithm string
	// Now is the clock that tokens are dated by. Nil: the machine's.
	Now func() time.Time
	// Log receives a warning at the start. Nil: nothing.
	Log io.Writer
}

// Provider is a demo OIDC provider over plain HTTP with two issuers, /github and /gitlab, on one set of keys.
//
// GET /token?audience=A&profile=github&claim.ref=refs/heads/x answers {"value": "<jwt>"} as GitHub's token endpoint does, and the bare
// token with format=raw. ttl=90s (also negative) changes its life. It asks nobody who they are: demos and tests only.
type Provider struct {
	now    func() time.Time
	keys   *providerKeys
	base   string
	server *http.Server
	served chan struct{}
}

// StartProvider starts the provider and returns when it accepts connections. It runs until Close; ctx bounds the start alone.
func StartProvider(ctx context.Context, cfg ProviderConfig) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default clock; tests bring their own
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.KeyDir != "" {
		if err := os.MkdirAll(cfg.KeyDir, 0o700); err != nil {
			return nil, fmt.Errorf("making the demo provider's folder: %w", err)
		}
	}
	keys, err := openProviderKeys(cfg.KeyDir, jose.SignatureAlgorithm(cfg.Algorithm))
	if err != nil {
		return nil, err
	}
	listener, err := listenLoopback(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p := &Provider{now: cfg.Now, keys: keys, base: "http://" + listener.Addr().String(), served: make(chan struct{})}
	p.server = &http.Server{Handler: p.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(listener) // ends with Close
	}()
	fmt.Fprintf(cfg.Log, "WARNING: %s It listens on %s\n", providerWarning, p.base) //nolint:errcheck // nothing else depends on the line
	return p, nil
}

// listenLoopback listens on the configured port, else the one of the last start while it is free, else any.
func listenLoopback(ctx context.Context, cfg ProviderConfig) (net.Listener, error) {
	listen := cfg.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("reading the demo provider's address: %w", err)
	}
	if !isLoopback(host) {
		return nil, fmt.Errorf("starting the demo provider on %s: it gives any token to whoever asks, so it listens on loopback only\nhint: 127.0.0.1:0", listen)
	}
	ports := []string{port}
	portFile := filepath.Join(cfg.KeyDir, providerPort)
	if cfg.KeyDir != "" && port == "0" {
		if kept, err := os.ReadFile(portFile); err == nil { //nolint:gosec // G304: the configured folder
			ports = []string{strings.TrimSpace(string(kept)), port}
		}
	}
	var listener net.Listener
	for _, port := range ports {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("starting the demo provider: %w", err)
	}
	if cfg.KeyDir != "" {
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		if err := os.WriteFile(portFile, []byte(port+"\n"), 0o600); err != nil { //nolint:gosec // G703: in the configured folder
			return nil, errors.Join(fmt.Errorf("keeping the demo provider's port: %w", err), listener.Close())
		}
	}
	return listener, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// URL is the provider's base, without a slash at the end. The token endpoint is URL()+"/token".
func (p *Provider) URL() string { return p.base }

// IssuerURL is the `iss` of a profile's tokens, under which its discovery document stands.
func (p *Provider) IssuerURL(profile string) string { return p.base + "/" + profile }

// RotateKey makes a new signing key. The former one stays in the JWKS until the next rotation, as real providers have them overlap.
func (p *Provider) RotateKey() error { return p.keys.rotate() }

// Close stops the provider and ends its connections.
func (p *Provider) Close() error {
	err := p.server.Close()
	<-p.served
	return err
}

// Token signs a token of the profile (ProfileGitHub or ProfileGitLab) for the audience. claims are laid over the profile's samples, and what
// follows from them, such as sub, is built anew; a nil value removes a claim. It lives for 5 minutes unless they say otherwise.
func (p *Provider) Token(profile, audience string, claims map[string]any) (string, error) {
	all, err := sampleClaims(profile)
	if err != nil {
		return "", fmt.Errorf("making a demo token: %w", err)
	}
	now := p.now()
	all["iss"] = p.IssuerURL(profile)
	all["aud"] = audience
	all["jti"] = rand.Text()
	all["iat"] = now.Unix()
	all["nbf"] = now.Unix()
	all["exp"] = now.Add(tokenLife).Unix()
	override(profile, all, claims)
	signer, err := p.keys.signer()
	if err != nil {
		return "", err
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing a demo token: %w", err)
	}
	return token, nil
}

func (p *Provider) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, providerWarning+"\n") })
	mux.HandleFunc("GET /token", p.serveToken)
	for _, profile := range []string{ProfileGitHub, ProfileGitLab} {
		mux.HandleFunc("GET /"+profile+"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, p.discovery(profile))
		})
		mux.HandleFunc("GET /"+profile+"/jwks", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.keys.public()) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Demo-Only", providerWarning)
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		// A web page can have a browser on this machine ask for a name that resolves to loopback, and read the answer.
		if !isLoopback(strings.Trim(host, "[]")) {
			writeText(w, http.StatusForbidden, "the demo provider answers to loopback addresses only\n")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// discovery is the part of OpenID Connect Discovery 1.0 §3 that job token providers publish.
func (p *Provider) discovery(profile string) map[string]any {
	return map[string]any{
		"issuer":                                p.IssuerURL(profile),
		"jwks_uri":                              p.IssuerURL(profile) + "/jwks",
		"subject_types_supported":               []string{"public"},
		"response_types_supported":              []string{"id_token"},
		"scopes_supported":                      []string{"openid"},
		"id_token_signing_alg_values_supported": []string{string(p.keys.algorithm)},
	}
}

func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	profile := query.Get("profile")
	if profile == "" {
		profile = ProfileGitHub
	}
	sample, err := sampleClaims(profile)
	if err != nil {
		writeText(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	audience := query.Get("audience")
	if audience == "" {
		audience, _ = sample["aud"].(string)
	}
	claims := map[string]any{}
	if ttl := query.Get("ttl"); ttl != "" {
		life, err := time.ParseDuration(ttl)
		if err != nil {
			writeText(w, http.StatusBadRequest, "reading ttl: "+err.Error()+"\n")
			return
		}
		claims["exp"] = p.now().Add(life).Unix()
	}
	for key := range query {
		name, isClaim := strings.CutPrefix(key, "claim.")
		if !isClaim {
			continue
		}
		if claims[name], err = parseClaim(sample, name, query.Get(key)); err != nil {
			writeText(w, http.StatusBadRequest, err.Error()+"\n")
			return
		}
	}
	token, err := p.Token(profile, audience, claims)
	if err != nil {
		writeText(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if query.Get("format") == "raw" {
		writeText(w, http.StatusOK, token)
		return
	}
	writeJSON(w, map[string]string{"value": token})
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client has gone away
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone away
}
