package config

import (
	"maps"
	"slices"

	"github.com/daypass/daypass/policies/strictyaml"
)

// keysOf are the keys of the file that not all types of issuer have.
type keysOf struct{ issuer, role []string }

// typeKeys says which type has which.
func typeKeys() map[string]keysOf {
	return map[string]keysOf{
		IssuerPostgres: {
			issuer: []string{"target", "admin", "schema", "max_connections"},
			role:   []string{"member_of", "owner", "allow", "scram_iterations", "connection_limit"},
		},
		IssuerJWT: {
			issuer: []string{"used_by"},
			role:   []string{"audiences", "default_ttl", "profile", "session_tags"},
		},
		IssuerX509: {
			issuer: []string{"key", "chain_file"},
			role: []string{
				"usage", "dns_names", "ip_networks", "uris", "common_names", "organization", "organizational_unit", "csr", "accepted_keys", "made_key",
				"max_ttl", "default_ttl",
			},
		},
		IssuerSSH: {
			issuer: []string{"key", "revoked_authorities"},
			role: []string{
				"type", "principals", "default_principals", "public_key", "key_types", "force_commands", "source_addresses", "verify_required", "extensions",
				"max_ttl", "default_ttl",
			},
		},
		IssuerAPIToken: {
			role: []string{"audiences", "scopes", "default_ttl", "dpop"},
		},
		IssuerSealed: {
			role: []string{"secret", "version", "fields", "visible"},
		},
	}
}

// IssuerTypes lists the types of issuers.
func IssuerTypes() []string { return slices.Sorted(maps.Keys(typeKeys())) }

// fitting refuses keys that belong to another type.
func (l *loader) fitting(issuer *Issuer) {
	all := typeKeys()
	own, known := all[issuer.Type]
	if !known {
		return // reported elsewhere
	}
	for _, kind := range IssuerTypes() {
		l.unfit(issuer.At, issuer.Type, all[kind].issuer, own.issuer)
		for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
			if role := issuer.Roles[name]; role.At.Line > 0 {
				l.unfit(role.At, issuer.Type, all[kind].role, own.role)
			}
		}
	}
}

func (l *loader) unfit(at strictyaml.Where, kind string, keys, own []string) {
	for _, key := range keys {
		if at.Has(key) && !slices.Contains(own, key) && l.fresh(at, key) {
			l.add(at.Of(key), "take it out", "an issuer of type %s has no %s", kind, key)
		}
	}
}
