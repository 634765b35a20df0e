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
		c := claim{name: name, values: l.alternatives(name, v)}
		for _, value := range c.values {
			l.claimType(entry, v.Pos, name, value)
		}
		list = append(list, c)
	}
	return list
}

// alternatives reads the value of a claim, or the list of values of which it may have any.
func (l *loader) alternatives(name string, v strictyaml.Value) []any {
	items, isList := v.Raw.([]strictyaml.Value)
	if !isList {
		items = []strictyaml.Value{v}
	}
	if isList && len(items) == 0 && !l.reported(v.Pos) {
		l.add(v.Pos, "write the values of which the claim may have any", "an empty list matches nothing")
	}
	var values []any
	for _, item := range items {
		value, ok := l.claimValue(name, item)
		if !ok {
			continue
		}
		if slices.Contains(values, value) {
			l.add(item.Pos, "", "the value stands in the list twice")
			continue
		}
		values = append(values, value)
	}
	return values
}

func (l *loader) claimValue(name string, v strictyaml.Value) (any, bool) {
	switch raw := v.Raw.(type) {
	case string:
		l.noBraces(v.Pos, raw)
		if strings.Contains(raw, "*") {
			l.add(v.Pos, "list the values: patterns are not enforced by this version", "claim %s: a * in a text stands for nothing but itself", name)
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
	case map[string]strictyaml.Value:
		l.claimMapping(name, v, raw)
	default:
		l.add(v.Pos, "", "claim %s: a text, a whole number, true or false, or a list of these", name)
	}
	return nil, false
}

// claimMapping refuses the forms that a later version will know, by their names.
func (l *loader) claimMapping(name string, v strictyaml.Value, mapping map[string]strictyaml.Value) {
	for _, key := range []string{"glob", "regex", "contains"} {
		if _, found := mapping[key]; found {
			l.add(v.Pos, "list the exact values", "claim %s: {%s: …} is not enforced by this version", name, key)
			return
		}
	}
	_, hasID := mapping["id"]
	_, hasName := mapping["name"]
	if hasID || hasName {
		l.add(v.Pos, "write the id as the claim of that name", "claim %s: pairs of name and id are not enforced by this version", name)
		return
	}
	l.add(v.Pos, "", "claim %s: a mapping can't be matched", name)
}

// claimType refuses a value of a type that the provider never sends, which would
// match nobody: GitHub sends texts only, GitLab too, but for runner_id.
func (l *loader) claimType(entry *jobEntry, at strictyaml.Pos, name string, value any) {
	switch l.cfg.Providers[entry.Provider] {
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
