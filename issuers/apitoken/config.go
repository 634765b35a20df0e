package apitoken

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Config says which tokens grants may name.
type Config struct {
	// Roles is what grants may name. Required: a token that no role describes is good
	// for nothing.
	Roles map[string]Role
	// DefaultTTL is for grants that say none. Zero: 15 minutes.
	DefaultTTL time.Duration
}

// Role says what a token is good for. It is read at each introspection, so that a
// change of it counts for the tokens that live already.
type Role struct {
	// Audiences are the resource servers that may accept the token, each compared
	// exactly. Required.
	Audiences []string
	// Scopes are what it may do there (RFC 6749, section 3.3). Empty: the audience
	// alone says it.
	Scopes []string
	// BoundOnly says that a token is given to whoever proves to have a key, and is bound
	// to it (RFC 9449); one that isn't bound is good for nothing.
	BoundOnly bool
	// Env maps a value's name to an environment variable. Nil: token → DAYPASS_API_TOKEN.
	Env map[string]string
	// DefaultTTL is for this role's grants that say none. Zero: Config's.
	DefaultTTL time.Duration
}

const (
	defaultTTL   = 15 * time.Minute
	maxAudiences = 32
	maxScopes    = 64
	maxAudience  = 1024 // bytes
	maxScope     = 128  // bytes
)

func (c Config) withDefaults() (Config, error) {
	if len(c.Roles) == 0 {
		return c, errors.New("no roles: each says which audiences and scopes a token has")
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	roles := make(map[string]Role, len(c.Roles))
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		role := c.Roles[name]
		if role.DefaultTTL <= 0 {
			role.DefaultTTL = c.DefaultTTL
		}
		if role.Env == nil {
			role.Env = map[string]string{valueToken: "DAYPASS_API_TOKEN"} //nolint:gosec // a name
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
	if len(r.Audiences) == 0 {
		return errors.New("no audiences: name the resource servers that may accept its tokens")
	}
	if len(r.Audiences) > maxAudiences || len(r.Scopes) > maxScopes {
		return fmt.Errorf("%d audiences and %d scopes: %d and %d are the most", len(r.Audiences), len(r.Scopes), maxAudiences, maxScopes)
	}
	for i, audience := range r.Audiences {
		if err := CheckAudience(audience); err != nil {
			return err
		}
		if slices.Contains(r.Audiences[:i], audience) {
			return fmt.Errorf("audience %q stands twice", audience)
		}
	}
	for i, scope := range r.Scopes {
		if err := CheckScope(scope); err != nil {
			return err
		}
		if slices.Contains(r.Scopes[:i], scope) {
			return fmt.Errorf("scope %q stands twice", scope)
		}
	}
	for value, name := range r.Env {
		if value != valueToken {
			return fmt.Errorf("env: there is no value %q: the only one is %q", value, valueToken)
		}
		if err := issuers.CheckEnvName(name); err != nil {
			return fmt.Errorf("env of %q: %w", value, err)
		}
	}
	return nil
}

// CheckAudience says why no token can be for that audience.
func CheckAudience(audience string) error {
	if audience == "" || len(audience) > maxAudience || strings.ContainsFunc(audience, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("audience %.40q: 1 to %d bytes without blanks", audience, maxAudience)
	}
	return nil
}

// CheckScope says why a text is no scope (RFC 6749, section 3.3). Those that begin
// with daypass: are what clients name grants by.
func CheckScope(scope string) error {
	if scope == "" || len(scope) > maxScope || strings.ContainsFunc(scope, func(r rune) bool { return r < '!' || r > '~' || r == '"' || r == '\\' }) {
		return fmt.Errorf("scope %.40q: 1 to %d printable ASCII characters, without blanks, quotes and backslashes", scope, maxScope)
	}
	if strings.HasPrefix(scope, "daypass:") {
		return fmt.Errorf("scope %q: those that begin with daypass: name grants", scope)
	}
	return nil
}
