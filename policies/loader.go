package policies

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/condition"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

// The limits of one policy.
const (
	minTTL     = 10 * time.Second
	maxTTL     = 24 * time.Hour
	maxRedact  = 256 // bytes of a pattern
	maxText    = 1024
	maxLeases  = 1_000_000
	maxEntries = 1000 // jobs, grants or tests of one policy
)

var nameForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
})

const nameHint = "a name has small letters, digits and -, at most 63 of them, and begins with a letter or digit"

// sessionBroad is the value of `session` with which a session token of any grant
// may ask for those of this policy.
const sessionBroad = "broad"

func defaultEnvironments() []string { return []string{"development", "test", "staging", "production"} }

// shared is what the loaders of all files have in common. It is safe for
// concurrent use.
type shared struct {
	cfg        Config
	conditions *condition.Compiler
	patterns   pattern.Compiler
}

func newShared(cfg Config) (*shared, error) {
	if len(cfg.Environments) == 0 {
		cfg.Environments = defaultEnvironments()
	}
	conditions, err := condition.NewCompiler()
	if err != nil {
		return nil, err
	}
	return &shared{cfg: cfg, conditions: conditions}, nil
}

// providerType is the type of a provider by its name: what the configuration
// says, or without one, the name itself where it is a type. Empty: not known.
func (c *Config) providerType(name string) string {
	if c.Providers != nil {
		return c.Providers[name].Type
	}
	if _, known := catalogue.Lookup(name); known {
		return name
	}
	return ""
}

// loader turns one file into a policy and collects what is wrong with it.
type loader struct {
	*shared

	mistakes []strictyaml.Mistake
}

// loaded is one file, read and compiled.
type loaded struct {
	file     *document.File
	policy   *policy // nil when it could not be read at all
	mistakes []strictyaml.Mistake
	syntax   int // so many of them, the first ones, are of the file's form
	tests    int // so many, the last ones, are tests that fail
}

// findings are its mistakes, each with its rule.
func (r *loaded) findings() []lint.Finding {
	last := len(r.mistakes) - r.tests
	return slices.Concat(
		errorsOf(RuleSyntax, r.mistakes[:r.syntax]),
		errorsOf(RulePolicy, r.mistakes[r.syntax:last]),
		errorsOf(RuleTest, r.mistakes[last:]))
}

// load reads one policy.
func (c *shared) load(name string, data []byte) *loaded {
	file, mistakes := document.Read(name, data)
	l := &loader{shared: c, mistakes: mistakes}
	f := &file.Policy
	if f.At.Line == 0 {
		return &loaded{file: file, mistakes: mistakes, syntax: len(mistakes)} // not read at all
	}
	p := &policy{name: f.Name, owner: f.Owner, description: f.Description, environment: f.Environment, broad: f.Session == sessionBroad, sum: sha256.Sum256(data)}
	l.head(f)
	jobs := l.jobs(f, p)
	l.grants(f, p, jobs)
	l.exceptions(f, p)
	l.tests(f, p)
	for _, g := range p.grants {
		g.index = newIndex(g.jobs)
	}
	r := &loaded{file: file, policy: p, syntax: len(mistakes)}
	if len(l.mistakes) == 0 {
		l.runTests(f, p)
		r.tests = len(l.mistakes)
	}
	r.mistakes = l.mistakes
	return r
}

func (l *loader) add(at strictyaml.Pos, hint, format string, args ...any) {
	l.mistakes = append(l.mistakes, at.Mistake(hint, format, args...))
}

func (l *loader) unused(key string, v *strictyaml.Value) {
	if v != nil {
		l.add(v.Pos, "take it out", "%s is not enforced by this version", key)
	}
}

// head checks what stands above jobs and grants.
func (l *loader) head(f *document.Policy) {
	l.name(f.At, "policy", f.Name)
	if f.At.Has("owner") && (strings.TrimSpace(f.Owner) == "" || len(f.Owner) > maxText) {
		l.add(f.At.Of("owner"), "write who answers for this policy: an address or a team", "no owner")
	}
	if len(f.Description) > maxText {
		l.add(f.At.Of("description"), "", "the description is longer than %d bytes", maxText)
	}
	if f.Environment != "" && !slices.Contains(l.cfg.Environments, f.Environment) {
		l.add(f.At.Of("environment"), strictyaml.Suggest(f.Environment, l.cfg.Environments), "unknown environment %q", f.Environment)
	}
	if f.At.Has("session") && f.Session != sessionBroad && f.Session != "narrow" && !l.reported(f.At.Of("session")) {
		l.add(f.At.Of("session"), "leave it out for narrow", "session is narrow or broad")
	}
	if len(f.Jobs) > maxEntries || len(f.Grants) > maxEntries || len(f.Tests) > maxEntries || len(f.Exceptions) > maxEntries {
		l.add(f.At.Pos, "split it", "more than %d jobs, grants, exceptions or tests in one policy", maxEntries)
	}
}

