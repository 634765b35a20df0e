package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/daypass/daypass/policies/strictyaml"
)

// ssh checks what has a choice of few; the issuer itself looks at the rest when
// it is opened.
func (l *loader) ssh(issuer *Issuer) {
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
		l.sshRole(name, role)
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
