package policies

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/strictyaml"
)

// claims reads the claims of a job entry, in the order of their names.
func (l *loader) claims(entry *jobEntry) []claim {
	if len(entry.Claims) == 0 {
		if entry.At.Has("claims") && !l.reported(entry.At.Of("claims")) {
			l.add(entry.At.Of("claims"), "name at least the repository's or organisation's id", "no claims: every job of the provider would match")
		}
		return nil
	}
	var list []claim
	for _, name := range slices.Sorted(maps.Keys(entry.Claims)) {
		v := entry.Claims[name]
		if name == "" || len(name) > 128 || strings.ContainsFunc(name, unprintable) || hasBraces(name) {
			l.add(v.Pos, "", "%q is no name of a claim", name)
			continue
		}
		c := l.alternatives(name, v)
		for _, value := range slices.Concat(c.values, c.elements) {
			l.claimType(entry.Provider, v.Pos, name, value)
		}
		list = append(list, c)
	}
	return list
}

// alternatives reads the value or pattern of a claim, or the list of those of
// which it may have any.
func (l *loader) alternatives(name string, v strictyaml.Value) claim {
	items, isList := v.Raw.([]strictyaml.Value)
	if !isList {
		items = []strictyaml.Value{v}
	}
	if isList && len(items) == 0 && !l.reported(v.Pos) {
		l.add(v.Pos, "write the values of which the claim may have any", "an empty list matches nothing")
	}
	c := claim{name: name}
	for _, item := range items {
		if mapping, isMapping := item.Raw.(map[string]strictyaml.Value); isMapping {
			l.pattern(&c, item, mapping)
			continue
		}
		if value, ok := l.claimValue(name, item); ok {
			c.values = append(c.values, l.once(c.values, value, item)...)
		}
	}
	return c
}

// once is the value, or nothing after a mistake when the list has it already.
func (l *loader) once(list []any, value any, item strictyaml.Value) []any {
	if slices.Contains(list, value) {
		l.add(item.Pos, "", "the value stands in the list twice")
		return nil
	}
	return []any{value}
}

func (l *loader) claimValue(name string, v strictyaml.Value) (any, bool) {
	switch raw := v.Raw.(type) {
	case string:
		l.noBraces(v.Pos, raw)
		if strings.Contains(raw, "*") {
			l.add(v.Pos, "list the values, or write {glob: …}", "claim %s: a * in a text stands for nothing but itself", name)
		}
		if len(raw) > maxText {
			l.add(v.Pos, "", "claim %s: longer than %d bytes", name, maxText)
		}
		return raw, true
	case bool, int64:
		return raw, true
	case float64:
		if raw == math.Trunc(raw) {
			l.add(v.Pos, "write "+strconv.FormatFloat(raw, 'f', 0, 64)+", or quote it", "claim %s: whole numbers are written without a fraction", name)
		} else {
			l.add(v.Pos, "quote it when it is a text", "claim %s: fractions can't be compared exactly", name)
		}
	default:
		l.add(v.Pos, "", "claim %s: a text, a whole number, true or false, or a list of these", name)
	}
	return nil, false
}

// claimType refuses a value of a type that the provider never sends, which would
// match nobody: GitHub sends texts only, GitLab too, but for runner_id.
func (l *loader) claimType(provider string, at strictyaml.Pos, name string, value any) {
	switch l.cfg.Providers[provider] {
	case "github":
	case "gitlab":
		if name == "runner_id" {
			return
		}
	default:
		return
	}
	switch v := value.(type) {
	case int64:
		l.add(at, `quote it: "`+strconv.FormatInt(v, 10)+`"`, "claim %s: this provider sends it as a text, never as a number", name)
	case bool:
		l.add(at, `quote it: "`+strconv.FormatBool(v)+`"`, "claim %s: this provider sends it as a text, never as a truth value", name)
	}
}
