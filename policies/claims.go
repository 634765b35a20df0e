package policies

import (
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/condition"
	"github.com/daypass/daypass/policies/pattern"
)

// claim is one line of a job entry: the token's claim must be one of the values,
// or a text that fits one of the patterns, or a list that has one of the elements,
// or the name of one of the pairs beside its id.
type claim struct {
	path     string             // in the catalogue's form: name, or name|field|field
	values   []any              // string, int64 or bool
	patterns []*pattern.Pattern // anchored
	elements []any              // string, int64 or bool
	pairs    []pair
	idPath   string // of the pairs' ids
}

// pair is a name with the id of the same thing: both must be the token's.
type pair struct{ name, id string }

// shown is the claim's name for people.
func (c *claim) shown() string { return shownPath(c.path) }

func shownPath(path string) string { return strings.ReplaceAll(path, "|", ".") }

// matches compares by type and value: "true" is not true, "1" is not 1, a scalar
// is never a list. What is absent, or null, matches nothing. A pattern matches
// texts alone, never a number, a truth value or a list.
func (c *claim) matches(claims map[string]any) bool {
	switch v := condition.Canonical(catalogue.Value(claims, c.path)).(type) {
	case string:
		return slices.Contains(c.values, any(v)) || c.fits(v) || c.paired(v, claims)
	case []any:
		return c.holds(v)
	case int64:
		return slices.Contains(c.values, any(v))
	case bool:
		return slices.Contains(c.values, any(v))
	default:
		return false
	}
}

// fits says whether one of the patterns matches the text, all of it.
func (c *claim) fits(text string) bool {
	return slices.ContainsFunc(c.patterns, func(p *pattern.Pattern) bool { return p.Match(text) })
}

// holds says whether the list has one of the elements, by type and value.
func (c *claim) holds(list []any) bool {
	if len(c.elements) == 0 {
		return false
	}
	return slices.ContainsFunc(list, func(item any) bool { return slices.Contains(c.elements, condition.Canonical(item)) })
}

// paired says whether name and id are those of one pair.
func (c *claim) paired(name string, claims map[string]any) bool {
	if len(c.pairs) == 0 {
		return false
	}
	id, ok := catalogue.Value(claims, c.idPath).(string)
	return ok && slices.Contains(c.pairs, pair{name, id})
}

// conflict says whether the token has one half of a pair and not the other.
func (c *claim) conflict(claims map[string]any) (nameFits, found bool) {
	if len(c.pairs) == 0 || c.matches(claims) {
		return false, false
	}
	name, _ := catalogue.Value(claims, c.path).(string)
	id, _ := catalogue.Value(claims, c.idPath).(string)
	for _, p := range c.pairs {
		if name != "" && p.name == name {
			return true, true
		}
		if id != "" && p.id == id {
			return false, true
		}
	}
	return false, false
}

// tenant is one way in which a job entry says whose job it speaks of: by ids that
// are never given to somebody else. They decide who is told why a request was
// refused. A pattern names nobody: who only fits one may be a stranger.
type tenant struct {
	path   string
	values []any
	exact  bool // whoever matches the job entry has one of the values
}

func (t *tenant) matches(claims map[string]any) bool {
	value := condition.Canonical(catalogue.Value(claims, t.path))
	switch value.(type) {
	case string, int64:
		return slices.Contains(t.values, value)
	default:
		return false
	}
}

// tenantsOf finds them in the claims of a job entry, most narrow first.
func tenantsOf(providerType string, claims []claim) []tenant {
	known, ok := catalogue.Lookup(providerType)
	if !ok {
		return nil
	}
	var list []tenant
	for _, path := range known.Tenant {
		for i := range claims {
			c := &claims[i]
			if c.path == path {
				list = append(list, tenant{path, c.values, len(c.patterns)+len(c.elements)+len(c.pairs) == 0})
			}
			if c.idPath == path {
				ids := make([]any, len(c.pairs))
				for n, p := range c.pairs {
					ids[n] = p.id
				}
				list = append(list, tenant{path, ids, len(c.patterns)+len(c.elements)+len(c.values) == 0})
			}
		}
	}
	return list
}

// ours says whether the token's ids are those of the job entry: the entry names
// at least one, and the token has all that it names.
func (j *job) ours(id *Identity) bool {
	if len(j.tenants) == 0 || j.provider != id.Provider {
		return false
	}
	for i := range j.tenants {
		if !j.tenants[i].matches(id.Claims) {
			return false
		}
	}
	return true
}
