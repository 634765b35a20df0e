package config

import (
	"maps"
	"slices"

	"github.com/daypass/daypass/issuers/x509"
	"github.com/daypass/daypass/policies/strictyaml"
)

func (l *loader) x509(issuer *Issuer) {
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
