package compare

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

// way is one of the ways in which a claim can match.
type way struct {
	kind  string // value, glob, regex, contains, pair
	value any    // string, int64 or bool; of a pattern its text; of a pair its name
	shown string
	match *pattern.Pattern // of a pattern that compiles
}

// line is what a job entry says of one claim: any of these.
type line struct {
	at   strictyaml.Pos
	ways []way
}

func (l line) String() string {
	list := make([]string, len(l.ways))
	for i, w := range l.ways {
		list[i] = w.shown
	}
	if len(list) == 1 {
		return list[0]
	}
	return "any of " + strings.Join(list, ", ")
}

// lines reads the claims of a job entry, fields of objects under name|field. The
// type of the provider is taken from its name, where that is one: nil otherwise.
func lines(p *catalogue.Provider, above string, claims map[string]strictyaml.Value) map[string]line {
	found := make(map[string]line, len(claims))
	for name, v := range claims {
		fields, isMapping := v.Raw.(map[string]strictyaml.Value)
		if isMapping && document.IsObject(p, above+name, fields) {
			maps.Copy(found, lines(p, above+name+"|", fields))
			continue
		}
		items, isList := v.Raw.([]strictyaml.Value)
		if !isList {
			items = []strictyaml.Value{v}
		}
		l := line{at: v.Pos}
		for _, item := range items {
			l.ways = append(l.ways, wayOf(item))
		}
		found[above+name] = l
	}
	return found
}

func wayOf(v strictyaml.Value) way {
	mapping, isMapping := v.Raw.(map[string]strictyaml.Value)
	if !isMapping {
		return way{kind: "value", value: v.Raw, shown: shown(v.Plain())}
	}
	for _, kind := range []pattern.Kind{pattern.Glob, pattern.Regex} {
		text, ok := mapping[string(kind)].Raw.(string)
		if !ok {
			continue
		}
		var compiler pattern.Compiler
		w := way{kind: string(kind), value: text, shown: "{" + string(kind) + ": " + text + "}"}
		w.match, _ = compiler.Compile(kind, text) // one that doesn't compile is compared by its text
		return w
	}
	if element, ok := mapping["contains"]; ok {
		return way{kind: "contains", value: element.Plain(), shown: "{contains: " + shown(element.Plain()) + "}"}
	}
	name, _ := mapping["name"].Raw.(string)
	id, _ := mapping["id"].Raw.(string)
	return way{kind: "pair", value: name, shown: "{name: " + strconv.Quote(name) + ", id: " + strconv.Quote(id) + "}"}
}

// verdict is whether something is so.
type verdict int

const (
	no verdict = iota
	yes
	unknown
)

// covers says whether all that matches w matches one of the others for certain.
func covers(others []way, w *way) bool {
	return slices.ContainsFunc(others, func(o way) bool { return o.covers(w) })
}

// same compares by type and value, as JSON shows both.
func (w *way) same(other way) bool { return w.kind == other.kind && w.shown == other.shown }

func (w *way) covers(other *way) bool {
	if w.same(*other) {
		return true
	}
	text, isText := other.value.(string)
	if !isText {
		return false
	}
	switch {
	case w.kind == "value" && other.kind == "pair":
		value, ok := w.value.(string)
		return ok && value == text
	case w.match != nil && (other.kind == "value" || other.kind == "pair"):
		return w.match.Match(text)
	case w.kind == "glob" && other.kind == "glob":
		return globCovers(w.value.(string), text)
	}
	return false
}

// The characters that stand for any characters but /, and for any.
const (
	some     = "\x02"
	anything = "\x01"
)

// globCovers says whether every text that fits the narrow glob fits the wide one.
// The narrow one's wildcards become characters that only a wildcard of the wide
// one can match, and only ** that for **. It may say no where it is so.
func globCovers(wide, narrow string) bool {
	text := strings.NewReplacer("**", anything, "*", some).Replace(narrow)
	var b strings.Builder
	b.WriteString(`^(?s:`)
	for rest := wide; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/` + anything + `]*`)
			rest = rest[1:]
		default:
			literal, _, _ := strings.Cut(rest, "*")
			b.WriteString(regexp.QuoteMeta(literal))
			rest = rest[len(literal):]
		}
	}
	b.WriteString(`)$`)
	whole, err := regexp.Compile(b.String())
	return err == nil && whole.MatchString(text)
}

// left says whether something that matches w matches none of the others.
func left(w *way, others []way) verdict {
	if covers(others, w) {
		return no
	}
	switch w.kind {
	case "value", "contains", "pair": // one thing alone: what doesn't match it all doesn't match it
		return yes
	case "glob":
		if slices.ContainsFunc(witnesses(w), func(text string) bool { return !fits(others, text) }) {
			return yes
		}
	}
	return unknown
}

// witnesses are a few texts that fit a glob.
func witnesses(w *way) []string {
	var list []string
	for _, filled := range [][2]string{{"x", "x/y"}, {"0", "0"}, {"", ""}, {"a-b_c.d", "a/b/c"}} {
		text := strings.NewReplacer("**", filled[1], "*", filled[0]).Replace(w.value.(string))
		if w.match != nil && w.match.Match(text) {
			list = append(list, text)
		}
	}
	return list
}

// fits says whether a text may match one of the ways: for certain not, or maybe.
func fits(ways []way, text string) bool {
	return slices.ContainsFunc(ways, func(w way) bool {
		switch w.kind {
		case "value", "pair":
			value, ok := w.value.(string)
			return ok && value == text
		case "contains":
			return false
		default:
			return w.match == nil || w.match.Match(text)
		}
	})
}

// claim compares the ways in which a claim may match.
func (c *changes) claim(lead string, before, after line) {
	for i := range after.ways {
		w := &after.ways[i]
		if slices.ContainsFunc(before.ways, w.same) {
			continue
		}
		switch left(w, before.ways) {
		case yes:
			c.add(Widens, after.at, "%smay be %s too", lead, w.shown)
		case no:
			c.add(Same, after.at, "%smay be %s, which it might before", lead, w.shown)
		default:
			c.add(Changed, after.at, "%smay be %s, which can't be ordered beside %s", lead, w.shown, before)
		}
	}
	for i := range before.ways {
		w := &before.ways[i]
		if slices.ContainsFunc(after.ways, w.same) {
			continue
		}
		switch left(w, after.ways) {
		case yes:
			c.add(Narrows, after.at, "%smay not be %s any more", lead, w.shown)
		case no:
			c.add(Same, after.at, "%smay be %s still, by %s", lead, w.shown, after)
		default:
			c.add(Changed, after.at, "%sis not written %s any more, which can't be ordered beside %s", lead, w.shown, after)
		}
	}
}
