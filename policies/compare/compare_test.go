package compare

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/pattern"
	"github.com/daypass/daypass/policies/strictyaml"
)

const base = `policy: payments
owner: a@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims:
      repository_id: "1"
      ref: [refs/heads/main, {glob: refs/tags/v*}]
      event_name: push
    condition: int(claims.run_attempt) <= 3
  - name: nightly
    provider: github
    claims: {repository_id: "1", event_name: schedule}
grants:
  - name: db
    jobs: [release]
    issuer: db
    role: deployer
    ttl: 15m
    max_ttl: 1h
    max_active: 5
exceptions:
  - grant: db
    jobs: [{provider: github, claims: {repository_id: "2"}}]
    owner: b@example.com
    reason: a migration
    until: 2026-12-01
`

func read(t *testing.T, text string) []*document.File {
	t.Helper()
	f, mistakes := document.Read("p.yaml", []byte(text))
	if len(mistakes) > 0 {
		t.Fatalf("%v in\n%s", mistakes, text)
	}
	return []*document.File{f}
}

func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		what, from, to string
		effect         Effect // "": nothing of the grant
		unordered      bool
		text           string
	}{
		{"nothing", "x", "x", "", false, ""},
		{"the owner", "a@example.com", "c@example.com", "", false, ""},
		{"a claim more", "event_name: push", "event_name: push\n      actor_id: \"7\"", Narrows, false, `job release: claim actor_id must be "7"`},
		{"a claim less", "      event_name: push\n", "", Widens, false, `job release: claim event_name need not be "push" any more`},
		{"a value more", "event_name: push", "event_name: [push, schedule]", Widens, false, `claim event_name may be "schedule" too`},
		{"a value less", "ref: [refs/heads/main, {glob: refs/tags/v*}]", "ref: {glob: refs/tags/v*}", Narrows, false, `claim ref may not be "refs/heads/main" any more`},
		{"another value", "event_name: push", "event_name: schedule", Both, false, ""},
		{"another type", `repository_id: "1"` + "\n      ref", "repository_id: 1\n      ref", Both, false, ""},
		{"a wider glob", "{glob: refs/tags/v*}", "{glob: refs/tags/**}", Widens, false, "claim ref may be {glob: refs/tags/**} too"},
		{"a narrower glob", "{glob: refs/tags/v*}", "{glob: refs/tags/v1*}", Narrows, false, ""},
		{"another glob", "{glob: refs/tags/v*}", "{glob: refs/tags/*-rc}", Both, false, ""},
		{"a value for a glob", "{glob: refs/tags/v*}", "refs/tags/v1", Narrows, false, "may not be {glob: refs/tags/v*} any more"},
		{"a value within a glob", "{glob: refs/tags/v*}", "{glob: refs/tags/v*}, refs/tags/v1", Same, false, "which it might before"},
		{"a regex", "{glob: refs/tags/v*}", "{regex: 'refs/tags/v[0-9]+'}", Narrows, true, ""},
		{"a condition", "run_attempt) <= 3", "run_attempt) <= 2", Changed, true, "the condition was: int(claims.run_attempt) <= 3; and is: int(claims.run_attempt) <= 2"},
		{"a condition's layout", "int(claims.run_attempt) <= 3", ">-\n      int(claims.run_attempt)\n      <= 3", "", false, ""},
		{"no condition", "    condition: int(claims.run_attempt) <= 3\n", "", Changed, true, "the condition is gone"},
		{"a job more", "jobs: [release]", "jobs: [release, nightly]", Widens, false, "job nightly may have it too"},
		{"another job", "jobs: [release]", "jobs: [nightly]", Both, false, ""},
		{"another provider", "  - name: release\n    provider: github", "  - name: release\n    provider: gitlab", Changed, true, "provider github is gitlab now"},
		{"ttl up", "ttl: 15m", "ttl: 20m", Widens, false, "ttl goes up from 15m to 20m"},
		{"ttl down", "ttl: 15m", "ttl: 300s", Narrows, false, ""},
		{"ttl in other words", "ttl: 15m", "ttl: 900s", Same, false, ""},
		{"no ttl", "    ttl: 15m\n    max_ttl: 1h\n", "", Narrows, true, "ttl 15m is (none) now"},
		{"max_ttl up", "max_ttl: 1h", "max_ttl: 2h", Widens, false, "max_ttl goes up from 1h0m0s to 2h0m0s"},
		{"no renewals", "    max_ttl: 1h\n", "", Narrows, false, "max_ttl goes down from 1h0m0s to none (it can't be renewed)"},
		{"no limit", "    max_active: 5\n", "", Widens, false, "max_active goes up from 5 to none"},
		{"another role", "role: deployer", "role: owner", Changed, true, "role deployer is owner now"},
		{"an exception later", "until: 2026-12-01", "until: 2026-12-02", Widens, false, "2026-12-02 instead of 2026-12-01"},
		{"an exception earlier", "until: 2026-12-01", "until: 2026-11-30", Narrows, false, ""},
		{"an exception for others", `repository_id: "2"`, `repository_id: "3"`, Both, false, "1 more job entries until 2026-12-01"},
		{"another environment", "environment: production", "environment: staging", Changed, true, ""},
		{"broad sessions", "environment: production", "environment: production\nsession: broad", Widens, false, "any grant may ask"},
		{"narrow sessions, said", "environment: production", "environment: production\nsession: narrow", Same, false, ""},
	} {
		after := strings.Replace(base, tc.from, tc.to, 1)
		r := Compare(read(t, base), read(t, after))
		if tc.effect == "" {
			if len(r.Grants) != 0 {
				t.Errorf("%s: %+v", tc.what, r.Grants)
			}
			continue
		}
		if len(r.Grants) != 1 {
			t.Errorf("%s: %+v", tc.what, r.Grants)
			continue
		}
		g := r.Grants[0]
		texts := fmt.Sprint(g.Changes)
		if g.Effect != tc.effect || g.Unordered != tc.unordered || !strings.Contains(texts, tc.text) {
			t.Errorf("%s: %s, unordered %v, %s", tc.what, g.Effect, g.Unordered, texts)
		}
		if may := tc.effect == Widens || tc.effect == Both || tc.unordered; r.MayWiden() != may {
			t.Errorf("%s: may widen: %v", tc.what, r.MayWiden())
		}
		for _, c := range g.Changes {
			if c.At.Line == 0 {
				t.Errorf("%s: no place for %q", tc.what, c.Text)
			}
		}
	}
}

