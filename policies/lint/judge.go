package lint

import (
	"fmt"
	"slices"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

// production is the environment whose grants count as those that must not get
// into the wrong hands: nothing else is known of a grant.
const production = "production"

// judge is one run of the linter.
type judge struct {
	ctx      Context
	rules    []*Rule
	byType   map[string][]*Rule // those that judge job entries of a type
	patterns pattern.Compiler
	readings map[string]*reading // of regular expressions, by their text
	places   map[string]elsewhere
	buffers  struct { // of the file before, to be used again
		entries []*entry
		lines   []line
		items   []item
	}

	found  []found
	rule   *Rule // whose check runs
	blocks blocks
}

// found is a finding, and the first lines of what it stands in.
type found struct {
	Finding
	blocks
}

// blocks are the first lines of the entries that hold a finding: a job entry, and
// the exception around it. 0: none.
type blocks [2]int

func newJudge(ctx Context) *judge {
	return &judge{ctx: ctx, rules: table(), byType: make(map[string][]*Rule), readings: make(map[string]*reading), places: make(map[string]elsewhere)}
}

// add records a finding of the rule whose check runs.
func (j *judge) add(severity Severity, at strictyaml.Pos, hint, format string, args ...any) {
	j.found = append(j.found, found{Finding{at.Mistake(hint, format, args...), j.rule.ID, severity}, j.blocks})
}

// forType are the rules for job entries of a type.
func (j *judge) forType(typ string) []*Rule {
	list, ok := j.byType[typ]
	if !ok {
		for _, r := range j.rules {
			if r.entry != nil && (r.types == nil || slices.Contains(r.types, typ)) {
				list = append(list, r)
			}
		}
		j.byType[typ] = list
	}
	return list
}

// configured is what is known of a provider by its name.
func (j *judge) configured(name string) Provider {
	if j.ctx.Providers != nil {
		return j.ctx.Providers[name]
	}
	if _, known := catalogue.Lookup(name); known {
		return Provider{Type: name}
	}
	return Provider{}
}

// policy is one policy file, prepared.
type policy struct {
	*judge

	file       *document.File
	doc        *document.Policy
	production bool
	entries    []*entry // jobs, then those of exceptions
	lines      []line   // of all entries
	items      []item   // of all lines
}

// policy judges one file.
func (j *judge) policy(f *document.File) {
	p := &policy{judge: j, file: f, doc: &f.Policy, production: f.Policy.Environment == production}
	p.entries, p.lines, p.items = j.buffers.entries[:0], j.buffers.lines[:0], j.buffers.items[:0]
	for i := range p.doc.Jobs {
		p.entry(&p.doc.Jobs[i], nil)
	}
	for i := range p.doc.Exceptions {
		exception := &p.doc.Exceptions[i]
		for n := range exception.Jobs {
			p.entry(exception.Jobs[n].Job(), exception)
		}
	}
	for _, e := range p.entries {
		j.blocks = blocks{e.job.At.Line}
		if e.exception != nil {
			j.blocks[1] = e.exception.At.Line
		}
		for _, r := range j.forType(e.config.Type) {
			j.rule = r
			r.entry(e)
		}
	}
	for _, r := range j.rules {
		if r.policy != nil {
			j.rule, j.blocks = r, blocks{}
			r.policy(p)
		}
	}
	j.buffers.entries, j.buffers.lines, j.buffers.items = p.entries, p.lines, p.items
}

// eachGrant calls the function for every grant, with its block.
func (p *policy) eachGrant(visit func(*document.Grant)) {
	for i := range p.doc.Grants {
		if g := &p.doc.Grants[i]; g.At.Line > 0 {
			p.blocks = blocks{g.At.Line}
			visit(g)
		}
	}
}

// jobsOf are the entries by which a grant can be had: its jobs, and then those of
// its exceptions.
func (p *policy) jobsOf(g *document.Grant) []*entry {
	var list []*entry
	for _, e := range p.entries {
		switch {
		case e.exception != nil && e.exception.Grant == g.Name,
			e.exception == nil && (!g.At.Has("jobs") || slices.Contains(g.Jobs, e.job.Name)):
			list = append(list, e)
		}
	}
	return list
}

// provider is one provider of the server's configuration.
type provider struct {
	*judge
	Provider

	name  string
	known *catalogue.Provider // nil: of no type of the catalogue
	at    func(key string) strictyaml.Pos
}

func (j *judge) providers(at func(provider, key string) strictyaml.Pos) {
	for name, configured := range j.ctx.Providers {
		p := &provider{judge: j, Provider: configured, name: name, at: func(key string) strictyaml.Pos { return at(name, key) }}
		p.known, _ = catalogue.Lookup(configured.Type)
		for _, r := range j.rules {
			if r.provider != nil {
				j.rule = r
				r.provider(p)
			}
		}
	}
}

// match says whether a pattern fits a text; one that doesn't compile fits none.
func (j *judge) match(kind pattern.Kind, expression, text string) bool {
	compiled, err := j.patterns.Compile(kind, expression)
	return err == nil && compiled.Match(text)
}

func quoted(text string) string {
	if len(text) > 60 {
		text = text[:60] + "…"
	}
	return fmt.Sprintf("%q", text)
}
