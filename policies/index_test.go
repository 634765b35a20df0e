package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// paired is {name: …, id: …} as the property test writes it into the file.
type paired struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// TestIndexAgreesWithNaive: a grant of many job entries, found by the ids they
// name, decides as somebody would who tries one after the other.
func TestIndexAgreesWithNaive(t *testing.T) {
	id := rapid.SampledFrom([]string{"1", "2", "3", "12"})
	text := func(s string) any { return s }
	of := map[string]*rapid.Generator[any]{
		"repository_id":       rapid.OneOf(rapid.Map(id, text), rapid.Map(id, text), rapid.Just[any](globbed{"1*"})),
		"repository_owner_id": rapid.Map(id, text),
		"repository":          rapid.OneOf(rapid.Map(id, func(s string) any { return paired{"r" + s, s} }), rapid.Map(id, func(s string) any { return paired{"r1", s} }), rapid.Map(id, func(s string) any { return "r" + s })),
		"ref":                 rapid.SampledFrom([]any{"a", "b", globbed{"a*"}}),
	}
	names := slices.Sorted(maps.Keys(of))
	entry := rapid.Custom(func(t *rapid.T) rule {
		r := rule{provider: rapid.SampledFrom([]string{"github", "github", "github", "oidc"}).Draw(t, "provider"), claims: map[string][]any{}}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID[string]).Draw(t, "names") {
			if name == "repository" && r.provider == "oidc" {
				name = "ref"
			}
			r.claims[name] = rapid.SliceOfNDistinct(of[name], 1, 2, rapid.ID[any]).Draw(t, name)
		}
		return r
	})
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(entry, fewJobs+1, 30).Draw(t, "rules")
		set, err := loadText(t, oneGrant(rules))
		if err != nil {
			t.Fatal(err)
		}
		if set.grants["p/g"].index == nil {
			t.Fatal("no index")
		}
		for range 10 {
			claims := map[string]any{}
			for _, name := range names {
				if v := rapid.SampledFrom([]any{nil, "1", "2", "3", "12", "r1", "r2", "r12", "a", "b", "ab", int64(1), []any{"1"}}).Draw(t, name); v != nil {
					claims[name] = v
				}
			}
			who := Identity{Provider: rapid.SampledFrom([]string{"github", "oidc", "gitlab"}).Draw(t, "who"), Claims: claims}
			want := slices.IndexFunc(rules, func(r rule) bool { return r.provider == who.Provider && naiveRule(r, claims) })
			got, err := set.Decide(who, Request{Grant: "p/g"}, noon)
			if (err == nil) != (want >= 0) || err == nil && got.Job != fmt.Sprintf("j%d", want) {
				t.Fatalf("%v: %+v, %v, want job %d", who, got, err, want)
			}
			var denial *Denial
			if errors.As(err, &denial) && (len(denial.Conflicts) > 0) != slices.ContainsFunc(rules, func(r rule) bool { return r.provider == who.Provider && halfAPair(r, claims) }) {
				t.Fatalf("%v: %+v", who, denial.Conflicts)
			}
		}
	})
}

// naiveRule holds a rule's claims against a token's.
func naiveRule(r rule, claims map[string]any) bool {
	for name, values := range r.claims {
		if !slices.ContainsFunc(values, func(want any) bool {
			if p, isPair := want.(paired); isPair {
				return claims[name] == p.Name && claims[name+"_id"] == p.ID
			}
			return naiveMatch(want, claims[name])
		}) {
			return false
		}
	}
	return true
}

// halfAPair says whether the token has one half of a pair, and no value of that
// claim fits it whole.
func halfAPair(r rule, claims map[string]any) bool {
	for name, values := range r.claims {
		whole := naiveRule(rule{claims: map[string][]any{name: values}}, claims)
		for _, want := range values {
			if p, isPair := want.(paired); isPair && !whole && (claims[name] == p.Name || claims[name+"_id"] == p.ID) {
				return true
			}
		}
	}
	return false
}

// oneGrant writes a policy with one grant for all rules.
func oneGrant(rules []rule) string {
	var jobs, list strings.Builder
	for i, r := range rules {
		written, err := json.Marshal(r.claims)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&jobs, "  - {name: j%d, provider: %s, claims: %s}\n", i, r.provider, written)
		fmt.Fprintf(&list, "j%d, ", i)
	}
	return "policy: p\nowner: o\nenvironment: test\njobs:\n" + jobs.String() + "grants: [{name: g, issuer: db, jobs: [" + strings.TrimSuffix(list.String(), ", ") + "]}]\n"
}