func TestPoliciesComeAndGo(t *testing.T) {
	r := Compare(nil, read(t, base))
	if len(r.Policies) != 1 || r.Policies[0].Status != StatusAdded || len(r.Grants) != 1 || r.Grants[0].Effect != Widens || r.Grants[0].Status != StatusAdded {
		t.Errorf("%+v", r)
	}
	r = Compare(read(t, base), nil)
	if len(r.Policies) != 1 || r.Policies[0].Status != StatusRemoved || len(r.Grants) != 1 || r.Grants[0].Effect != Narrows || r.MayWiden() {
		t.Errorf("%+v", r)
	}
	renamed := strings.ReplaceAll(base, "release", "deploy")
	r = Compare(read(t, base), read(t, renamed))
	if len(r.Grants) != 1 || r.Grants[0].Effect != Same || !strings.Contains(r.Grants[0].Changes[0].Text, "job release is called deploy now") {
		t.Errorf("%+v", r.Grants)
	}
	r = Compare(read(t, base), read(t, strings.Replace(base, "owner: a@", "owner: z@", 1)))
	if len(r.Grants) != 0 || len(r.Policies) != 1 || r.Policies[0].Changes[0].Effect != Changed {
		t.Errorf("%+v", r)
	}
}

func TestGlobCovers(t *testing.T) {
	for _, tc := range []struct {
		wide, narrow string
		want         bool
	}{
		{"a*", "a*", true},
		{"a*", "ab*", true},
		{"ab*", "a*", false},
		{"**", "*", true},
		{"*", "**", false},
		{"*/*", "**", false},
		{"a/**", "a/*/b", true},
		{"a/*", "a/*/b", false},
		{"*.x", "*.y.x", true},
		{"a**", "a*", true},
	} {
		if got := globCovers(tc.wide, tc.narrow); got != tc.want {
			t.Errorf("%s covers %s: %v", tc.wide, tc.narrow, got)
		}
	}
}

func compiles(glob string) bool {
	var c pattern.Compiler
	_, err := c.Compile(pattern.Glob, glob)
	return err == nil
}

// A text that fits the new line and not the old one is never overlooked, nor one
// that fits the old one and not the new.
func TestNothingIsOverlooked(t *testing.T) {
	text := rapid.StringMatching(`[ab/]{0,5}`)
	pieces := rapid.SampledFrom([]string{"a", "b", "/", "*", "**"})
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) []strictyaml.Value {
			list := make([]strictyaml.Value, rapid.IntRange(1, 3).Draw(t, label))
			for i := range list {
				switch rapid.IntRange(0, 3).Draw(t, "kind") {
				case 0, 1:
					glob := rapid.Map(rapid.SliceOfN(pieces, 1, 5), func(p []string) string { return strings.Join(p, "") }).Filter(compiles).Draw(t, "glob")
					list[i].Raw = map[string]strictyaml.Value{"glob": {Raw: glob}}
				case 2:
					list[i].Raw = map[string]strictyaml.Value{"regex": {Raw: rapid.SampledFrom([]string{"a|b", "a+b", "[ab/]{2}"}).Draw(t, "regex")}}
				default:
					list[i].Raw = text.Draw(t, "value")
				}
			}
			return list
		}
		before, after := draw("before"), draw("after")
		fits := func(list []strictyaml.Value, s string) bool {
			return slices.ContainsFunc(list, func(v strictyaml.Value) bool {
				w := wayOf(v)
				if w.kind == "value" {
					return w.value == s
				}
				var c pattern.Compiler
				p, err := c.Compile(pattern.Kind(w.kind), w.value.(string))
				return err == nil && p.Match(s)
			})
		}
		c := &changes{}
		old, next := lines(nil, "", map[string]strictyaml.Value{"x": {Raw: before}}), lines(nil, "", map[string]strictyaml.Value{"x": {Raw: after}})
		c.claim("", old["x"], next["x"])
		has := func(effects ...Effect) bool {
			return slices.ContainsFunc(c.list, func(change Change) bool { return slices.Contains(effects, change.Effect) })
		}
		for range 20 {
			s := text.Draw(t, "text")
			was, is := fits(before, s), fits(after, s)
			if is && !was && !has(Widens, Changed) {
				t.Fatalf("%q is new: %v", s, c.list)
			}
			if was && !is && !has(Narrows, Changed) {
				t.Fatalf("%q is gone: %v", s, c.list)
			}
		}
	})
}
