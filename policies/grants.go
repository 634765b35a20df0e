package policies

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

func (l *loader) grants(f *document.Policy, p *policy, jobs map[string]*job) {
	if f.At.Has("grants") && len(f.Grants) == 0 && !l.reported(f.At.Of("grants")) {
		l.add(f.At.Of("grants"), "add one", "no grants")
	}
	seen := make(map[string]bool, len(f.Grants))
	for i := range f.Grants {
		entry := &f.Grants[i]
		if entry.At.Line == 0 {
			continue
		}
		l.unused("requires", entry.Requires)
		l.name(entry.At, "name", entry.Name)
		if entry.Name != "" && seen[entry.Name] {
			l.add(entry.At.Of("name"), "", "there are two grants %s", entry.Name)
			continue
		}
		seen[entry.Name] = true
		g := &grant{
			policy: p, name: entry.Name, issuer: entry.Issuer, role: entry.Role,
			maxTTL: entry.MaxTTL.Std(), maxActive: entry.MaxActive, maxActivePerJob: entry.MaxActivePerJob,
			jobs: l.grantJobs(f, entry, p, jobs), env: l.grantEnv(entry), redact: l.grantRedact(entry),
			parameters: l.with(entry),
		}
		l.lifetime(entry, g)
		l.limits(entry)
		l.noBraces(entry.At.Of("issuer"), entry.Issuer)
		l.noBraces(entry.At.Of("role"), entry.Role)
		if entry.At.Has("role") && entry.Role == "" && !l.reported(entry.At.Of("role")) {
			l.add(entry.At.Of("role"), "leave the key out", "the role is empty")
		}
		l.issuer(entry, p, g)
		p.grants = append(p.grants, g)
	}
}

// issuer asks the server's configuration.
func (l *loader) issuer(entry *document.Grant, p *policy, g *grant) {
	if l.cfg.Issuers == nil || entry.Issuer == "" {
		return
	}
	use := GrantUse{
		Issuer: entry.Issuer, Role: entry.Role, Policy: p.name, Grant: g.name, Environment: p.environment,
		TTL: max(g.ttl, g.maxTTL), With: g.parameters.fixed, Env: g.env,
	}
	if err := l.cfg.Issuers.CheckGrant(use); err != nil {
		l.add(entry.At.Of("issuer"), "", "%v", err)
	}
}

func (l *loader) grantJobs(f *document.Policy, entry *document.Grant, p *policy, jobs map[string]*job) []*job {
	if !entry.At.Has("jobs") {
		if len(f.Jobs) > 1 {
			l.add(entry.At.Pos, "write jobs: […] with those that may have it", "the grant doesn't say which of the %d jobs it is for", len(f.Jobs))
		}
		return p.jobs
	}
	at := entry.At.Of("jobs")
	if len(entry.Jobs) == 0 && !l.reported(at) {
		l.add(at, "", "an empty list of jobs: nobody could have the grant")
	}
	var list []*job
	for _, name := range entry.Jobs {
		j, ok := jobs[name]
		switch {
		case name == "": // reported when it was read
		case !ok:
			l.add(at, strictyaml.Suggest(name, slices.Collect(maps.Keys(jobs))), "there is no job %q in this policy", name)
		case slices.Contains(list, j):
			l.add(at, "", "the job %s stands here twice", name)
		default:
			list = append(list, j)
		}
	}
	return list
}

// lifetime reads ttl and checks it beside max_ttl.
func (l *loader) lifetime(entry *document.Grant, g *grant) {
	at, most := entry.At.Of("ttl"), entry.At.Of("max_ttl")
	within := func(length time.Duration) bool { return length >= minTTL && length <= maxTTL }
	if entry.At.Has("max_ttl") && !within(g.maxTTL) && !l.reported(most) {
		l.add(most, "", "max_ttl is between 10s and 24h")
	}
	switch {
	case !entry.At.Has("ttl"):
		if entry.At.Has("max_ttl") {
			l.add(most, "write a ttl too", "max_ttl without ttl")
		}
		return
	case entry.TTL == document.UntilTokenExpires:
		g.untilToken = true
		if entry.At.Has("max_ttl") {
			l.add(most, "leave it out", "max_ttl beside a ttl that ends with the job's token: that end can't be moved")
		}
		return
	case entry.TTL == "" && l.reported(at):
		return
	}
	length, err := strictyaml.ParseDuration(entry.TTL)
	switch {
	case err != nil:
		l.add(at, "write 15m, or: "+document.UntilTokenExpires, "ttl: %q is not a duration", clip(entry.TTL))
	case !within(length):
		l.add(at, "", "ttl is between 10s and 24h")
	case entry.At.Has("max_ttl") && length > g.maxTTL && g.maxTTL > 0:
		l.add(at, "", "ttl is longer than max_ttl")
	}
	g.ttl = length
}

