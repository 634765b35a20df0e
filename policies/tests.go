package policies

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// testEntry is one of a policy's own tests. They run whenever it is loaded, and
// one that fails is a mistake like any other.
//
// A test reads no clock: the same files load today and tonight. Where a
// condition that has a say reads request.time, the test must give the time
// itself (`at`); everywhere else no time could change the verdict.
type testEntry struct {
	At    strictyaml.Where `yaml:"-"`
	Name  string           `yaml:"name,required"`
	Time  strictyaml.Time  `yaml:"at"`
	Job   testJob          `yaml:"job,required"`
	Allow []string         `yaml:"allow"`
	Deny  []string         `yaml:"deny"`
}

// testJob is who asks in a test: a token as its provider might have made it.
type testJob struct {
	At       strictyaml.Where            `yaml:"-"`
	Provider string                      `yaml:"provider,required"`
	Claims   map[string]strictyaml.Value `yaml:"claims,required"`
}

// tests checks what the tests of a file speak of.
func (l *loader) tests(f *file, p *policy) {
	if f.At.Has("tests") && len(f.Tests) == 0 && !l.reported(f.At.Of("tests")) {
		l.add(f.At.Of("tests"), "add one or leave the key out", "no tests")
	}
	grants := make(map[string]bool, len(p.grants))
	for _, g := range p.grants {
		grants[g.name] = true
	}
	names := make(map[string]bool, len(f.Tests))
	for i := range f.Tests {
		entry := &f.Tests[i]
		if entry.At.Line == 0 {
			continue
		}
		at := entry.At.Of("name")
		switch {
		case !entry.At.Has("name") || entry.Name == "" && l.reported(at):
		case strings.TrimSpace(entry.Name) == "" || len(entry.Name) > maxText:
			l.add(at, "", "a test's name has between 1 and %d bytes", maxText)
		case names[entry.Name]:
			l.add(at, "", "there are two tests %q", entry.Name)
		}
		names[entry.Name] = true
		l.testJob(&entry.Job)
		l.testGrants(entry, grants)
	}
}

func (l *loader) testJob(job *testJob) {
	l.provider(job.At, job.Provider)
	for _, name := range slices.Sorted(maps.Keys(job.Claims)) {
		v := job.Claims[name]
		l.claimType(job.Provider, v.Pos, name, v.Raw)
	}
}

// testGrants checks the names under allow and deny.
func (l *loader) testGrants(entry *testEntry, grants map[string]bool) {
	if len(entry.Allow)+len(entry.Deny) == 0 && !l.reported(entry.At.Of("allow")) && !l.reported(entry.At.Of("deny")) {
		l.add(entry.At.Pos, "write allow: […] or deny: […] with names of grants", "the test expects nothing")
	}
	seen := make(map[string]bool)
	for _, list := range []struct {
		key   string
		names []string
	}{{"allow", entry.Allow}, {"deny", entry.Deny}} {
		at := entry.At.Of(list.key)
		for _, name := range list.names {
			switch {
			case name == "": // reported when it was read, or below
				if !l.reportedInLine(at) {
					l.add(at, "", "%s: the name of a grant is empty", list.key)
				}
			case !grants[name]:
				l.add(at, strictyaml.Suggest(name, slices.Collect(maps.Keys(grants))), "%s: there is no grant %q in this policy", list.key, name)
			case seen[name]:
				l.add(at, "", "%s: the grant %s stands in this test twice", list.key, name)
			}
			seen[name] = true
		}
	}
}

// runTests runs the tests of a policy that is otherwise right.
func (l *loader) runTests(f *file, p *policy) {
	for i := range f.Tests {
		entry := &f.Tests[i]
		id := Identity{Provider: entry.Job.Provider, ProviderType: l.cfg.Providers[entry.Job.Provider], Claims: make(map[string]any, len(entry.Job.Claims))}
		for name, v := range entry.Job.Claims {
			id.Claims[name] = v.Plain()
		}
		for _, name := range entry.Allow {
			l.expect(entry, p, &id, name, true)
		}
		for _, name := range entry.Deny {
			l.expect(entry, p, &id, name, false)
		}
	}
}

// expect compares one decision with what the test says of it.
func (l *loader) expect(entry *testEntry, p *policy, id *Identity, name string, allowed bool) {
	req := Request{Grant: p.name + "/" + name}
	now := entry.Time.Std()
	if !entry.At.Has("at") {
		now = time.Time{}
		for _, j := range l.set.grants[req.Grant].jobs {
			if j.asksTime(id) {
				l.add(entry.At.Pos, "write at: 2026-11-23T10:00:00Z", "test %q: the condition of job %s reads request.time, so the test has to say when", entry.Name, j.name)
				return
			}
		}
	}
	got, err := l.set.Decide(*id, req, now)
	if (err == nil) == allowed {
		return
	}
	const hint = "mend the policy or the test"
	if allowed {
		l.add(entry.At.Pos, hint, "test %q: %s should be allowed, and is denied: %s", entry.Name, name, why(err))
		return
	}
	l.add(entry.At.Pos, hint, "test %q: %s should be denied, and job %s lets it through", entry.Name, name, got.Job)
}

// why is the full reason of a refusal, on one line.
func why(err error) string {
	if denial, ok := errors.AsType[*Denial](err); ok {
		return strings.Join(strings.Fields(denial.Detail), " ")
	}
	return err.Error()
}

// asksTime says whether the verdict on this token could depend on the time.
func (j *job) asksTime(id *Identity) bool {
	return j.provider == id.Provider && j.condition != nil && j.condition.timed &&
		!slices.ContainsFunc(j.claims, func(c claim) bool { return !c.matches(id.Claims) })
}
