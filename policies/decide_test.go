package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const two = `policy: pay
owner: a@example.com
environment: staging
jobs:
  - name: release
    provider: github
    claims: {repository_id: "1", repository_owner_id: "2", ref: [refs/heads/main, refs/heads/next]}
    condition: int(claims.run_attempt) < 3 && request.grant != "pay/never"
  - name: other
    provider: oidc
    claims: {sub: x, level: 3, admin: true}
grants:
  - {name: db, jobs: [release, other], issuer: db, role: r, ttl: 15m, max_ttl: 1h, max_active: 5, redact: [{pattern: "x+"}], env: {user: DB_USER}}
  - {name: jwt, jobs: [release], issuer: jwt, with: {audience: a, num: 1, list: ["{{claims.ref}}", b], claims: {ref: "r-{{ claims.ref }}-{{ claims.actor }}"}}}
  - {name: never, jobs: [release], issuer: db}
`

func github(changes ...string) Identity {
	claims := map[string]any{"repository_id": "1", "repository_owner_id": "2", "ref": "refs/heads/main", "run_attempt": "1", "actor": "me"}
	for _, change := range changes {
		name, value, isSet := strings.Cut(change, "=")
		if isSet {
			claims[name] = value
		} else {
			delete(claims, name)
		}
	}
	return Identity{Provider: "github", ProviderType: "github", Claims: claims}
}