func clip(text string) string {
	if len(text) > 40 {
		return strings.ToValidUTF8(text[:40], "") + "…"
	}
	return text
}

// limits checks numbers.
func (l *loader) limits(entry *document.Grant) {
	for key, value := range map[string]int{"max_active": entry.MaxActive, "max_active_per_job": entry.MaxActivePerJob} {
		at := entry.At.Of(key)
		if entry.At.Has(key) && (value < 1 || value > maxLeases) && !l.reported(at) {
			l.add(at, "leave it out for any number", "%s is between 1 and %d", key, maxLeases)
		}
	}
}

func (l *loader) grantEnv(entry *document.Grant) map[string]string {
	if len(entry.Env) == 0 {
		return nil
	}
	used := make(map[string]string, len(entry.Env))
	for _, value := range slices.Sorted(maps.Keys(entry.Env)) {
		name := entry.Env[value]
		at := entry.At.Of("env")
		if name == "" && l.reported(at) {
			continue
		}
		if err := CheckEnvName(name); err != nil {
			l.add(at, "", "env: %v", err)
		}
		if other, found := used[name]; found {
			l.add(at, "", "env: %s and %s would both be %s", other, value, name)
		}
		used[name] = value
	}
	return entry.Env
}

func (l *loader) grantRedact(entry *document.Grant) []string {
	var list []string
	for _, r := range entry.Redact {
		at := r.At.Of("pattern")
		if r.Pattern == "" {
			if r.At.Has("pattern") && !l.reported(at) {
				l.add(at, "", "the pattern is empty")
			}
			continue
		}
		if len(r.Pattern) > maxRedact {
			l.add(at, "", "the pattern is longer than %d bytes", maxRedact)
			continue
		}
		pattern, err := regexp.Compile(r.Pattern)
		if err != nil {
			l.add(at, "", "the pattern is no RE2 regular expression: %v", err)
			continue
		}
		if pattern.MatchString("") {
			l.add(at, "let it match at least one character", "the pattern matches an empty text, and so everywhere")
			continue
		}
		list = append(list, r.Pattern)
	}
	return list
}

// with reads a grant's parameters and finds the templates in them.
func (l *loader) with(entry *document.Grant) parameters {
	if !entry.At.Has("with") {
		return parameters{}
	}
	found := false
	plain, tree := make(map[string]any, len(entry.With)), make(map[string]any, len(entry.With))
	for _, key := range slices.Sorted(maps.Keys(entry.With)) {
		v := entry.With[key]
		l.noBraces(v.Pos, key)
		plain[key] = v.Plain()
		tree[key] = l.templates(v, &found)
	}
	fixed, err := json.Marshal(plain)
	if err != nil {
		l.add(entry.At.Of("with"), "", "the parameters can't be written as JSON: %v", err)
		return parameters{}
	}
	if !found {
		return parameters{fixed: fixed}
	}
	return parameters{fixed: fixed, tree: tree}
}

func (l *loader) templates(v strictyaml.Value, found *bool) any {
	switch raw := v.Raw.(type) {
	case string:
		t, err := parseTemplate(raw)
		if err != nil {
			l.add(v.Pos, "write {{ claims.ref }}", "%v", err)
			return raw
		}
		if t == nil {
			return raw
		}
		*found = true
		return t
	case []strictyaml.Value:
		list := make([]any, len(raw))
		for i, item := range raw {
			list[i] = l.templates(item, found)
		}
		return list
	case map[string]strictyaml.Value:
		mapping := make(map[string]any, len(raw))
		for key, item := range raw {
			l.noBraces(item.Pos, key)
			mapping[key] = l.templates(item, found)
		}
		return mapping
	default:
		return raw
	}
}
