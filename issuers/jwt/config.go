package jwt

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Config describes what tokens look like.
type Config struct {
	// Issuer is the broker's external URL: the `iss` of every token. Required.
	Issuer string
	// Signer returns the key to sign with. It is called once for each token, so
	// that a rotation takes effect with the next token and never within one.
	// Required; where the key is fixed, return it.
	Signer func() issuers.Signer
	// Roles is what grants may name. Empty: grants name none, and any audience
	// but the broker's own is theirs to choose.
	Roles map[string]Role
	// DefaultTTL is for grants that say none. Zero: 5 minutes, since a signed
	// token can't be called back.
	DefaultTTL time.Duration
}

// Role is one kind of token.
type Role struct {
	// Audiences lists what a grant's `audience` may be, each compared exactly.
	// Empty: any but the broker's own external URL.
	Audiences []string
	// Profile is one of Profiles: what the verifier demands. Empty: ProfileAccessToken.
	Profile string
	// SessionTags allows claims that verifiers read rights in: AWS session tags and
	// source identity, google.…, groups, roles, entitlements. Whoever writes a policy
	// that may use the role chooses them.
	SessionTags bool
	// Env maps a value's name to an environment variable. Nil: token → DAYPASS_JWT.
	Env map[string]string
	// DefaultTTL is for this role's grants that say none. Zero: Config's.
	DefaultTTL time.Duration

	profile profile
}

const defaultTTL = 5 * time.Minute

func (c Config) withDefaults() (Config, error) {
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return c, fmt.Errorf("issuer %q: the broker's external URL is needed, without query, fragment or user", c.Issuer)
	}
	if c.Signer == nil {
		return c, errors.New("no signing key: a JWT has to be signed")
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	roles := c.Roles
	if len(roles) == 0 {
		roles = map[string]Role{"": {}}
	}
	c.Roles = make(map[string]Role, len(roles))
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		role, err := roles[name].withDefaults(c)
		if err != nil {
			return c, fmt.Errorf("role %q: %w", name, err)
		}
		c.Roles[name] = role
	}
	return c, nil
}

func (r Role) withDefaults(c Config) (Role, error) {
	var err error
	if r.profile, err = profileOf(r.Profile); err != nil {
		return r, err
	}
	if err := r.profile.checkIssuer(c.Issuer); err != nil {
		return r, err
	}
	if r.DefaultTTL <= 0 {
		r.DefaultTTL = c.DefaultTTL
	}
	if err := r.profile.checkLife(r.DefaultTTL); err != nil {
		return r, err
	}
	for _, audience := range r.Audiences {
		if err := checkAudience(audience, c.Issuer); err != nil {
			return r, err
		}
		if err := r.profile.checkAudience([]string{audience}); err != nil {
			return r, err
		}
	}
	if r.Env == nil {
		r.Env = map[string]string{valueToken: "DAYPASS_JWT"}
	}
	for value, name := range r.Env {
		if value != valueToken {
			return r, fmt.Errorf("env: there is no value %q: the only one is %q", value, valueToken)
		}
		if err := issuers.CheckEnvName(name); err != nil {
			return r, fmt.Errorf("env of %q: %w", value, err)
		}
	}
	return r, nil
}

// checkAudience refuses what no token may be meant for. The broker itself must
// never be one: its tokens would come back as job tokens.
func checkAudience(audience, issuer string) error {
	if audience == "" || len(audience) > 1024 || strings.ContainsFunc(audience, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("audience %q: 1 to 1024 bytes without blanks", audience)
	}
	if strings.EqualFold(strings.TrimRight(audience, "/"), strings.TrimRight(issuer, "/")) {
		return fmt.Errorf("audience %q is this broker's own external URL: a token for it could come back as a job token", audience)
	}
	return nil
}
