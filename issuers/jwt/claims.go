package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// claim is a value as it will stand in the token, checked and compact.
type claim json.RawMessage

// MarshalJSON implements json.Marshaler.
func (c claim) MarshalJSON() ([]byte, error) { return c, nil }

// claimRules is what a role says of its grants' claims.
type claimRules struct {
	sessionTags bool
	profile     profile
	templates   bool // not filled yet: what holds one can't be judged
}

// parse checks the claims of a grant.
func (r claimRules) parse(raw map[string]json.RawMessage) (map[string]claim, error) {
	if len(raw) > maxClaims {
		return nil, fmt.Errorf("claims: %d are too many, %d is the limit", len(raw), maxClaims)
	}
	claims := make(map[string]claim, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if err := r.checkName(name); err != nil {
			return nil, err
		}
		value, err := r.value(name, raw[name])
		if err != nil {
			return nil, fmt.Errorf("claim %q: %w", name, err)
		}
		if err := r.profile.checkClaim(name, value); err != nil {
			return nil, err
		}
		compact, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("claim %q: malformed value", name)
		}
		claims[name] = compact
	}
	return claims, nil
}

func (r claimRules) checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		// ASCII alone: readers that fold case take "ſub" for "sub", as Go's does.
		return fmt.Errorf("claim %q: a name has 1 to %d ASCII characters and no blanks", name, maxName)
	case protected(name):
		return fmt.Errorf("claim %q is the broker's: a policy may not set it", name)
	case givesRights(name) && !r.sessionTags:
		return fmt.Errorf("claim %q: verifiers read rights in it, and the role doesn't allow that\nhint: set session_tags: true on the role in the server's configuration, if its policies may choose them", name)
	case strings.HasPrefix(strings.ToLower(name), awsClaims) && name != awsTags && name != awsSourceIdentity:
		return fmt.Errorf("claim %q: AWS reads it another way than it is checked here\nhint: write %s: {principal_tags: {…}, transitive_tag_keys: […]}, or %s", name, awsTags, awsSourceIdentity)
	}
	return nil
}

// protected reports whether a claim is the broker's alone: who, for whom, from
// when to when, on whose behalf, bound to what, with which rights, how somebody
// logged in (nobody did), and where more claims are to be fetched from (OpenID
// Connect Core, section 5.6.2: the Kubernetes API server follows it).
func protected(name string) bool {
	switch strings.ToLower(name) { // some readers fold case
	case "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "act", "may_act", "cnf", "scope", "scp",
		"acr", "amr", "auth_time", "_claim_names", "_claim_sources":
		return true
	}
	return false
}

// givesRights reports whether verifiers give rights for a claim because it is
// there: session tags and the source identity of AWS, Google's own names, the
// authorization claims of RFC 9068, section 2.2.3.1, and what Kubernetes says of
// its service accounts.
func givesRights(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case "groups", "roles", "entitlements", "kubernetes.io":
		return true
	}
	for _, prefix := range []string{awsClaims, "http://aws.amazon.com/", "google.", "kubernetes.io/", "cognito:"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// value reads a claim's value.
func (r claimRules) value(name string, raw json.RawMessage) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, errors.New("malformed value")
	}
	switch name {
	case awsTags:
		return v, r.checkTags(v)
	case awsSourceIdentity:
		return v, r.checkSourceIdentity(v)
	}
	switch v := v.(type) {
	case string, bool:
	case json.Number:
		// What a double can't hold exactly reads differently elsewhere.
		if !exact(v) {
			return nil, fmt.Errorf("number %s: readers would round it; write it as a string", v)
		}
	case []any:
		if len(v) > maxList {
			return nil, fmt.Errorf("a list has at most %d items", maxList)
		}
		for _, item := range v {
			if _, ok := item.(string); !ok {
				return nil, errors.New("a list holds strings only")
			}
		}
	default:
		return nil, errors.New("a string, number, boolean or list of strings is needed")
	}
	return v, nil
}

func exact(n json.Number) bool {
	if len(n) > 32 {
		return false
	}
	f, err := n.Float64()
	if err != nil {
		return false
	}
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		return false
	}
	return !r.IsInt() || new(big.Rat).SetFloat64(f).Cmp(r) == 0
}
