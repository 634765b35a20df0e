package sealed

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/daypass/daypass/issuers"
)

// DefaultField is the field of a secret that has one and gives it no name.
const DefaultField = "value"

// MaxFields is how many fields a secret has at most.
const MaxFields = 16

const defaultTTL = 15 * time.Minute

// Config says which secrets grants may name.
type Config struct {
	// Vault keeps them. Required.
	Vault Vault
	// Roles is what grants may name. Required: a secret that no role names is given
	// to nobody.
	Roles map[string]Role
	// DefaultTTL is for grants that say none. Zero: 15 minutes.
	DefaultTTL time.Duration
}

// Role gives one secret.
type Role struct {
	// Secret is its name in the vault. Required.
	Secret string
	// Pending gives the version that is to become current: for the job that puts it
	// into the secret's target.
	Pending bool
	// Fields are those that the role gives. Empty: DefaultField alone.
	Fields []string
	// Visible are the fields that need no masking, such as a user's name.
	Visible []string
	// Env maps a field to an environment variable. Nil: none is set.
	Env map[string]string
}

var (
	namePattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:/[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$`)
	})
	fieldPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	})
)

// CheckName says why a secret can't have a name: words of small letters, digits
// and -, with / between them, 128 bytes in all.
func CheckName(name string) error {
	if len(name) > 128 || !namePattern().MatchString(name) {
		return fmt.Errorf("%.130q can't be the name of a secret: it is made of words of small letters, digits and -, with / between them, and has at most 128 characters: payments/stripe-key", name)
	}
	return nil
}

// CheckField says why a field can't have a name.
func CheckField(name string) error {
	if !fieldPattern().MatchString(name) {
		return fmt.Errorf("%.40q can't be the name of a field: it begins with a small letter and has small letters, digits and _, at most 32", name)
	}
	return nil
}

func (c Config) withDefaults() (Config, error) {
	if c.Vault == nil {
		return c, errors.New("no vault: static secrets have to be kept somewhere")
	}
	if len(c.Roles) == 0 {
		return c, errors.New("no roles: each names a secret that grants may give")
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	roles := make(map[string]Role, len(c.Roles))
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		role := c.Roles[name]
		if len(role.Fields) == 0 {
			role.Fields = []string{DefaultField}
		}
		if err := role.check(); err != nil {
			return c, fmt.Errorf("role %q: %w", name, err)
		}
		roles[name] = role
	}
	c.Roles = roles
	return c, nil
}

func (r Role) check() error {
	if err := CheckName(r.Secret); err != nil {
		return err
	}
	if len(r.Fields) > MaxFields {
		return fmt.Errorf("%d fields: a secret has at most %d", len(r.Fields), MaxFields)
	}
	for i, field := range r.Fields {
		if err := CheckField(field); err != nil {
			return err
		}
		if slices.Contains(r.Fields[:i], field) {
			return fmt.Errorf("field %q stands twice", field)
		}
	}
	for _, field := range r.Visible {
		if !slices.Contains(r.Fields, field) {
			return fmt.Errorf("visible: %q is none of its fields", field)
		}
	}
	if len(r.Visible) >= len(r.Fields) {
		return errors.New("visible: all fields: then it is no secret")
	}
	used := map[string]string{}
	for _, field := range slices.Sorted(maps.Keys(r.Env)) {
		name := r.Env[field]
		if !slices.Contains(r.Fields, field) {
			return fmt.Errorf("env: %q is none of its fields", field)
		}
		if err := issuers.CheckEnvName(name); err != nil {
			return fmt.Errorf("env of %q: %w", field, err)
		}
		if other := used[name]; other != "" {
			return fmt.Errorf("env: %s and %s would both be %s", other, field, name)
		}
		used[name] = field
	}
	return nil
}
