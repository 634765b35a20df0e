package devkit

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func startProvider(t *testing.T, cfg ProviderConfig) *Provider {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = noon
	}
	p, err := StartProvider(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	if !strings.Contains(res.Header.Get("X-Demo-Only"), "For demos and tests only") {
		t.Error("the answer doesn't say that it is for demos only")
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// verify checks a token as a relying party would: by what its issuer publishes.
func verify(t *testing.T, p *Provider, profile, token string) (map[string]any, error) {
	t.Helper()
	var discovery struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	_, text := get(t, p.IssuerURL(profile)+"/.well-known/openid-configuration")
	if err := json.Unmarshal([]byte(text), &discovery); err != nil {
		t.Fatal(err)
	}
	if discovery.Issuer != p.IssuerURL(profile) {
		t.Fatalf("issuer %s", discovery.Issuer)
	}
	_, text = get(t, discovery.JWKSURI)
	if strings.Contains(text, `"d"`) {
		t.Fatal("the JWKS holds a private key")
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(discovery.Algorithms[0])})
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	return claims, parsed.Claims(set, &claims)
}

func TestProviderToken(t *testing.T) {
	var log strings.Builder
	p := startProvider(t, ProviderConfig{Log: &log})
	if !strings.HasPrefix(log.String(), "WARNING: demo OIDC provider") {
		t.Errorf("log: %q", log.String())
	}
	_, body := get(t, p.URL()+"/token?audience=https%3A%2F%2Fci.example.com&profile=github&claim.ref=refs/heads/x&ttl=90s")
	var answer map[string]string
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	claims, err := verify(t, p, ProfileGitHub, answer["value"])
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"iss": p.IssuerURL("github"), "aud": "https://ci.example.com", "iat": float64(noon().Unix()), "nbf": float64(noon().Unix()),
		"exp": float64(noon().Add(90 * time.Second).Unix()), "ref": "refs/heads/x", "repository": "octo-org/octo-repo", "run_attempt": "2",
		"sub": "repo:octo-org/octo-repo:ref:refs/heads/x", "workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/x",
	} {
		if claims[name] != want {
			t.Errorf("%s = %v, want %v", name, claims[name], want)
		}
	}

	_, one := get(t, p.URL()+"/token?format=raw&profile=gitlab&audience=a&claim.runner_id=7&claim.exp=1")
	claims, err = verify(t, p, ProfileGitLab, one)
	if err != nil {
		t.Fatal(err)
	}
	if claims["runner_id"] != 7.0 || claims["exp"] != 1.0 || claims["ref_protected"] != "true" || claims["iss"] != p.IssuerURL("gitlab") {
		t.Errorf("claims: %v", claims)
	}
	_, other := get(t, p.URL()+"/token?format=raw&profile=gitlab&audience=a")
	otherClaims, err := verify(t, p, ProfileGitLab, other)
	if err != nil {
		t.Fatal(err)
	}
	if otherClaims["jti"] == claims["jti"] || otherClaims["exp"] != float64(noon().Add(5*time.Minute).Unix()) {
		t.Errorf("jti and exp: %v", otherClaims)
	}
}

func TestProviderRefuses(t *testing.T) {
	p := startProvider(t, ProviderConfig{})
	for path, want := range map[string]int{
		"/":                        http.StatusOK,
		"/token?profile=bitbucket": http.StatusBadRequest,
		"/token?ttl=soon":          http.StatusBadRequest,
		"/token?profile=gitlab&claim.runner_id=x": http.StatusBadRequest,
		"/bitbucket/jwks":                         http.StatusNotFound,
	} {
		if got, body := get(t, p.URL()+path); got != want {
			t.Errorf("%s: %d %s, want %d", path, got, body, want)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL()+"/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example.com"
	res, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("a name of somebody else got %d, %v", res.StatusCode, err)
	}
	for _, listen := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "nonsense"} {
		if _, err := StartProvider(t.Context(), ProviderConfig{Listen: listen}); err == nil {
			t.Errorf("listens on %q", listen)
		}
	}
	if _, err := StartProvider(t.Context(), ProviderConfig{Algorithm: "none"}); err == nil {
		t.Error("signs with none")
	}
}