// name checks a name; an absent one has been reported already.
func (l *loader) name(at strictyaml.Where, key, name string) {
	if at.Has(key) && name != "" && !nameForm().MatchString(name) {
		l.add(at.Of(key), nameHint, "%q can't be a name", name)
	}
	if at.Has(key) && name == "" && !l.reported(at.Of(key)) {
		l.add(at.Of(key), nameHint, "the name is empty")
	}
}

// reported says whether there is a mistake at this place already.
func (l *loader) reported(at strictyaml.Pos) bool {
	return slices.ContainsFunc(l.mistakes, func(m strictyaml.Mistake) bool {
		return m.File == at.File && m.Line == at.Line && m.Col == at.Col
	})
}

// reportedInLine says whether there is a mistake in this line already.
func (l *loader) reportedInLine(at strictyaml.Pos) bool {
	return slices.ContainsFunc(l.mistakes, func(m strictyaml.Mistake) bool {
		return m.File == at.File && m.Line == at.Line
	})
}

// noBraces refuses templates where there are none.
func (l *loader) noBraces(at strictyaml.Pos, text string) {
	if hasBraces(text) {
		l.add(at, "", "templates stand in `with` alone")
	}
}

func (l *loader) jobs(f *document.Policy, p *policy) map[string]*job {
	if f.At.Has("jobs") && len(f.Jobs) == 0 && !l.reported(f.At.Of("jobs")) {
		l.add(f.At.Of("jobs"), "add one", "no jobs")
	}
	known := make(map[string]*job, len(f.Jobs))
	for i := range f.Jobs {
		entry := &f.Jobs[i]
		if entry.At.Line == 0 {
			continue
		}
		l.name(entry.At, "name", entry.Name)
		j := l.job(entry)
		if entry.Name == "" {
			continue
		}
		if _, found := known[entry.Name]; found {
			l.add(entry.At.Of("name"), "", "there are two jobs %s", entry.Name)
			continue
		}
		known[entry.Name] = j
		p.jobs = append(p.jobs, j)
	}
	return known
}

// job compiles a job entry, or one of an exception.
func (l *loader) job(entry *document.Job) *job {
	j := &job{name: entry.Name, provider: entry.Provider, claims: l.claims(entry)}
	j.tenants = tenantsOf(l.cfg.providerType(entry.Provider), j.claims)
	l.provider(entry.At, entry.Provider)
	l.condition(entry, j)
	return j
}

// provider checks that the server knows the provider of a job, or of a test's.
func (l *loader) provider(at strictyaml.Where, name string) {
	if l.cfg.Providers == nil || name == "" {
		return
	}
	if _, ok := l.cfg.Providers[name]; !ok {
		names := slices.Collect(maps.Keys(l.cfg.Providers))
		l.add(at.Of("provider"), strictyaml.Suggest(name, names), "no provider %q in the server's configuration", name)
	}
}

func (l *loader) condition(entry *document.Job, j *job) {
	if !entry.At.Has("condition") {
		return
	}
	at := entry.At.Of("condition")
	if strings.TrimSpace(entry.Condition) == "" {
		if !l.reported(at) {
			l.add(at, "leave the key out", "the condition is empty")
		}
		return
	}
	compiled, problems := l.conditions.Compile(entry.Condition)
	for _, p := range problems {
		l.add(at, p.Hint, "%s", p.Text)
	}
	j.condition = compiled
	if compiled != nil {
		l.uses(entry, at, compiled)
	}
}

// uses refuses a condition that uses a claim as what the provider never sends: it
// would refuse everybody.
func (l *loader) uses(entry *document.Job, at strictyaml.Pos, compiled *condition.Condition) {
	known, ok := catalogue.Lookup(l.cfg.providerType(entry.Provider))
	if !ok {
		return
	}
	seen := make(map[condition.Use]bool)
	for _, use := range compiled.Uses() {
		claim, listed := known.Claim(use.Claim)
		if !listed || seen[use] || fitsUse(claim.Kind, use.As) {
			continue
		}
		seen[use] = true
		hint := ""
		if claim.Kind == catalogue.Text && use.As == condition.AsNumber {
			hint = fmt.Sprintf("write int(claims.%s), or compare it with a text", use.Claim)
		}
		if claim.Kind == catalogue.Text && use.As == condition.AsBool {
			hint = `compare it with "true"`
		}
		l.add(at, hint, "condition: claim %s is a %s from this provider, and used as a %s", use.Claim, claim.Kind, use.As)
	}
}

func fitsUse(kind catalogue.Kind, as condition.As) bool {
	switch as {
	case condition.AsText:
		return kind == catalogue.Text
	case condition.AsNumber:
		return kind == catalogue.Number
	case condition.AsBool:
		return kind == catalogue.Bool
	default:
		return kind == catalogue.List || kind == catalogue.Objects
	}
}
