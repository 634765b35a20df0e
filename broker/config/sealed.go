package config

import (
	"maps"
	"slices"

	"github.com/daypass/daypass/issuers/sealed"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Which version of a static secret a role gives.
const (
	VersionCurrent = "current"
	VersionPending = "pending" // for the job that puts it into the secret's target
)

// Secrets says how static secrets are rotated.
type Secrets struct {
	At    strictyaml.Where `yaml:"-"`
	Hooks []SecretHook     `yaml:"hooks"`
}

// SecretHook is what puts a new value into a secret's target.
type SecretHook struct {
	At                  strictyaml.Where `yaml:"-"`
	Name                string           `yaml:"name,required"`
	URL                 string           `yaml:"url,required"` // https; http on a loopback address alone
	TokenFile           string           `yaml:"token_file"`   // holds the bearer token that is sent; absent: none is
	CAFile              string           `yaml:"ca_file"`      // absent: the system's authorities
	AllowPrivateAddress bool             `yaml:"allow_private_address"`
}

// generate is a hook that needs no configuration; see package secrets.
const generate = "generate"

func (l *loader) hooks() {
	hooks := l.config.Secrets.Hooks
	for i := range hooks {
		h := &hooks[i]
		if h.At.Line == 0 {
			continue // not read
		}
		l.name(h.At, "hook", h.Name)
		if h.Name == generate {
			l.add(h.At.Of("name"), "", "a hook can't be called %s: that is what a secret without a hook of its own says", generate)
		}
		for j := range hooks[:i] {
			if h.Name != "" && hooks[j].Name == h.Name {
				l.add(h.At.Of("name"), "", "there are two hooks %s", h.Name)
			}
		}
		if h.URL != "" {
			if why := badURL(h.URL); why != "" {
				l.add(h.At.Of("url"), "write https://rotator.example.com/daypass", "the url %s", why)
			}
		}
	}
}

func (l *loader) sealed(issuer *Issuer) {
	if len(issuer.Roles) == 0 && l.fresh(issuer.At, "roles") {
		l.add(issuer.At.Of("roles"), "add one: roles: {stripe: {secret: payments/stripe-key, used_by: […]}}", "an issuer of type sealed without roles")
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		l.sealedRole(name, role)
	}
}

func (l *loader) sealedRole(name string, role Role) {
	if l.need(role.At, "secret", role.Secret, "the name of the secret, as in `daypass secret ls`") && role.Secret != "" {
		if err := sealed.CheckName(role.Secret); err != nil {
			l.add(role.At.Of("secret"), "", "role %s: %v", name, err)
		}
	}
	if versions := []string{VersionCurrent, VersionPending}; role.Version != "" && !slices.Contains(versions, role.Version) {
		l.add(role.At.Of("version"), strictyaml.Suggest(role.Version, versions), "role %s: version can't be %q", name, role.Version)
	}
	fields := role.Fields
	if len(fields) == 0 {
		fields = []string{sealed.DefaultField}
	}
	if len(fields) > sealed.MaxFields {
		l.add(role.At.Of("fields"), "", "role %s: a secret has at most %d fields", name, sealed.MaxFields)
	}
	for i, field := range fields {
		if err := sealed.CheckField(field); err != nil && l.fresh(role.At, "fields") {
			l.add(role.At.Of("fields"), "", "role %s: %v", name, err)
		}
		if slices.Contains(fields[:i], field) {
			l.add(role.At.Of("fields"), "", "role %s: the field %s stands twice", name, field)
		}
	}
	for _, field := range role.Visible {
		if !slices.Contains(fields, field) {
			l.add(role.At.Of("visible"), strictyaml.Suggest(field, fields), "role %s: there is no field %q", name, field)
		}
	}
	if len(role.Visible) >= len(fields) {
		l.add(role.At.Of("visible"), "leave out what is secret", "role %s: all fields are visible", name)
	}
	l.roleEnv(role, fields...)
}
