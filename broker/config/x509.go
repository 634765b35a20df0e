package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/daypass/daypass/issuers/x509"
	"github.com/daypass/daypass/policies/strictyaml"
)

// x509Keys are what roles of type x509 alone may have.
func x509Keys() []string {
	return []string{"usage", "dns_names", "ip_networks", "uris", "common_names", "organization", "organizational_unit", "csr", "accepted_keys", "made_key", "max_ttl"}
}

func (l *loader) x509(issuer *Issuer) {
	l.unfit(issuer.At, issuer.Type, "target", "admin", "schema", "max_connections", "used_by")
	// Whether the chain is there is the issuer's to say: it is made with the key, by
	// a command that reads this file too.
	l.need(issuer.At, "chain_file", issuer.ChainFile, "the authority's certificate and those above it in PEM: `daypassd keys csr --issuer "+issuer.Name+"` prints the request for it")
	l.issuerKey(issuer)
	l.ownKey(issuer)
	if len(issuer.Roles) == 0 && l.fresh(issuer.At, "roles") {
		l.add(issuer.At.Of("roles"), "add one: roles: {web: {usage: server, dns_names: ['*.svc.example.com'], used_by: […]}}", "an issuer of type x509 without roles")
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		l.unfit(role.At, issuer.Type, "member_of", "owner", "allow", "scram_iterations", "connection_limit", "audiences", "profile", "session_tags")
		l.roleEnv(role, "certificate", "private_key", "ca", "serial_number")
		for key, ttl := range map[string]strictyaml.Duration{"max_ttl": role.MaxTTL, "default_ttl": role.DefaultTTL} {
			if at := role.At.Of(key); role.At.Has(key) && !l.reported(at) && (ttl <= 0 || ttl.Std() > maxTTL) {
				l.add(at, "", "%s is between 1s and 24h", key)
			}
		}
		if err := role.X509().Check(); err != nil && !l.reported(role.At.Pos) {
			l.add(role.At.Pos, "", "role %s: %v", name, err)
		}
	}
}

// X509 is a role of an issuer of type x509.
func (r *Role) X509() x509.Role {
	return x509.Role{
		Usage: r.Usage, DNSNames: r.DNSNames, IPNetworks: r.IPNetworks, URIs: r.URIs, CommonNames: r.CommonNames,
		Organization: r.Organization, OrganizationalUnit: r.OrganizationalUnit, CSR: r.CSR, AcceptedKeys: r.AcceptedKeys, MadeKey: r.MadeKey,
		MaxTTL: r.MaxTTL.Std(), DefaultTTL: r.DefaultTTL.Std(), Env: r.Env,
	}
}

// ownKey refuses a key that something else signs with too: a list of those
// revoked would be another issuer's as well, and lack its certificates.
func (l *loader) ownKey(issuer *Issuer) {
	place := func(k *Key) string { return fmt.Sprintf("%q", []string{k.Type, k.Module, k.Token, k.Dir, k.Label}) }
	own := place(issuer.Key)
	const hint = "give it a label of its own"
	if l.config.Keys.Signing.Type != "" && own == place(&l.config.Keys.Signing) {
		l.add(issuer.Key.At.Of("label"), hint, "the key of issuer %s is keys.signing", issuer.Name)
	}
	for i := range l.config.Issuers {
		other := &l.config.Issuers[i]
		if other == issuer {
			break
		}
		if other.Key != nil && place(other.Key) == own {
			l.add(issuer.Key.At.Of("label"), hint, "issuers %s and %s have the same key", other.Name, issuer.Name)
		}
	}
}
