package policies

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestPairs(t *testing.T) {
	if _, err := loadText(t, strings.Replace(minimal, `repository_id: "1"`, `repository: {name: acme/pay, id: "1"}`, 1)); err != nil {
		t.Fatal(err)
	}
	set := mustLoad(t, strings.Replace(minimal, `repository_id: "1"`, `repository: [{name: acme/pay, id: "1"}, {name: acme/web, id: "2"}], ref: refs/heads/main`, 1))
	for _, tc := range []struct {
		name, id, ref string
		allowed       bool
		conflicts     []Conflict
		claims        []string // of the denial
	}{
		{"acme/pay", "1", "main", true, nil, nil},
		{"acme/web", "2", "main", true, nil, nil},
		{"acme/new", "1", "main", false, []Conflict{{"j", "repository", false}}, []string{"repository"}}, // renamed
		{"acme/pay", "9", "main", false, []Conflict{{"j", "repository", true}}, nil},                     // taken over: a stranger
		{"acme/pay", "2", "main", false, []Conflict{{"j", "repository", true}}, []string{"repository"}},  // the name of one with the id of the other
		{"acme/new", "9", "main", false, nil, nil},
		{"acme/pay", "1", "x", false, nil, []string{"ref"}},
		{"", "1", "main", false, []Conflict{{"j", "repository", false}}, []string{"repository"}},
		{"acme/pay", "", "main", false, []Conflict{{"j", "repository", true}}, nil},
		{"", "", "main", false, nil, nil},
	} {
		id := github("repository="+tc.name, "repository_id="+tc.id, "ref=refs/heads/"+tc.ref)
		if tc.name == "" {
			delete(id.Claims, "repository")
		}
		if tc.id == "" {
			delete(id.Claims, "repository_id")
		}
		_, err := set.Decide(id, Request{Grant: "p/g"}, noon)
		var denial *Denial
		if errors.As(err, &denial) == tc.allowed {
			t.Errorf("%+v: %v", tc, err)
			continue
		}
		if denial != nil && (!reflect.DeepEqual(denial.Conflicts, tc.conflicts) || !reflect.DeepEqual(denial.Claims, tc.claims)) {
			t.Errorf("%+v: %+v", tc, denial)
		}
	}
}

func TestPairMistakes(t *testing.T) {
	for claims, want := range map[string]string{
		`repository: {name: a}`:                                "a pair has a name and an id",
		`repository: {id: "1"}`:                                "a pair has a name and an id",
		`repository: {name: a, id: 1}`:                         "a pair has a name and an id",
		`repository: {name: a, id: ""}`:                        "a pair has a name and an id",
		`repository: {name: a, id: "1", x: z}`:                 "a pair has a name and an id",
		`repository: [{name: a, id: "1"}, {name: a, id: "1"}]`: "stands in the list twice",
		`repository: {name: "a{{b}}", id: "1"}`:                "templates stand in",
	} {
		if _, err := loadText(t, strings.Replace(minimal, `repository_id: "1"`, claims, 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", claims, err)
		}
	}
	text := strings.NewReplacer("github", "oidc", `repository_id: "1"`, `team: {name: a, id: "1"}`).Replace(minimal)
	if _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), "which claim holds its id is not known") {
		t.Errorf("%v", err)
	}
}