func TestDecideAllows(t *testing.T) {
	set := mustLoad(t, two)
	got, err := set.Decide(github(), Request{Grant: "pay/db"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := &Grant{
		Policy: "pay", Name: "db", Environment: "staging", Job: "release", Issuer: "db", Role: "r", TTL: 15 * time.Minute, MaxTTL: time.Hour,
		MaxActive: 5, Redact: []string{"x+"}, Env: map[string]string{"user": "DB_USER"}, Digest: set.Digest(),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for asked, want := range map[time.Duration]time.Duration{0: 15 * time.Minute, time.Minute: time.Minute, time.Hour: 15 * time.Minute, -time.Minute: 15 * time.Minute} {
		if got, err := set.Decide(github(), Request{Grant: "pay/db", TTL: asked}, noon); err != nil || got.TTL != want || got.AskedTTL != max(asked, 0) {
			t.Errorf("asked for %s: %+v, %v", asked, got, err)
		}
	}
	if got, err := set.Decide(github(), Request{Grant: "pay/jwt", TTL: time.Minute}, noon); err != nil || got.TTL != 0 || got.AskedTTL != time.Minute || got.MaxTTL != 0 {
		t.Errorf("a grant without ttl: %+v, %v", got, err)
	}
	for _, level := range []any{int64(3), 3.0, json.Number("3"), 3} {
		id := Identity{Provider: "oidc", ProviderType: "oidc", Claims: map[string]any{"sub": "x", "level": level, "admin": true}}
		if got, err := set.Decide(id, Request{Grant: "pay/db"}, noon); err != nil || got.Job != "other" {
			t.Errorf("level %T: %+v, %v", level, got, err)
		}
	}
}

func TestDecideRefuses(t *testing.T) {
	set := mustLoad(t, two)
	oidc := func(sub, level, admin any) Identity {
		return Identity{Provider: "oidc", ProviderType: "oidc", Claims: map[string]any{"sub": sub, "level": level, "admin": admin}}
	}
	elsewhere := github()
	elsewhere.Provider = "gitlab"
	number := github()
	number.Claims["repository_id"] = int64(1)
	for _, tc := range []struct {
		name   string
		id     Identity
		grant  string
		code   string
		claims []string
	}{
		{"a stranger", github("repository_id=9"), "pay/db", CodeNotAllowed, nil},
		{"a stranger in a repository of the same number", github("repository_owner_id=9"), "pay/db", CodeNotAllowed, nil},
		{"a stranger's unknown grant", github("repository_id=9"), "pay/unknown", CodeNotAllowed, nil},
		{"a stranger's unknown policy", github("repository_id=9"), "unknown/db", CodeNotAllowed, nil},
		{"our job, unknown grant", github(), "pay/unknown", CodeNoSuchGrant, nil},
		{"our job, unknown policy", github(), "unknown/db", CodeNotAllowed, nil},
		{"our repository, a job that may nothing, unknown grant", github("ref=refs/heads/x"), "pay/unknown", CodeNotAllowed, nil},
		{"another branch", github("ref=refs/heads/evil"), "pay/db", CodeNotAllowed, []string{"ref"}},
		{"a prefix", github("ref=refs/heads/main-evil"), "pay/db", CodeNotAllowed, []string{"ref"}},
		{"no ref", github("ref"), "pay/db", CodeNotAllowed, []string{"ref"}},
		{"no id", github("repository_id"), "pay/db", CodeNotAllowed, nil},
		{"the id as a number", number, "pay/db", CodeNotAllowed, nil},
		{"the condition is false", github("run_attempt=3"), "pay/db", CodeNotAllowed, []string{ConditionClaim}},
		{"the condition's claim is absent", github("run_attempt"), "pay/db", CodeNotAllowed, []string{ConditionClaim}},
		{"the condition sees the grant", github(), "pay/never", CodeNotAllowed, []string{ConditionClaim}},
		{"another provider", elsewhere, "pay/db", CodeNotAllowed, nil},
		{"true as a text", oidc("x", int64(3), "true"), "pay/db", CodeNotAllowed, nil},
		{"3 as a text", oidc("x", "3", true), "pay/db", CodeNotAllowed, nil},
		{"3.5", oidc("x", 3.5, true), "pay/db", CodeNotAllowed, nil},
		{"a list", oidc([]any{"x"}, int64(3), true), "pay/db", CodeNotAllowed, nil},
		{"null", oidc(nil, int64(3), true), "pay/db", CodeNotAllowed, nil},
		{"an object", oidc(map[string]any{"x": "x"}, int64(3), true), "pay/db", CodeNotAllowed, nil},
		{"no claims", Identity{Provider: "github", ProviderType: "github"}, "pay/db", CodeNotAllowed, nil},
		{"nothing", Identity{}, "", CodeNotAllowed, nil},
		{"no policy", github(), "/db", CodeNotAllowed, nil},
		{"only a policy", github(), "pay", CodeNoSuchGrant, nil},
		{"too many parts", github(), "pay/db/x", CodeNoSuchGrant, nil},
		{"other case", github(), "Pay/db", CodeNotAllowed, nil},
		{"a template's claim is absent", github("actor"), "pay/jwt", CodeNotAllowed, []string{"actor"}},
		{"a template's claim is empty", github("actor="), "pay/jwt", CodeNotAllowed, []string{"actor"}},
		{"a template's claim holds a line end", github("actor=a\nb"), "pay/jwt", CodeNotAllowed, []string{"actor"}},
		{"a template's claim turns text around", github("actor=a\u202eb"), "pay/jwt", CodeNotAllowed, []string{"actor"}},
		{"a template's claim is no UTF-8", github("actor=a\xff"), "pay/jwt", CodeNotAllowed, []string{"actor"}},
		{"a template's claim is long", github("actor=" + strings.Repeat("a", 512)), "pay/jwt", CodeNotAllowed, nil},
	} {
		got, err := set.Decide(tc.id, Request{Grant: tc.grant}, noon)
		var denial *Denial
		if got != nil || !errors.As(err, &denial) {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
			continue
		}
		if denial.Code != tc.code || denial.Grant != tc.grant || !reflect.DeepEqual(denial.Claims, tc.claims) || denial.Detail == "" {
			t.Errorf("%s: %+v, want code %s and claims %q", tc.name, denial, tc.code, tc.claims)
		}
		if strings.Contains(denial.Error(), denial.Detail) {
			t.Errorf("%s: the error %q says why", tc.name, denial)
		}
	}
}

// A stranger can't tell a grant that exists from one that doesn't.
func TestStrangersGetOneAnswer(t *testing.T) {
	set := mustLoad(t, two)
	for _, id := range []Identity{github("repository_id=9"), {Provider: "oidc", ProviderType: "oidc", Claims: map[string]any{"sub": "y"}}, {}} {
		var answers []Denial
		for _, grant := range []string{"pay/db", "pay/unknown", "unknown/unknown"} {
			_, err := set.Decide(id, Request{Grant: grant}, noon)
			var denial *Denial
			if !errors.As(err, &denial) {
				t.Fatal(err)
			}
			answers = append(answers, Denial{Code: denial.Code, Claims: denial.Claims})
		}
		if !reflect.DeepEqual(answers[0], answers[1]) || !reflect.DeepEqual(answers[1], answers[2]) {
			t.Errorf("answers differ: %+v", answers)
		}
	}
}

func TestTemplates(t *testing.T) {
	set := mustLoad(t, two)
	for actor, want := range map[string]string{
		"me":         `r-refs/heads/main-me`,
		`"}, "sub":`: `r-refs/heads/main-"}, "sub":`,
		"{{ x }}":    `r-refs/heads/main-{{ x }}`,
		"<é\\":       `r-refs/heads/main-<é\`,
	} {
		got, err := set.Decide(github("actor="+actor), Request{Grant: "pay/jwt"}, noon)
		if err != nil {
			t.Fatal(err)
		}
		var filled map[string]any
		if err := json.Unmarshal(got.Parameters, &filled); err != nil {
			t.Fatal(err)
		}
		expect := map[string]any{"audience": "a", "num": 1.0, "list": []any{"refs/heads/main", "b"}, "claims": map[string]any{"ref": want}}
		if !reflect.DeepEqual(filled, expect) {
			t.Errorf("%q: %v, want %v", actor, filled, expect)
		}
	}
	for _, text := range []string{"{{", "}}", "{{claims.a", "{{claims}}", "{{ claims.a.b }}", "{{ claims.a | x }}", "{{ claims['a'] }}", "{{ ref }}", "{{{claims.a}}}", "{{\tclaims.a}}", "{{ claims.a }} }}", "{{ claims.1 }}"} {
		if _, err := parseTemplate(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	if got, err := parseTemplate("{a} ${b} {"); got != nil || err != nil {
		t.Errorf("single braces: %v, %v", got, err)
	}
	for value, want := range map[any]string{int64(5): "5", 5.0: "5", true: "true", "x": "x"} {
		if got, err := templateText(value); err != nil || got != want {
			t.Errorf("%v: %q, %v", value, got, err)
		}
	}
	for _, value := range []any{nil, 0.5, []any{"a"}, map[string]any{}, "", "a\x00", "a\u2028"} {
		if got, err := templateText(value); err == nil {
			t.Errorf("%v was filled in as %q", value, got)
		}
	}
}

// rule is a policy as the property test makes it up.
type rule struct {
	provider string
	claims   map[string][]any // values, and globbed, matching and containing
	limit    int              // condition: claims.n < limit; 0: none
}

// TestDecideAgreesWithNaive: the compiled set decides as somebody would who reads
// the files one after the other.
func TestDecideAgreesWithNaive(t *testing.T) {
	value := rapid.OneOf(rapid.Map(rapid.SampledFrom([]string{"a", "b", "1", "true", "a/b", "ab", "a-b/a"}), toAny), rapid.Map(rapid.Int64Range(0, 2), func(n int64) any { return n }), rapid.Map(rapid.Bool(), func(b bool) any { return b }))
	name := rapid.SampledFrom([]string{"who", "team", "n", "x"})
	provider := rapid.SampledFrom([]string{"oidc", "other"})
	rapid.Check(t, func(t *rapid.T) {
		policies := rapid.MapOfN(rapid.SampledFrom([]string{"p", "q", "r"}), rapid.SliceOfN(rapid.Custom(func(t *rapid.T) rule {
			return rule{
				provider: provider.Draw(t, "provider"),
				claims:   rapid.MapOfN(name, rapid.SliceOfNDistinct(rapid.OneOf(value, patterns(value)), 1, 3, rapid.ID[any]), 1, 3).Draw(t, "claims"),
				limit:    rapid.IntRange(0, 2).Draw(t, "limit"),
			}
		}), 1, 3), 1, 3).Draw(t, "policies")
		set, err := Load(t.Context(), Source{FS: render(policies)}, testConfig())
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			claims := map[string]any{}
			list := rapid.Map(rapid.SliceOfN(value, 0, 3), func(l []any) any { return l })
			maps.Copy(claims, rapid.MapOfN(name, rapid.OneOf(value, value, list), 0, 4).Draw(t, "token"))
			id := Identity{Provider: provider.Draw(t, "who"), Claims: claims}
			policy := rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "policy")
			index := rapid.IntRange(0, 3).Draw(t, "grant")
			got, err := set.Decide(id, Request{Grant: fmt.Sprintf("%s/g%d", policy, index)}, noon)
			want := naive(policies[policy], index, id)
			if (err == nil) != want || (err == nil && got.Job != fmt.Sprintf("j%d", index)) {
				t.Fatalf("%+v for %s/g%d: %v and %v, want %v", id, policy, index, got, err, want)
			}
		}
	})
}

func toAny(s string) any { return s }

func naive(rules []rule, index int, id Identity) bool {
	if index >= len(rules) || rules[index].provider != id.Provider {
		return false
	}
	r := rules[index]
	for name, values := range r.claims {
		if v, ok := id.Claims[name]; !ok || !slices.ContainsFunc(values, func(want any) bool { return naiveMatch(want, v) }) {
			return false
		}
	}
	if r.limit == 0 {
		return true
	}
	n, isInt := id.Claims["n"].(int64)
	return isInt && n < int64(r.limit)
}

func BenchmarkDecide(b *testing.B) {
	for _, count := range []int{10, 10_000} {
		texts := make([]string, count)
		for i := range texts {
			texts[i] = strings.Replace(two, "policy: pay", fmt.Sprintf("policy: pay%d", i), 1)
		}
		set := mustLoad(b, texts...)
		for _, grant := range []string{"db", "jwt"} {
			b.Run(fmt.Sprintf("%s/%d", grant, count), func(b *testing.B) {
				id, req := github(), Request{Grant: fmt.Sprintf("pay%d/%s", count/2, grant)}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := set.Decide(id, req, noon); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	texts := make([]string, 10_000)
	for i := range texts {
		texts[i] = strings.NewReplacer("policy: pay", fmt.Sprintf("policy: pay%d", i), "< 3", fmt.Sprintf("< %d", i%100+3)).Replace(two)
	}
	for b.Loop() {
		mustLoad(b, texts...)
	}
}

// TestDecideAtOnce is for the race detector: one set serves all requests.
func TestDecideAtOnce(t *testing.T) {
	set := mustLoad(t, two)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for _, attempt := range []string{"1", "3"} {
				_, err := set.Decide(github("run_attempt="+attempt), Request{Grant: "pay/jwt"}, noon)
				if (err == nil) != (attempt == "1") {
					t.Errorf("attempt %s: %v", attempt, err)
				}
			}
		})
	}
	group.Wait()
}
