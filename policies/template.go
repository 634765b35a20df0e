package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/daypass/daypass/policies/condition"
)

// maxFilled is how long a text may be once its templates are filled, in bytes.
const maxFilled = 512

var templateForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{\{ *claims\.([A-Za-z_][A-Za-z0-9_]*) *\}\}`)
})

// template is a text with claims in it: literal, claim, literal, claim, … literal.
type template struct {
	literals []string // one more than claims
	claims   []string
}

// hasBraces says whether a text looks like a template.
func hasBraces(text string) bool {
	return strings.Contains(text, "{{") || strings.Contains(text, "}}")
}

// parseTemplate reads a text of a grant's `with`. It returns nil for a text
// without templates. The only form is {{ claims.NAME }}.
func parseTemplate(text string) (*template, error) {
	if !hasBraces(text) {
		return nil, nil
	}
	t := &template{}
	last := 0
	for _, m := range templateForm().FindAllStringSubmatchIndex(text, -1) {
		t.literals = append(t.literals, text[last:m[0]])
		t.claims = append(t.claims, text[m[2]:m[3]])
		last = m[1]
	}
	t.literals = append(t.literals, text[last:])
	for i, literal := range t.literals {
		touches := i > 0 && strings.HasPrefix(literal, "}") || i < len(t.claims) && strings.HasSuffix(literal, "{")
		if hasBraces(literal) || touches {
			return nil, errors.New("the only template is {{ claims.NAME }}")
		}
	}
	return t, nil
}

// fill puts the claims in. It refuses claims that are absent, empty, no scalars,
// or hold characters that nobody sees, and results over maxFilled bytes. The
// result still has to be escaped for where it goes: here that is JSON, and the
// issuer does it for its own target.
func (t *template) fill(claims map[string]any) (string, error) {
	var b strings.Builder
	b.WriteString(t.literals[0])
	for i, name := range t.claims {
		text, err := templateText(claims[name])
		if err != nil {
			return "", fmt.Errorf("template with claim %s: %w", name, err)
		}
		b.WriteString(text)
		b.WriteString(t.literals[i+1])
		if b.Len() > maxFilled {
			return "", fmt.Errorf("template with claim %s: longer than %d bytes once filled", name, maxFilled)
		}
	}
	return b.String(), nil
}

func templateText(value any) (string, error) {
	var text string
	switch v := condition.Canonical(value).(type) {
	case nil:
		return "", errors.New("the token has no such claim")
	case string:
		text = v
	case bool:
		text = strconv.FormatBool(v)
	case int64:
		text = strconv.FormatInt(v, 10)
	default:
		return "", errors.New("the claim is no text, whole number or truth value")
	}
	if text == "" {
		return "", errors.New("the claim is empty")
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable) {
		return "", errors.New("the claim holds control characters")
	}
	return text, nil
}

func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// parameters are a grant's `with`: ready as JSON, or a tree whose strings hold templates.
type parameters struct {
	fixed json.RawMessage // as written, templates unfilled; nil when there is no `with`
	tree  any             // the same with *template in place of texts; nil when there is no template in it
}

// fill returns the parameters for one token.
func (p parameters) fill(claims map[string]any) (json.RawMessage, error) {
	if p.tree == nil {
		return p.fixed, nil
	}
	filled, err := fillTree(p.tree, claims)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(filled)
	if err != nil {
		return nil, fmt.Errorf("writing parameters: %w", err)
	}
	return raw, nil
}

func fillTree(node any, claims map[string]any) (any, error) {
	switch n := node.(type) {
	case *template:
		return n.fill(claims)
	case []any:
		list := make([]any, len(n))
		for i, item := range n {
			filled, err := fillTree(item, claims)
			if err != nil {
				return nil, err
			}
			list[i] = filled
		}
		return list, nil
	case map[string]any:
		mapping := make(map[string]any, len(n))
		for key, item := range n {
			filled, err := fillTree(item, claims)
			if err != nil {
				return nil, err
			}
			mapping[key] = filled
		}
		return mapping, nil
	default:
		return n, nil
	}
}

// unfit names the claims that stand in the way of filling the templates.
func (p parameters) unfit(claims map[string]any) []string {
	var names []string
	eachTemplate(p.tree, func(t *template) {
		if _, err := t.fill(claims); err == nil {
			return
		}
		for _, name := range t.claims {
			if _, err := templateText(claims[name]); err != nil || len(t.claims) == 1 {
				names = append(names, name)
			}
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

func eachTemplate(node any, visit func(*template)) {
	switch n := node.(type) {
	case *template:
		visit(n)
	case []any:
		for _, item := range n {
			eachTemplate(item, visit)
		}
	case map[string]any:
		for _, item := range n {
			eachTemplate(item, visit)
		}
	}
}