func TestProviderKeys(t *testing.T) {
	cfg := ProviderConfig{KeyDir: t.TempDir(), Algorithm: "ES256"}
	p := startProvider(t, cfg)
	token := func(p *Provider) string {
		t.Helper()
		token, err := p.Token(ProfileGitHub, "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := token(p)
	if err := p.RotateKey(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.keys.file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}

	again := startProvider(t, cfg)
	if again.URL() != p.URL() {
		t.Errorf("at %s, was at %s", again.URL(), p.URL())
	}
	if _, err := verify(t, again, ProfileGitHub, first); err != nil {
		t.Errorf("after one rotation and a restart: %v", err)
	}
	if err := again.RotateKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, again, ProfileGitHub, first); err == nil {
		t.Error("a key is still published after two rotations")
	}
	if _, err := verify(t, again, ProfileGitHub, token(again)); err != nil {
		t.Error(err)
	}
}

func TestProviderAlgorithms(t *testing.T) {
	for _, algorithm := range []string{"", "RS256", "PS256", "ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			p := startProvider(t, ProviderConfig{Algorithm: algorithm})
			token, err := p.Token(ProfileGitLab, "a", map[string]any{"environment": nil})
			if err != nil {
				t.Fatal(err)
			}
			claims, err := verify(t, p, ProfileGitLab, token)
			if err != nil {
				t.Fatal(err)
			}
			if _, there := claims["environment"]; there {
				t.Error("a claim that was set to nil is there")
			}
		})
	}
}

func TestOverride(t *testing.T) {
	for _, tc := range []struct {
		profile, query string
		want           map[string]any
	}{
		{ProfileGitHub, "repository=evil/octo-repo", map[string]any{"sub": "repo:evil/octo-repo:ref:refs/heads/main", "repository_owner": "evil", "repository_id": "74"}},
		{ProfileGitHub, "ref=refs/tags/v1", map[string]any{"sub": "repo:octo-org/octo-repo:ref:refs/tags/v1", "ref_type": "tag"}},
		{ProfileGitHub, "environment=a:b", map[string]any{"sub": "repo:octo-org/octo-repo:environment:a%3Ab"}},
		{ProfileGitHub, "event_name=pull_request", map[string]any{"sub": "repo:octo-org/octo-repo:pull_request"}},
		{ProfileGitHub, "repository=a/b&sub=mine", map[string]any{"sub": "mine", "repository_owner": "a"}},
		{ProfileGitLab, "ref=v1&ref_type=tag", map[string]any{"sub": "project_path:my-group/my-project:ref_type:tag:ref:v1", "ref_path": "refs/tags/v1"}},
		{ProfileGitLab, "project_path=a/b/c", map[string]any{"sub": "project_path:a/b/c:ref_type:branch:ref:main", "namespace_path": "a/b", "project_id": "20"}},
	} {
		claims, err := sampleClaims(tc.profile)
		if err != nil {
			t.Fatal(err)
		}
		query, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		changes := map[string]any{}
		for name := range query {
			changes[name] = query.Get(name)
		}
		override(tc.profile, claims, changes)
		for name, want := range tc.want {
			if claims[name] != want {
				t.Errorf("%s %s: %s = %v, want %v", tc.profile, tc.query, name, claims[name], want)
			}
		}
	}
	for _, profile := range []string{ProfileGitHub, ProfileGitLab} {
		claims, err := sampleClaims(profile)
		if err != nil {
			t.Fatal(err)
		}
		sample, err := sampleClaims(profile)
		if err != nil {
			t.Fatal(err)
		}
		override(profile, claims, nil)
		if !reflect.DeepEqual(claims, sample) {
			t.Errorf("%s: what is derived differs from the sample: %v", profile, claims)
		}
	}
}
