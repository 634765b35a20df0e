// Package lint judges policies: what in them would let a stranger in, lock
// everybody out, or surprise whoever reads them.
//
// Each rule is a value ([Rule]) with its text, an example that trips it and one
// that doesn't, and a small function over a prepared view: of a job entry, of a
// policy, or of a provider in the server's configuration. [Linter] judges policies,
// [CheckProviders] the configuration. Neither reads a clock, a file or the network.
//
// A claim that a condition speaks of counts as pinned: what the condition makes of
// it can't be known without a token.
package lint

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Severity says what a finding does.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the set doesn't load
	Warning Severity = "warning" // it loads
	Info    Severity = "info"
)

// Finding is one place where a rule applies.
type Finding struct {
	strictyaml.Mistake

	Rule     string // GEN-003
	Severity Severity
}

// Provider is what a rule may know of a configured provider.
type Provider struct {
	Type        string // of the catalogue: github
	Issuer      string // its `iss`; "" when it isn't known
	Audience    string // "" when it isn't known
	ReplayOnce  bool   // a token opens one session and is used up
	MaxTokenAge time.Duration
	SessionTTL  time.Duration
	// Private says that its host has a private address or an authority of its own,
	// and so is none that the public can reach.
	Private bool
}

// Context is what policies are judged against.
type Context struct {
	// Providers by their names in the server's configuration. Nil: there is none,
	// and a provider whose name is a type of the catalogue is taken to be of it.
	Providers map[string]Provider
	// Now is when waivers and exceptions are looked at. Zero: none has ended.
	Now time.Time
	// Conditions lists the claims that a condition speaks of; nil where it doesn't
	// compile.
	Conditions func(text string) []string
}

// Linter judges a set, file by file. It is not safe for concurrent use.
type Linter struct {
	judge    *judge
	findings []Finding
}

// New begins a set.
func New(ctx Context) *Linter { return &Linter{judge: newJudge(ctx)} }

// Add judges the next file of the set, in the order of their names. What a waiver
// in the file waives is left out.
func (l *Linter) Add(f *document.File) {
	if f.Policy.At.Line == 0 {
		return // not read
	}
	j := l.judge
	j.found = j.found[:0]
	j.policy(f)
	j.waive(f)
	for i := range j.found {
		l.findings = append(l.findings, j.found[i].Finding)
	}
}

// Findings are those of all files, in the order of files and lines.
func (l *Linter) Findings() []Finding { return sorted(l.findings) }

// CheckProviders judges the providers of the server's configuration. at is where
// a key of a provider stands. Such findings can't be waived.
func CheckProviders(ctx Context, at func(provider, key string) strictyaml.Pos) []Finding {
	j := newJudge(ctx)
	j.providers(at)
	list := make([]Finding, len(j.found))
	for i := range j.found {
		list[i] = j.found[i].Finding
	}
	return sorted(list)
}

func sorted(list []Finding) []Finding {
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(
			strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col),
			strings.Compare(a.Rule, b.Rule), strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(list)
}
