package config

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/daypass/daypass/issuers/apitoken"
	"github.com/daypass/daypass/policies/strictyaml"
)

// OAuth is for clients that speak RFC 8693.
type OAuth struct {
	At strictyaml.Where `yaml:"-"`
	// Resources says which grant, POLICY/GRANT, is meant by a `resource` or `audience`
	// that such a client sends. Compared exactly; what isn't here is nobody's.
	Resources map[string]string `yaml:"resources"`
}

// ResourceServer is a service that may ask what a token is good for (RFC 7662).
type ResourceServer struct {
	At   strictyaml.Where `yaml:"-"`
	Name string           `yaml:"name,required"`
	// SecretSHA256 is the SHA-256, in hex, of the secret that it sends with its name;
	// ClientCertificateSHA256 that of its TLS client certificate. One of them or both,
	// which it then needs both.
	SecretSHA256            string `yaml:"secret_sha256"`
	ClientCertificateSHA256 string `yaml:"client_certificate_sha256"`
	// Audiences are its own names: it hears of tokens for these alone. Required.
	Audiences []string `yaml:"audiences"`
}

const (
	maxResources       = 1000
	maxResourceServers = 1000
)

func (l *loader) oauth() {
	c := l.config
	if len(c.OAuth.Resources) > maxResources {
		l.add(c.OAuth.At.Of("resources"), "", "%d resources are too many: %d is the most", len(c.OAuth.Resources), maxResources)
	}
	for _, resource := range slices.Sorted(maps.Keys(c.OAuth.Resources)) {
		at := c.OAuth.At.Of("resources")
		if err := apitoken.CheckAudience(resource); err != nil {
			l.add(at, "write the URL that clients send", "resources: %v", err)
		}
		policy, grant, both := strings.Cut(c.OAuth.Resources[resource], "/")
		if !both || !nameForm().MatchString(policy) || !nameForm().MatchString(grant) {
			l.add(at, "write POLICY/GRANT, as in payments/deploy-api", "resources: %q is no grant", c.OAuth.Resources[resource])
		}
	}
	if len(c.ResourceServers) > maxResourceServers {
		l.add(c.At.Of("resource_servers"), "", "%d resource servers are too many: %d is the most", len(c.ResourceServers), maxResourceServers)
	}
	for i := range c.ResourceServers {
		if c.ResourceServers[i].At.Line > 0 {
			l.resourceServer(i)
		}
	}
}

func (l *loader) resourceServer(i int) {
	all := l.config.ResourceServers
	r := &all[i]
	l.name(r.At, "resource server", r.Name)
	for j := range all[:i] {
		other := &all[j]
		switch {
		case r.Name != "" && other.Name == r.Name:
			l.add(r.At.Of("name"), "", "there are two resource servers %s", r.Name)
		case r.SecretSHA256 != "" && other.SecretSHA256 == r.SecretSHA256:
			l.add(r.At.Of("secret_sha256"), "give each its own", "resource servers %s and %s have the same secret", other.Name, r.Name)
		case r.ClientCertificateSHA256 != "" && other.ClientCertificateSHA256 == r.ClientCertificateSHA256:
			l.add(r.At.Of("client_certificate_sha256"), "give each its own", "resource servers %s and %s have the same certificate", other.Name, r.Name)
		}
	}
	if r.SecretSHA256 == "" && r.ClientCertificateSHA256 == "" && l.fresh(r.At, "secret_sha256") {
		l.add(r.At.Of("secret_sha256"), "make a secret with `openssl rand -hex 32`, and its hash with `printf %s SECRET | sha256sum`",
			"resource server %s has neither secret_sha256 nor client_certificate_sha256", r.Name)
	}
	l.sum(r.At, "secret_sha256", r.SecretSHA256)
	l.sum(r.At, "client_certificate_sha256", r.ClientCertificateSHA256)
	if r.ClientCertificateSHA256 != "" && !l.config.TLS.Enabled() {
		l.add(r.At.Of("client_certificate_sha256"), "use secret_sha256, or let this server end TLS itself", "no client certificate comes to a server without tls")
	}
	if len(r.Audiences) == 0 && l.fresh(r.At, "audiences") {
		l.add(r.At.Of("audiences"), "name what tokens for it are for: audiences: [https://deploy.example.com]", "resource server %s has no audiences", r.Name)
	}
	for _, audience := range r.Audiences {
		if err := apitoken.CheckAudience(audience); err != nil && l.fresh(r.At, "audiences") {
			l.add(r.At.Of("audiences"), "", "resource server %s: %v", r.Name, err)
		}
	}
}

// sum checks a SHA-256 in hex.
func (l *loader) sum(at strictyaml.Where, key, value string) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	decoded, err := hex.DecodeString(value)
	switch {
	case value == "":
	case err != nil || len(decoded) != 32 || strings.ToLower(value) != value:
		l.add(at.Of(key), "as sha256sum prints it: 64 digits 0-9a-f", "%s is no SHA-256 in hex", key)
	case value == empty:
		l.add(at.Of(key), "the secret didn't reach sha256sum", "%s is the hash of nothing", key)
	}
}

// apitoken checks the roles of an issuer of that type.
func (l *loader) apitoken(issuer *Issuer) {
	if len(issuer.Roles) == 0 && l.fresh(issuer.At, "roles") {
		l.add(issuer.At.Of("roles"), "add one: roles: {ci: {audiences: […], scopes: […], used_by: […]}}", "an issuer of type apitoken without roles")
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		if len(role.Audiences) == 0 && l.fresh(role.At, "audiences") {
			l.add(role.At.Of("audiences"), "name the services that may accept its tokens", "role %s: audiences is missing or empty", name)
		}
		for _, audience := range role.Audiences {
			if err := apitoken.CheckAudience(audience); err != nil && l.fresh(role.At, "audiences") {
				l.add(role.At.Of("audiences"), "", "role %s: %v", name, err)
			}
		}
		for _, scope := range role.Scopes {
			if err := apitoken.CheckScope(scope); err != nil && l.fresh(role.At, "scopes") {
				l.add(role.At.Of("scopes"), "", "role %s: %v", name, err)
			}
		}
		if at := role.At.Of("default_ttl"); role.At.Has("default_ttl") && !l.reported(at) && (role.DefaultTTL <= 0 || role.DefaultTTL.Std() > maxTTL) {
			l.add(at, "", "default_ttl is between 1s and 24h")
		}
		if modes := []string{DPoPOptional, DPoPRequired}; role.DPoP != "" && !slices.Contains(modes, role.DPoP) {
			l.add(role.At.Of("dpop"), strictyaml.Suggest(role.DPoP, modes), "role %s: dpop is optional or required", name)
		}
		l.roleEnv(role, "token")
	}
}
