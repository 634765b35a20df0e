package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

const apitokenIssuer = `  - name: deploy-api
    type: apitoken
    roles:
      ci:
        audiences: [https://deploy.example.com]
        scopes: [deploy:read, deploy:write]
        used_by: [{policy: payments, environment: production}]
oauth: {resources: {https://deploy.example.com: payments/deploy-api}}
resource_servers:
  - name: deploy
    secret_sha256: 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 # of x
    audiences: [https://deploy.example.com]
`

// TestAPITokenIssuer: from the configuration to a token, and to a service that asks
// about it.
func TestAPITokenIssuer(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, strings.Replace(string(text), "policies: {dir", apitokenIssuer+"policies: {dir", 1))
	p.newPolicies(t, "policies.2", func(text string) string {
		return strings.Replace(text, "grants:\n", "grants:\n  - {name: deploy-api, jobs: [github-main], issuer: deploy-api, role: ci}\n", 1)
	})
	_, base := p.serve(t)
	post := func(path string, form url.Values, name, secret string, into any) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if name != "" {
			request.SetBasicAuth(name, secret)
		}
		response, err := (&http.Client{Timeout: deadline}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close() //nolint:errcheck // it was read
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return response.StatusCode
	}
	var made struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	if status := post("/oauth/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token": {jobToken(t, provider)}, "audience": {"https://deploy.example.com"},
	}, "", "", &made); status != http.StatusOK || !strings.HasPrefix(made.Token, "dpt_") || made.Expires < 600 || made.Expires > 900 {
		t.Fatalf("%d, %d seconds", status, made.Expires)
	}
	var said struct {
		Active bool   `json:"active"`
		Scope  string `json:"scope"`
	}
	if status := post("/oauth/introspect", url.Values{"token": {made.Token}}, "deploy", "x", &said); status != http.StatusOK || !said.Active || said.Scope != "deploy:read deploy:write" {
		t.Errorf("%d %+v", status, said)
	}
	var refused struct {
		Error string `json:"error"`
	}
	if status := post("/oauth/introspect", url.Values{"token": {made.Token}}, "deploy", "y", &refused); status != http.StatusUnauthorized || refused.Error != "invalid_client" {
		t.Errorf("%d %+v", status, refused)
	}
}
