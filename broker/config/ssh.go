package config

import (
	"maps"
	"slices"

	"github.com/daypass/daypass/policies/strictyaml"
)

// sshRoleKeys are the keys of a role that no other type of issuer has.
func sshRoleKeys() []string {
	return []string{
		"type", "principals", "default_principals", "public_key", "key_types", "force_commands", "source_addresses", "verify_required", "extensions",
	}
}

// ssh checks what has a choice of few; the issuer itself looks at the rest when
// it is opened.
func (l *loader) ssh(issuer *Issuer) {
	l.unfit(issuer.At, issuer.Type, "target", "admin", "schema", "max_connections", "used_by")
	l.issuerKey(issuer)
	l.ownKey(issuer)
	if issuer.Key.Algorithm == "PS256" {
		l.add(issuer.Key.At.Of("algorithm"), "ES256, ES384, EdDSA or RS256", "SSH has no signatures with PS256")
	}
	if len(issuer.Roles) == 0 && l.fresh(issuer.At, "roles") {
		l.add(issuer.At.Of("roles"), "add one: roles: {deployer: {type: user, principals: […], used_by: […]}}", "an issuer of type ssh without roles")
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		l.unfit(role.At, issuer.Type, "member_of", "owner", "allow", "scram_iterations", "connection_limit", "audiences")
		l.sshRole(name, role)
	}
}

// ownKey refuses a key that signs something else too: what is revoked is listed
// for each authority by itself, and a JWT is no certificate.
func (l *loader) ownKey(issuer *Issuer) {
	same := func(other *Key) bool {
		k := issuer.Key
		return k.Type == other.Type && k.Module == other.Module && k.Token == other.Token && k.Dir == other.Dir && k.Label == other.Label
	}
	others := map[string]*Key{"keys.signing": &l.config.Keys.Signing}
	for i := range l.config.Issuers {
		if other := &l.config.Issuers[i]; other != issuer && other.Key != nil {
			others["issuer "+other.Name] = other.Key
		}
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if same(others[name]) {
			l.add(issuer.Key.At.Of("label"), "give it a label of its own", "the key of issuer %s is that of %s too", issuer.Name, name)
		}
	}
}

func (l *loader) sshRole(name string, role Role) {
	choice := func(key, value string, choices ...string) {
		if !slices.Contains(choices, value) && l.fresh(role.At, key) {
			l.add(role.At.Of(key), strictyaml.Suggest(value, choices), "role %s: %s can't be %q", name, key, value)
		}
	}
	choice("type", role.Type, "user", "host")
	choice("public_key", role.PublicKey, "", "required", "made")
	for _, kind := range role.KeyTypes {
		choice("key_types", kind, "ed25519", "ecdsa", "rsa", "ed25519-sk", "ecdsa-sk")
	}
	for _, extension := range role.Extensions {
		choice("extensions", extension, "no-touch-required", "permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc")
	}
	if len(role.Principals) == 0 && l.fresh(role.At, "principals") {
		l.add(role.At.Of("principals"), "name the users, or hosts, that a certificate may be for", "role %s: principals is missing or empty", name)
	}
	if role.Type == "host" {
		for _, key := range []string{"force_commands", "source_addresses", "verify_required", "extensions"} {
			if role.At.Has(key) {
				l.add(role.At.Of(key), "take it out", "role %s: a host's certificate has no %s", name, key)
			}
		}
	}
	for key, ttl := range map[string]strictyaml.Duration{"default_ttl": role.DefaultTTL, "max_ttl": role.MaxTTL} {
		if at := role.At.Of(key); role.At.Has(key) && !l.reported(at) && (ttl <= 0 || ttl.Std() > maxTTL) {
			l.add(at, "", "%s is between 1s and 24h", key)
		}
	}
	if role.MaxTTL > 0 && role.DefaultTTL > role.MaxTTL {
		l.add(role.At.Of("default_ttl"), "", "role %s: default_ttl is longer than max_ttl", name)
	}
	if role.PublicKey == "made" {
		l.roleEnv(role, "certificate", "private_key")
	} else {
		l.roleEnv(role, "certificate")
	}
}
