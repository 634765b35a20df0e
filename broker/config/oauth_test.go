package config

import (
	"strings"
	"testing"
)

const sumOfX = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"

// TestOAuth: services, resources and API tokens are read, and what can't be meant
// is told with what to do.
func TestOAuth(t *testing.T) {
	const tokens = "issuers: [{name: api, type: apitoken, roles: {ci: {audiences: [https://deploy.example.com], scopes: ['deploy:read'], dpop: required, used_by: [{policy: payments, environment: production}]}}}]\n"
	server := func(fields string) string { return "resource_servers: [{name: deploy, " + fields + "}]\n" }
	good := server("secret_sha256: " + sumOfX + ", audiences: [https://deploy.example.com]")
	c, mistakes := parse(t, minimal+tokens+good+"oauth: {resources: {https://deploy.example.com: payments/deploy-api}}\n")
	if len(mistakes) > 0 || len(c.Warnings) > 0 || c.OAuth.Resources["https://deploy.example.com"] != "payments/deploy-api" ||
		c.ResourceServers[0].SecretSHA256 != sumOfX || c.Issuer("api").Roles["ci"].Scopes[0] != "deploy:read" || c.Issuer("api").Roles["ci"].DPoP != DPoPRequired {
		t.Errorf("%v %v; read %+v %+v", mistakes, c.Warnings, c.OAuth, c.ResourceServers)
	}
	const audience = ", audiences: [https://deploy.example.com]"
	role := func(fields string) string {
		return "issuers: [{name: api, type: apitoken, roles: {ci: {used_by: [{policy: p, environment: test}]" + fields + "}}}]\n"
	}
	for _, c := range []struct{ what, text, want string }{
		{"no proof", server("audiences: [a]"), "has neither secret_sha256 nor client_certificate_sha256"},
		{"a secret itself", server("secret_sha256: hunter2" + audience), "secret_sha256 is no SHA-256 in hex"},
		{"capital digits", server("secret_sha256: " + strings.ToUpper(sumOfX) + audience), "secret_sha256 is no SHA-256 in hex"},
		{"the hash of nothing", server("secret_sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" + audience), "the hash of nothing"},
		{"no audience", server("secret_sha256: " + sumOfX), "has no audiences"},
		{"a blank audience", server("secret_sha256: " + sumOfX + ", audiences: ['a b']"), "without blanks"},
		{"a certificate without TLS", server("client_certificate_sha256: " + sumOfX + audience), "without tls"},
		{"a bad name", "resource_servers: [{name: De ploy, secret_sha256: " + sumOfX + audience + "}]\n", "can't be the name of a resource server"},
		{"two of a name", strings.Replace(good, "}]", "}, {name: deploy, secret_sha256: "+strings.Repeat("ab", 32)+audience+"}]", 1), "there are two resource servers deploy"},
		{"two with a secret", strings.Replace(good, "}]", "}, {name: other, secret_sha256: "+sumOfX+audience+"}]", 1), "have the same secret"},
		{"an unknown key", server("secret: x" + audience), "secret"},
		{"no grant", "oauth: {resources: {https://deploy.example.com: payments}}\n", `"payments" is no grant`},
		{"a blank resource", "oauth: {resources: {'a b': payments/deploy-api}}\n", "without blanks"},
		{"no roles", "issuers: [{name: api, type: apitoken}]\n", "an issuer of type apitoken without roles"},
		{"a role without audiences", role(""), "audiences is missing or empty"},
		{"a scope with a blank", role(audience + ", scopes: ['a b']"), "without blanks, quotes and backslashes"},
		{"a scope that names a grant", role(audience + ", scopes: ['daypass:a/b']"), "name grants"},
		{"a long life", role(audience + ", default_ttl: 25h"), "default_ttl is between 1s and 24h"},
		{"a profile", role(audience + ", profile: aws"), "an issuer of type apitoken has no profile"},
		{"another value", role(audience + ", env: {password: X}"), `there is no value "password"`},
		{"another dpop", role(audience + ", dpop: sometimes"), "dpop is optional or required"},
		{"dpop of a jwt", "issuers: [{name: j, type: jwt, roles: {r: {dpop: required, used_by: [{policy: p, environment: test}]}}}]\n", "an issuer of type jwt has no dpop"},
		{"scopes of a jwt", "issuers: [{name: j, type: jwt, roles: {r: {scopes: [a], used_by: [{policy: p, environment: test}]}}}]\n", "an issuer of type jwt has no scopes"},
	} {
		_, mistakes := parse(t, minimal+c.text)
		found := false
		for _, m := range mistakes {
			found = found || strings.Contains(m.String(), c.want)
		}
		if !found {
			t.Errorf("%s: %v, want %q", c.what, mistakes, c.want)
		}
	}
}
