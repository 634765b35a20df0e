package policies

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

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

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

const nameHint = "a name has small letters, digits and -, at most 63 of them, and begins with a letter or digit"

func defaultEnvironments() []string { return []string{"development", "test", "staging", "production"} }

// loader turns files into a set and collects what is wrong with them.
type loader struct {
	cfg        Config
	set        *Set
	conditions *conditions
	patterns   map[string]*regexp.Regexp // by what stands between the anchors
	places     map[string]strictyaml.Pos // policy → where it stands
	mistakes   []strictyaml.Mistake
	begin      int // where the mistakes of the file being read begin
}

func newLoader(cfg Config) (*loader, error) {
	if len(cfg.Environments) == 0 {
		cfg.Environments = defaultEnvironments()
	}
	conditions, err := newConditions()
	if err != nil {
		return nil, err
	}
	set := &Set{policies: make(map[string]*policy), grants: make(map[string]*grant)}
	if cfg.Providers == nil {
		set.skipped = append(set.skipped, "providers: no configuration to check their names against")
	}
	if cfg.Issuers == nil {
		set.skipped = append(set.skipped, "issuers, roles and parameters: no configuration to check them against")
	}
	return &loader{cfg: cfg, set: set, conditions: conditions, patterns: make(map[string]*regexp.Regexp), places: make(map[string]strictyaml.Pos)}, nil
}

func (l *loader) add(at strictyaml.Pos, hint, format string, args ...any) {
	l.mistakes = append(l.mistakes, at.Mistake(hint, format, args...))
}

func (l *loader) unused(key string, v *strictyaml.Value) {
	if v != nil {
		l.add(v.Pos, "take it out", "%s is not enforced by this version", key)
	}
}

// file reads one policy.
func (l *loader) file(name string, data []byte) {
	var f file
	l.begin = len(l.mistakes)
	mistakes := strictyaml.Decode(name, data, &f)
	l.mistakes = append(l.mistakes, mistakes...)
	if f.At.Line == 0 {
		return // not read at all
	}
	l.unused("exceptions", f.Exceptions)
	l.unused("session", f.Session)
	p := &policy{name: f.Policy, owner: f.Owner, description: f.Description, environment: f.Environment}
	l.head(&f)
	jobs := l.jobs(&f, p)
	l.grants(&f, p, jobs)
	l.tests(&f, p)
	if f.Policy == "" {
		return
	}
	if first, found := l.places[f.Policy]; found {
		l.add(f.At.Of("policy"), "a policy is one file", "the policy %s stands in %s already", f.Policy, first)
		return
	}
	l.places[f.Policy] = f.At.Of("policy")
	l.set.policies[f.Policy] = p
	for _, g := range p.grants {
		l.set.grants[f.Policy+"/"+g.name] = g
	}
	if len(l.mistakes) == l.begin {
		l.runTests(&f, p)
	}
}

// head checks what stands above jobs and grants.
func (l *loader) head(f *file) {
	l.name(f.At, "policy", f.Policy)
	if f.At.Has("owner") && (strings.TrimSpace(f.Owner) == "" || len(f.Owner) > maxText) {
		l.add(f.At.Of("owner"), "write who answers for this policy: an address or a team", "no owner")
	}
	if len(f.Description) > maxText {
		l.add(f.At.Of("description"), "", "the description is longer than %d bytes", maxText)
	}
	if f.Environment != "" && !slices.Contains(l.cfg.Environments, f.Environment) {
		l.add(f.At.Of("environment"), strictyaml.Suggest(f.Environment, l.cfg.Environments), "unknown environment %q", f.Environment)
	}
	if len(f.Jobs) > maxEntries || len(f.Grants) > maxEntries || len(f.Tests) > maxEntries {
		l.add(f.At.Pos, "split it", "more than %d jobs, grants or tests in one policy", maxEntries)
	}
}

// name checks a name; an absent one has been reported already.
func (l *loader) name(at strictyaml.Where, key, name string) {
	if at.Has(key) && name != "" && !nameForm.MatchString(name) {
		l.add(at.Of(key), nameHint, "%q can't be a name", name)
	}
	if at.Has(key) && name == "" && !l.reported(at.Of(key)) {
		l.add(at.Of(key), nameHint, "the name is empty")
	}
}

// reported says whether there is a mistake at this place already.
func (l *loader) reported(at strictyaml.Pos) bool {
	return slices.ContainsFunc(l.mistakes[l.begin:], func(m strictyaml.Mistake) bool {
		return m.File == at.File && m.Line == at.Line && m.Col == at.Col
	})
}

// reportedInLine says whether there is a mistake in this line already.
func (l *loader) reportedInLine(at strictyaml.Pos) bool {
	return slices.ContainsFunc(l.mistakes[l.begin:], func(m strictyaml.Mistake) bool {
		return m.File == at.File && m.Line == at.Line
	})
}

// noBraces refuses templates where there are none.
func (l *loader) noBraces(at strictyaml.Pos, text string) {
	if hasBraces(text) {
		l.add(at, "", "templates stand in `with` alone")
	}
}

func (l *loader) jobs(f *file, p *policy) map[string]*job {
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
		j := &job{name: entry.Name, provider: entry.Provider, claims: l.claims(entry)}
		l.provider(entry.At, entry.Provider)
		l.condition(entry, j)
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

func (l *loader) condition(entry *jobEntry, j *job) {
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
	compiled, problems := l.conditions.compile(entry.Condition)
	for _, p := range problems {
		l.add(at, p.hint, "%s", p.text)
	}
	j.condition = compiled
}