func TestNestedClaims(t *testing.T) {
	text := strings.NewReplacer("github", "oidc", `repository_id: "1"`, `kubernetes.io: {namespace: [a, b], serviceaccount: {uid: u1, name: {glob: ci-*}}}`).Replace(minimal)
	set := mustLoad(t, text)
	account := func(namespace, uid, name any) map[string]any {
		return map[string]any{"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"uid": uid, "name": name}}}
	}
	for i, tc := range []struct {
		claims  map[string]any
		allowed bool
	}{
		{account("a", "u1", "ci-x"), true},
		{account("b", "u1", "ci-x"), true},
		{account("c", "u1", "ci-x"), false},
		{account("a", "u2", "ci-x"), false},
		{account("a", "u1", "x"), false},
		{account("a", nil, "ci-x"), false},
		{account([]any{"a"}, "u1", "ci-x"), false},
		{map[string]any{"kubernetes.io": map[string]any{"namespace": "a", "serviceaccount": "u1"}}, false},
		{map[string]any{"kubernetes.io": "a"}, false},
		{map[string]any{"kubernetes.io": []any{account("a", "u1", "ci-x")["kubernetes.io"]}}, false},
		{map[string]any{"kubernetes.io|namespace": "a", "namespace": "a"}, false},
		{nil, false},
	} {
		_, err := set.Decide(Identity{Provider: "oidc", Claims: tc.claims}, Request{Grant: "p/g"}, noon)
		if (err == nil) != tc.allowed {
			t.Errorf("%d %v: %v", i, tc.claims, err)
		}
	}
	_, err := set.Decide(Identity{Provider: "oidc"}, Request{Grant: "p/g"}, noon)
	var denial *Denial
	if !errors.As(err, &denial) || !strings.Contains(denial.Detail, "kubernetes.io.serviceaccount.uid") {
		t.Errorf("%+v", denial)
	}
	for _, claims := range []string{"team: {}", `team: {a: {}}`, `"a|b": x`} {
		if _, err := loadText(t, strings.NewReplacer("github", "oidc", `repository_id: "1"`, claims).Replace(minimal)); err == nil {
			t.Errorf("%s loads", claims)
		}
	}
}

// TestIndexedGrant: a grant of a thousand jobs decides as one of a few, and finds
// its jobs by their ids.
func TestIndexedGrant(t *testing.T) {
	var jobs strings.Builder
	const count = 1000
	for i := range count - 2 {
		fmt.Fprintf(&jobs, "  - {name: j%d, provider: github, claims: {repository_id: \"%d\", ref: refs/heads/main}}\n", i, i)
	}
	jobs.WriteString("  - {name: any, provider: github, claims: {repository_id: {glob: 77*}, ref: refs/heads/any}}\n")
	jobs.WriteString("  - {name: pair, provider: github, claims: {repository: {name: acme/pay, id: \"5000\"}, ref: refs/heads/main}}\n")
	text := "policy: p\nowner: o\nenvironment: test\njobs:\n" + jobs.String() + "grants: [{name: g, issuer: db, jobs: ["
	for i := range count - 2 {
		text += fmt.Sprintf("j%d, ", i)
	}
	set := mustLoad(t, text+"any, pair]}]\n")
	for _, tc := range []struct{ id, name, ref, job string }{
		{"0", "x", "main", "j0"}, {"997", "x", "main", "j997"}, {"7788", "x", "any", "any"}, {"77", "x", "any", "any"}, {"77", "x", "main", "j77"},
		{"5000", "acme/pay", "main", "pair"}, {"5000", "acme/other", "main", ""}, {"998", "x", "main", ""}, {"12", "x", "other", ""},
	} {
		got, err := set.Decide(github("repository_id="+tc.id, "repository="+tc.name, "ref=refs/heads/"+tc.ref), Request{Grant: "p/g"}, noon)
		if tc.job == "" && err == nil || tc.job != "" && (err != nil || got.Job != tc.job) {
			t.Errorf("%+v: %+v, %v", tc, got, err)
		}
	}
	id := github("repository_id=12")
	if n := len(set.grants["p/g"].candidates(&id)); n != 2 {
		t.Errorf("%d job entries are looked at", n)
	}
	var denial *Denial
	if _, err := set.Decide(github("repository_id=12", "ref=refs/heads/x"), Request{Grant: "p/g"}, noon); !errors.As(err, &denial) || !reflect.DeepEqual(denial.Claims, []string{"ref"}) || !strings.Contains(denial.Detail, "998 other job entries") {
		t.Errorf("%+v", denial)
	}
	if _, err := set.Decide(github("repository_id=9999", "repository=acme/pay"), Request{Grant: "p/g"}, noon); !errors.As(err, &denial) || !reflect.DeepEqual(denial.Conflicts, []Conflict{{"pair", "repository", true}}) {
		t.Errorf("%+v", denial)
	}
}
