package policies

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// tests checks what the tests of a file speak of.
func (l *loader) tests(f *document.Policy, p *policy) {
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
		if entry.IP != "" {
			if _, err := netip.ParseAddr(entry.IP); err != nil && !l.reported(entry.At.Of("ip")) {
				l.add(entry.At.Of("ip"), "write 203.0.113.7", "%q is no address", clip(entry.IP))
			}
		}
		l.testGrants(entry, grants)
	}
}

func (l *loader) testJob(job *document.TestJob) { l.provider(job.At, job.Provider) }

// testGrants checks the names under allow and deny.
func (l *loader) testGrants(entry *document.Test, grants map[string]bool) {
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

// testRun runs the tests of a policy that is otherwise right.
type testRun struct {
	*loader

	set     *Set // of this policy alone
	policy  *policy
	reached map[*job]map[*grant]bool // by an expectation that something is allowed
}

func (l *loader) runTests(f *document.Policy, p *policy) {
	t := &testRun{loader: l, policy: p, set: &Set{policies: map[string]*policy{p.name: p}, grants: make(map[string]*grant)}, reached: make(map[*job]map[*grant]bool)}
	for _, g := range p.grants {
		t.set.grants[p.name+"/"+g.name] = g
	}
	for i := range f.Tests {
		entry := &f.Tests[i]
		id := Identity{Provider: entry.Job.Provider, ProviderType: l.cfg.providerType(entry.Job.Provider), Claims: make(map[string]any, len(entry.Job.Claims))}
		for name, v := range entry.Job.Claims {
			id.Claims[name] = v.Plain()
		}
		for _, name := range entry.Allow {
			t.expect(entry, &id, name, true)
		}
		for _, name := range entry.Deny {
			t.expect(entry, &id, name, false)
		}
	}
	p.tests, p.uncovered = len(f.Tests), t.uncovered(f)
}

// tokenLife is how long the token of a test still lives.
const tokenLife = time.Hour

// expect compares one decision with what the test says of it.
func (t *testRun) expect(entry *document.Test, id *Identity, name string, allowed bool) {
	req := Request{Grant: t.policy.name + "/" + name, TTL: entry.TTL.Std()}
	req.IP, _ = netip.ParseAddr(entry.IP) // checked before; none is the zero Addr
	g, now := t.set.grants[req.Grant], entry.Time.Std()
	if !entry.At.Has("at") {
		now = time.Time{}
		if j := asksTime(g, id); j != nil {
			t.add(entry.At.Pos, "write at: 2026-11-23T10:00:00Z", "test %q: whether job %s lets it through depends on the time, so the test has to say when", entry.Name, j.name)
			return
		}
	}
	id.Expiry = now.Add(tokenLife)
	got, err := t.set.Decide(*id, req, now)
	if err == nil && allowed {
		t.reach(g, got.Job)
	}
	if (err == nil) == allowed {
		return
	}
	const hint = "mend the policy or the test"
	if allowed {
		t.add(entry.At.Pos, hint, "test %q: %s should be allowed, and is denied: %s", entry.Name, name, why(err))
		return
	}
	t.add(entry.At.Pos, hint, "test %q: %s should be denied, and job %s lets it through", entry.Name, name, got.Job)
}

func (t *testRun) reach(g *grant, name string) {
	for _, j := range g.jobs {
		if j.name == name {
			if t.reached[j] == nil {
				t.reached[j] = make(map[*grant]bool)
			}
			t.reached[j][g] = true
		}
	}
}

// uncovered lists the jobs and grants that no test expects to be allowed.
func (t *testRun) uncovered(f *document.Policy) []Uncovered {
	var list []Uncovered
	for i, j := range t.policy.jobs {
		if len(t.reached[j]) == 0 {
			list = append(list, Uncovered{Policy: t.policy.name, Kind: "job", Name: j.name, At: f.Jobs[i].At.Pos})
		}
	}
	for i, g := range t.policy.grants {
		if !slices.ContainsFunc(g.jobs, func(j *job) bool { return t.reached[j][g] }) {
			list = append(list, Uncovered{Policy: t.policy.name, Kind: "grant", Name: g.name, At: f.Grants[i].At.Pos})
		}
	}
	return list
}

// Uncovered is a job or grant that no test of its policy expects to be allowed.
type Uncovered struct {
	Policy string
	Kind   string // job or grant
	Name   string
	At     strictyaml.Pos
}

// Tested says how many tests ran when the set was loaded, and what none of them
// reaches, in the order of policies.
func (s *Set) Tested() (tests int, uncovered []Uncovered) {
	for _, name := range slices.Sorted(maps.Keys(s.policies)) {
		tests += s.policies[name].tests
		uncovered = append(uncovered, s.policies[name].uncovered...)
	}
	return tests, uncovered
}

// Policies says how many there are.
func (s *Set) Policies() int { return len(s.policies) }

// why is the full reason of a refusal, on one line.
func why(err error) string {
	if denial, ok := errors.AsType[*Denial](err); ok {
		return strings.Join(strings.Fields(denial.Detail), " ")
	}
	return err.Error()
}

// asksTime returns a job entry whose verdict on this token depends on the time:
// its claims match, and it is an exception, or its condition reads the time.
func asksTime(g *grant, id *Identity) *job {
	for _, j := range g.candidates(id) {
		timed := !j.until.IsZero() || j.condition != nil && j.condition.ReadsTime()
		if timed && j.provider == id.Provider && !slices.ContainsFunc(j.claims, func(c claim) bool { return !c.matches(id.Claims) }) {
			return j
		}
	}
	return nil
}
