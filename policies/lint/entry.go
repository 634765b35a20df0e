package lint

import (
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

// entry is one job entry, of `jobs` or of an exception, prepared.
type entry struct {
	*policy

	job       *document.Job
	exception *document.Exception // nil for an entry of `jobs`
	config    Provider            // its Type may be ""
	known     *catalogue.Provider // nil: of no type of the catalogue
	own       []line              // in the order of their paths
	spoken    []string            // claims that the condition speaks of
}

// line is what a job entry says of one claim.
type line struct {
	path  string // in the catalogue's form
	at    strictyaml.Pos
	known *catalogue.Claim // nil: none of the catalogue
	items []item           // any of them will do
}

// form is how an item is written.
type form int

const (
	exact    form = iota // a value
	glob                 // {glob: …}
	regex                // {regex: …}
	contains             // {contains: …}
)

// item is one of the alternatives of a line.
type item struct {
	at   strictyaml.Pos
	form form
	raw  any  // the value or pattern: string, int64, bool, float64; nil for what can't be one
	pair bool // the name of a pair, whose id stands in another line
}

// text is the item's text; "" where it is none.
func (i *item) text() string {
	text, _ := i.raw.(string)
	return text
}

// entry prepares a job entry.
func (p *policy) entry(job *document.Job, exception *document.Exception) {
	if job.At.Line == 0 {
		return // not read
	}
	e := &entry{policy: p, job: job, exception: exception, config: p.configured(job.Provider)}
	e.known, _ = catalogue.Lookup(e.config.Type)
	first := len(p.lines)
	e.read("", job.Claims)
	e.own = p.lines[first:len(p.lines):len(p.lines)]
	slices.SortFunc(e.own, func(a, b line) int { return strings.Compare(a.path, b.path) })
	if job.Condition != "" && p.ctx.Conditions != nil {
		e.spoken = p.ctx.Conditions(job.Condition)
	}
	p.entries = append(p.entries, e)
}

// read reads claims, or the fields of one that is an object.
func (e *entry) read(above string, claims map[string]strictyaml.Value) {
	for name, v := range claims {
		path := above + name
		if fields, isMapping := v.Raw.(map[string]strictyaml.Value); isMapping && document.IsObject(e.known, path, fields) {
			e.read(path+"|", fields)
			continue
		}
		e.line(path, v)
	}
}

// line reads what may stand for one claim. Where all of it are pairs, the claim of
// their ids has a line too.
func (e *entry) line(path string, v strictyaml.Value) {
	l := line{path: path, at: v.Pos}
	if e.known != nil {
		l.known, _ = e.known.Claim(path)
	}
	items := []strictyaml.Value{v}
	if list, isList := v.Raw.([]strictyaml.Value); isList {
		items = list
	}
	var ids []item
	first := len(e.items)
	for _, i := range items {
		read, id := readItem(i)
		e.items = append(e.items, read)
		if id.raw != nil {
			ids = append(ids, id)
		}
	}
	l.items = e.items[first:len(e.items):len(e.items)]
	e.lines = append(e.lines, l)
	if len(ids) > 0 && len(ids) == len(items) && l.known != nil && l.known.ID != "" {
		of, _ := e.known.Claim(l.known.ID)
		e.lines = append(e.lines, line{path: l.known.ID, at: v.Pos, known: of, items: ids})
	}
}

// readItem reads one alternative; of a pair, the name and the id.
func readItem(v strictyaml.Value) (read, id item) {
	switch raw := v.Raw.(type) {
	case string, int64, bool, float64:
		return item{at: v.Pos, raw: raw}, item{}
	case map[string]strictyaml.Value:
		for n, key := range []string{"glob", "regex", "contains"} {
			if operand, found := raw[key]; found {
				return item{at: operand.Pos, form: glob + form(n), raw: scalar(operand.Raw)}, item{}
			}
		}
		name, isName := raw["name"].Raw.(string)
		if number, isID := raw["id"].Raw.(string); isName && isID {
			return item{at: raw["name"].Pos, raw: name, pair: true}, item{at: raw["id"].Pos, raw: number}
		}
	}
	return item{at: v.Pos}, item{}
}

// scalar is the value where it is one that can be matched, else nil.
func scalar(raw any) any {
	switch raw.(type) {
	case string, int64, bool, float64:
		return raw
	default:
		return nil
	}
}

// says is what the entry's `claims` say of a claim; nil: nothing.
func (e *entry) says(path string) *line {
	for i := range e.own {
		if e.own[i].path == path {
			return &e.own[i]
		}
	}
	return nil
}

// speaks says whether the condition speaks of a claim.
func (e *entry) speaks(path string) bool {
	if len(e.spoken) == 0 {
		return false
	}
	name, _, _ := strings.Cut(path, "|")
	return slices.Contains(e.spoken, name)
}

// pinned says whether the entry says anything of one of the claims.
func (e *entry) pinned(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return e.says(path) != nil || e.speaks(path) })
}

