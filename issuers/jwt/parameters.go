package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parameters are a grant's `with`.
//
//	with:
//	  audience: https://sts.amazonaws.com       # or a list
//	  claims: {team: payments, ref: "{{ claims.ref }}"}
type Parameters struct {
	// Audience is who the token is for. Required.
	Audience audience `json:"audience"`
	// Claims are claims of the grant's own: strings, numbers, booleans, lists of
	// strings. Those that say who, for whom and how long are refused.
	Claims map[string]claim `json:"claims"`
}

// Bounds on parameters: a policy is written by people, so what is larger is a mistake.
const (
	maxAudiences  = 10
	maxClaims     = 50
	maxName       = 128
	maxList       = 100
	maxParameters = 64 << 10
)

// audience is one string or a list of them (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if err := json.Unmarshal(text, &one); err == nil {
		*a = audience{one}
		return nil
	}
	var list []*string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("audience: a string or a list of strings is needed")
	}
	*a = make(audience, 0, len(list))
	for _, s := range list {
		if s == nil {
			return errors.New("audience: null is no audience")
		}
		*a = append(*a, *s)
	}
	return nil
}

// MarshalJSON implements json.Marshaler: one audience is written as a string,
// which every verifier reads.
func (a audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// claim is a value as it will stand in the token, checked and compact.
type claim json.RawMessage

// MarshalJSON implements json.Marshaler.
func (c claim) MarshalJSON() ([]byte, error) { return c, nil }

// UnmarshalJSON implements json.Unmarshaler.
func (c *claim) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return errors.New("malformed value")
	}
	switch v := v.(type) {
	case string, bool:
	case json.Number:
		// What a double can't hold exactly reads differently elsewhere.
		if !exact(v) {
			return fmt.Errorf("number %s: readers would round it; write it as a string", v)
		}
	case []any:
		if len(v) > maxList {
			return fmt.Errorf("a list has at most %d items", maxList)
		}
		for _, item := range v {
			if _, ok := item.(string); !ok {
				return errors.New("a list holds strings only")
			}
		}
	default:
		return errors.New("a string, number, boolean or list of strings is needed")
	}
	compact, err := json.Marshal(v)
	if err != nil {
		return errors.New("malformed value")
	}
	*c = compact
	return nil
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

// protected reports whether a claim is the broker's alone: who, for whom, from
// when to when, on whose behalf, bound to what, with which rights.
func protected(name string) bool {
	switch strings.ToLower(name) { // some readers fold case
	case "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "act", "may_act", "cnf", "scope", "scp":
		return true
	}
	return false
}

func parseParameters(raw json.RawMessage) (*Parameters, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, errors.New("audience is missing: say who the token is for")
	}
	if len(raw) > maxParameters {
		return nil, fmt.Errorf("the parameters have %d bytes, and %d is the limit", len(raw), maxParameters)
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("the parameters are not UTF-8")
	}
	if err := checkKeys(raw); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	p := &Parameters{}
	if err := decoder.Decode(p); err != nil {
		return nil, fmt.Errorf("reading the token's parameters: %w\nhint: audience and claims are what there is", err)
	}
	if len(p.Audience) == 0 || len(p.Audience) > maxAudiences {
		return nil, fmt.Errorf("audience: 1 to %d are needed, not %d: say who the token is for", maxAudiences, len(p.Audience))
	}
	if sorted := slices.Sorted(slices.Values(p.Audience)); len(slices.Compact(sorted)) != len(p.Audience) {
		return nil, errors.New("audience names one twice")
	}
	if len(p.Claims) > maxClaims {
		return nil, fmt.Errorf("claims: %d are too many, %d is the limit", len(p.Claims), maxClaims)
	}
	for name, value := range p.Claims {
		switch {
		case name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return nil, fmt.Errorf("claim %q: a name has 1 to %d bytes and no blanks", name, maxName)
		case protected(name):
			return nil, fmt.Errorf("claim %q is the broker's: a policy may not set it", name)
		case value == nil: // encoding/json doesn't ask UnmarshalJSON about null in all cases
			return nil, fmt.Errorf("claim %q: null says nothing", name)
		}
	}
	return p, nil
}

// checkKeys refuses what Go's decoder would let pass: a name that stands twice,
// another case of a known one, and anything after the object.
func checkKeys(raw json.RawMessage) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	type level struct {
		object bool
		key    bool // the next token is a name
		seen   map[string]bool
	}
	var open []level
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the token's parameters: %w", err)
		}
		if len(open) > 0 && open[len(open)-1].key {
			if name, ok := token.(string); ok {
				top := &open[len(open)-1]
				if top.seen[name] {
					return fmt.Errorf("%q stands twice in the token's parameters", name)
				}
				if len(open) == 1 && name != "audience" && name != "claims" {
					return fmt.Errorf("there is no parameter %q: audience and claims are what there is", name)
				}
				top.seen[name], top.key = true, false
				continue
			}
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{object: true, key: true, seen: map[string]bool{}})
			continue
		case json.Delim('['):
			open = append(open, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			if token != json.Delim('}') || decoder.More() {
				return errors.New("the token's parameters are not one object")
			}
			continue
		}
		open[len(open)-1].key = open[len(open)-1].object
	}
}

// hasTemplate says that a value is filled for each exchange, and can't be
// compared before.
func hasTemplate(s string) bool { return strings.Contains(s, "{{") }

func (i *Issuer) checkAudience(role Role, audience string) error {
	if err := checkAudience(audience, i.config.Issuer); err != nil {
		return err
	}
	if len(role.Audiences) > 0 && !slices.Contains(role.Audiences, audience) {
		return fmt.Errorf("audience %q is not among those that the role allows in the server's configuration", audience)
	}
	return nil
}
