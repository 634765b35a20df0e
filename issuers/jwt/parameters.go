package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parameters are a grant's `with`.
//
//	with:
//	  audience: https://sts.amazonaws.com       # or a list
//	  subject: "{{ claims.repository_id }}"     # or a list; added to sub, escaped
//	  claims: {team: payments, ref: "{{ claims.ref }}"}
type Parameters struct {
	// Audience is who the token is for. Required.
	Audience audience `json:"audience"`
	// Subject is added to the token's sub, part by part, each escaped. A part has one
	// template at most.
	Subject parts `json:"subject"`
	// Claims are claims of the grant's own: strings, numbers, booleans, lists of
	// strings, and the session tags of AWS. Those that say who, for whom and how long
	// are refused; those that give rights need a flag on the role.
	Claims map[string]json.RawMessage `json:"claims"`
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
func (a *audience) UnmarshalJSON(text []byte) (err error) {
	*a, err = oneOrMore("audience", text)
	return err
}

// parts are one string or a list of them.
type parts []string

// UnmarshalJSON implements json.Unmarshaler.
func (p *parts) UnmarshalJSON(text []byte) (err error) {
	*p, err = oneOrMore("subject", text)
	if err == nil && len(*p) == 0 {
		return errors.New("subject: an empty list adds nothing: leave it out")
	}
	return err
}

func oneOrMore(what string, text []byte) ([]string, error) {
	var one *string
	if err := json.Unmarshal(text, &one); err == nil {
		if one == nil {
			return nil, fmt.Errorf("%s: null says nothing", what)
		}
		return []string{*one}, nil
	}
	var list []*string
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: a string or a list of strings is needed", what)
	}
	texts := make([]string, 0, len(list))
	for _, s := range list {
		if s == nil {
			return nil, fmt.Errorf("%s: null is no %s", what, what)
		}
		texts = append(texts, *s)
	}
	return texts, nil
}

// MarshalJSON implements json.Marshaler: one audience is written as a string,
// which every verifier reads.
func (a audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
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
		return nil, fmt.Errorf("reading the token's parameters: %w\nhint: audience, subject and claims are what there is", err)
	}
	if len(p.Audience) == 0 || len(p.Audience) > maxAudiences {
		return nil, fmt.Errorf("audience: 1 to %d are needed, not %d: say who the token is for", maxAudiences, len(p.Audience))
	}
	if sorted := slices.Sorted(slices.Values(p.Audience)); len(slices.Compact(sorted)) != len(p.Audience) {
		return nil, errors.New("audience names one twice")
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
				if len(open) == 1 && name != "audience" && name != "subject" && name != "claims" {
					return fmt.Errorf("there is no parameter %q: audience, subject and claims are what there is", name)
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
