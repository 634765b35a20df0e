package policies

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

const patternHint = "write {glob: refs/tags/v*}, {regex: '…'} or {contains: …}"

// claims reads the claims of a job entry, in the order of their names.
func (l *loader) claims(entry *document.Job) []claim {
	if len(entry.Claims) == 0 {
		if entry.At.Has("claims") && !l.reported(entry.At.Of("claims")) {
			l.add(entry.At.Of("claims"), "name at least the repository's or organisation's id", "no claims: every job of the provider would match")
		}
		return nil
	}
	known, _ := catalogue.Lookup(l.cfg.providerType(entry.Provider))
	r := &claimReader{loader: l, provider: known}
	r.read("", entry.Claims)
	return r.list
}

// claimReader reads the claims of one job entry.
type claimReader struct {
	*loader

	provider *catalogue.Provider // nil: not known
	list     []claim
}

// read reads claims, or the fields of one that is an object.
func (r *claimReader) read(above string, claims map[string]strictyaml.Value) {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		v := claims[name]
		if name == "" || len(name) > 128 || strings.ContainsFunc(name, unprintable) || hasBraces(name) || strings.Contains(name, "|") {
			r.add(v.Pos, "", "%q is no name of a claim", name)
			continue
		}
		path := above + name
		if fields, isMapping := v.Raw.(map[string]strictyaml.Value); isMapping && document.IsObject(r.provider, path, fields) {
			r.read(path+"|", fields)
			continue
		}
		r.list = append(r.list, r.alternatives(path, v))
	}
}

// alternatives reads the value or pattern of a claim, or the list of those of
// which it may have any.
func (r *claimReader) alternatives(path string, v strictyaml.Value) claim {
	items, isList := v.Raw.([]strictyaml.Value)
	if !isList {
		items = []strictyaml.Value{v}
	}
	if isList && len(items) == 0 && !r.reported(v.Pos) {
		r.add(v.Pos, "write the values of which the claim may have any", "an empty list matches nothing")
	}
	c := claim{path: path}
	for _, item := range items {
		if mapping, isMapping := item.Raw.(map[string]strictyaml.Value); isMapping {
			r.mapping(&c, item, mapping)
			continue
		}
		if value, ok := r.claimValue(&c, item); ok {
			c.values = append(c.values, once(r, c.values, value, item)...)
		}
	}
	return c
}

// once is the value, or nothing after a mistake when the list has it already.
func once[T comparable](r *claimReader, list []T, value T, item strictyaml.Value) []T {
	if slices.Contains(list, value) {
		r.add(item.Pos, "", "the value stands in the list twice")
		return nil
	}
	return []T{value}
}

func (r *claimReader) claimValue(c *claim, v strictyaml.Value) (any, bool) {
	switch raw := v.Raw.(type) {
	case string:
		r.noBraces(v.Pos, raw)
		if strings.Contains(raw, "*") {
			r.add(v.Pos, "list the values, or write {glob: …}", "claim %s: a * in a text stands for nothing but itself", c.shown())
		}
		if len(raw) > maxText {
			r.add(v.Pos, "", "claim %s: longer than %d bytes", c.shown(), maxText)
		}
		return raw, true
	case bool, int64:
		return raw, true
	case float64:
		if raw == math.Trunc(raw) {
			r.add(v.Pos, "write "+strconv.FormatFloat(raw, 'f', 0, 64)+", or quote it", "claim %s: whole numbers are written without a fraction", c.shown())
		} else {
			r.add(v.Pos, "quote it when it is a text", "claim %s: fractions can't be compared exactly", c.shown())
		}
	default:
		r.add(v.Pos, "", "claim %s: a text, a whole number, true or false, or a list of these", c.shown())
	}
	return nil, false
}

// mapping reads {glob: …}, {regex: …}, {contains: …} or {name: …, id: …} into the claim.
func (r *claimReader) mapping(c *claim, v strictyaml.Value, mapping map[string]strictyaml.Value) {
	for _, key := range []string{"glob", "regex", "contains"} {
		operand, found := mapping[key]
		if !found {
			continue
		}
		switch {
		case len(mapping) > 1:
			r.add(v.Pos, "write a list: each of its items is one of the ways to match", "claim %s: %s stands alone in its mapping", c.shown(), key)
		case key == "contains":
			r.element(c, operand)
		default:
			r.expression(c, pattern.Kind(key), operand)
		}
		return
	}
	_, hasID := mapping["id"]
	_, hasName := mapping["name"]
	if hasID || hasName {
		r.pair(c, v, mapping)
		return
	}
	if !r.reportedInLine(v.Pos) {
		r.add(v.Pos, patternHint, "claim %s: a mapping can't be matched", c.shown())
	}
}

// pair reads {name: …, id: …}. Which claim holds the id, the catalogue knows.
func (r *claimReader) pair(c *claim, v strictyaml.Value, mapping map[string]strictyaml.Value) {
	name, okName := mapping["name"].Raw.(string)
	id, okID := mapping["id"].Raw.(string)
	if len(mapping) != 2 || !okName || !okID || name == "" || id == "" || len(name) > maxText || len(id) > maxText {
		r.add(v.Pos, `write {name: acme/payments, id: "123"}`, "claim %s: a pair has a name and an id, both texts, and nothing else", c.shown())
		return
	}
	r.noBraces(mapping["name"].Pos, name)
	r.noBraces(mapping["id"].Pos, id)
	var known *catalogue.Claim
	if r.provider != nil {
		known, _ = r.provider.Claim(c.path)
	}
	if known == nil || known.ID == "" {
		r.add(v.Pos, "write the id as the claim of that name", "claim %s: which claim holds its id is not known for this provider", c.shown())
		return
	}
	c.idPath = known.ID
	c.pairs = append(c.pairs, once(r, c.pairs, pair{name, id}, v)...)
}

// element reads what a list must have.
func (r *claimReader) element(c *claim, operand strictyaml.Value) {
	switch operand.Raw.(type) {
	case map[string]strictyaml.Value, []strictyaml.Value:
		r.add(operand.Pos, "write [{contains: a}, {contains: b}] for any of several", "claim %s: contains takes one value", c.shown())
		return
	}
	if value, ok := r.claimValue(c, operand); ok {
		c.elements = append(c.elements, once(r, c.elements, value, operand)...)
	}
}

// expression reads a glob or a regular expression.
func (r *claimReader) expression(c *claim, kind pattern.Kind, operand strictyaml.Value) {
	text, ok := operand.Raw.(string)
	if !ok {
		r.add(operand.Pos, "quote it", "claim %s: %s takes a text", c.shown(), kind)
		return
	}
	r.noBraces(operand.Pos, text)
	compiled, err := r.patterns.Compile(kind, text)
	if err != nil {
		r.add(operand.Pos, "", "claim %s: %v", c.shown(), err)
		return
	}
	c.patterns = append(c.patterns, once(r, c.patterns, compiled, operand)...)
}