// fixed says whether one of the claims can have listed values alone.
func (e *entry) fixed(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool {
		l := e.says(path)
		return l != nil && !e.open(l) || e.speaks(path)
	})
}

// only says whether a claim can have no other values than these.
func (e *entry) only(path string, values ...any) bool {
	l := e.says(path)
	if l == nil {
		return e.speaks(path)
	}
	return !slices.ContainsFunc(l.items, func(i item) bool { return i.form != exact || !slices.Contains(values, i.raw) })
}

// takes is the first alternative of a claim that a value fits; nil: none does.
func (e *entry) takes(path, value string) *item {
	l := e.says(path)
	if l == nil {
		return nil
	}
	for n := range l.items {
		if e.fits(&l.items[n], value) {
			return &l.items[n]
		}
	}
	return nil
}

func (e *entry) fits(i *item, value string) bool {
	switch i.form {
	case glob:
		return e.match(pattern.Glob, i.text(), value)
	case regex:
		return e.match(pattern.Regex, i.text(), value)
	default:
		return i.raw == value
	}
}

// open says whether one of the alternatives fits texts that can't be listed.
func (e *entry) open(l *line) bool {
	return slices.ContainsFunc(l.items, func(i item) bool { return e.wide(&i) })
}

func (e *entry) wide(i *item) bool {
	switch i.form {
	case glob:
		return strings.Contains(i.text(), "*")
	case regex:
		return !e.reading(i.text()).finite
	default:
		return false
	}
}

// starts are the texts with which everything begins that the item fits.
func (e *entry) starts(i *item) []string {
	switch i.form {
	case glob:
		start, _, _ := strings.Cut(i.text(), "*")
		return []string{start}
	case regex:
		return e.reading(i.text()).starts
	default:
		return []string{i.text()}
	}
}

// all says whether the claim has alternatives, and what all of them begin with
// passes the test.
func (e *entry) all(path string, test func(start string) bool) bool {
	l := e.says(path)
	if l == nil {
		return false
	}
	return !slices.ContainsFunc(l.items, func(i item) bool {
		return slices.ContainsFunc(e.starts(&i), func(start string) bool { return !test(start) })
	})
}

// claims is where the entry's claims stand.
func (e *entry) claims() strictyaml.Pos { return e.job.At.Of("claims") }

// condition is where its condition stands.
func (e *entry) condition() strictyaml.Pos { return e.job.At.Of("condition") }

// place is where the entry speaks of a claim, in `claims` or in its condition.
func (e *entry) place(path string) strictyaml.Pos {
	if l := e.says(path); l != nil {
		return l.at
	}
	return e.condition()
}

// graver is the first severity in production, else the second.
func (e *entry) graver(inProduction, elsewhere Severity) Severity {
	if e.production {
		return inProduction
	}
	return elsewhere
}

// shared says whether strangers can have tokens of the same issuer. Where the
// issuer isn't known, it is taken to be the type's first.
func (e *entry) shared() bool {
	if e.known == nil || len(e.known.Issuers) == 0 {
		return false
	}
	issuer := e.config.Issuer
	if issuer == "" {
		issuer = e.known.Issuers[0]
	}
	return slices.Contains(e.known.SharedIssuers, issuer)
}

func shown(path string) string { return strings.ReplaceAll(path, "|", ".") }
