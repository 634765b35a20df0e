package catalogue

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestTypes(t *testing.T) {
	want := []string{"azure", "bitbucket", "buildkite", "circleci", "github", "gitlab", "jenkins", "kubernetes", "oidc", "spiffe", "terraform"}
	if got := Types(); !slices.Equal(got, want) {
		t.Fatalf("types %q", got)
	}
	for _, typ := range want {
		p, ok := Lookup(typ)
		if again, _ := Lookup(typ); !ok || p.Type != typ || again != p {
			t.Errorf("%s: %v, %+v", typ, ok, p)
		}
	}
	if p, ok := Lookup("github "); ok || p != nil {
		t.Errorf("found %+v", p)
	}
	Types()[0] = "changed"
	if Types()[0] != "azure" {
		t.Error("the list of types is shared")
	}
}

// TestEntries: what one part of an entry says of another is true.
func TestEntries(t *testing.T) {
	for _, typ := range Types() {
		p, _ := Lookup(typ)
		if p.Title == "" || p.Docs == "" || p.Lifetime == "" || len(p.Issuers) == 0 {
			t.Errorf("%s: title, docs, lifetime or issuers are missing", typ)
		}
		for _, path := range p.paths() {
			c, _ := p.Claim(path)
			checkClaim(t, p, path, c)
		}
		for _, path := range p.Tenant {
			if c, ok := p.Claim(path); !ok || c.Nature != ID {
				t.Errorf("%s: tenant %s is no id", typ, path)
			}
		}
		for _, path := range p.JobKey {
			if c, ok := p.Claim(path); !ok || c.Kind != Text {
				t.Errorf("%s: job key %s is no text", typ, path)
			}
		}
		for _, issuer := range p.SharedIssuers {
			if !slices.Contains(p.Issuers, issuer) {
				t.Errorf("%s: shared issuer %s isn't one of its issuers", typ, issuer)
			}
		}
		if c, _ := p.Claim("jti"); p.HasJTI == c.Optional {
			t.Errorf("%s: HasJTI %v, and jti optional %v", typ, p.HasJTI, c.Optional)
		}
	}
}

func checkClaim(t *testing.T, p *Provider, path string, c *Claim) {
	t.Helper()
	if c.Doc == "" || strings.ContainsAny(c.Doc, "\n|") {
		t.Errorf("%s %s: doc %q", p.Type, path, c.Doc)
	}
	if !slices.Contains([]Kind{Text, Number, Bool, List, Object, Objects}, c.Kind) || !slices.Contains([]Nature{ID, Name, Free, Fact}, c.Nature) {
		t.Errorf("%s %s: kind %q, nature %q", p.Type, path, c.Kind, c.Nature)
	}
	if c.ID != "" {
		if id, ok := p.Claim(c.ID); !ok || id.Nature != ID || c.Nature != Name {
			t.Errorf("%s %s: its id %s is none, or it no name", p.Type, path, c.ID)
		}
	}
	if c.Values != nil && c.Kind != Text {
		t.Errorf("%s %s: values of a %s", p.Type, path, c.Kind)
	}
	if c.Fields != nil && c.Kind != Object && c.Kind != Objects {
		t.Errorf("%s %s: fields of a %s", p.Type, path, c.Kind)
	}
	names := map[string]bool{}
	for _, field := range c.Fields {
		if names[field.Name] || strings.Contains(field.Name, "|") {
			t.Errorf("%s %s: field %s", p.Type, path, field.Name)
		}
		names[field.Name] = true
	}
}

func TestNamesStandOnce(t *testing.T) {
	for _, typ := range Types() {
		p, _ := Lookup(typ)
		names := map[string]bool{}
		for _, c := range p.Claims {
			if names[c.Name] || strings.Contains(c.Name, "|") {
				t.Errorf("%s: %s stands twice, or holds a |", typ, c.Name)
			}
			names[c.Name] = true
		}
		for _, c := range registered() {
			if !names[c.Name] {
				t.Errorf("%s has no %s", typ, c.Name)
			}
		}
	}
}

func TestPairs(t *testing.T) {
	for _, want := range [][3]string{
		{"github", "repository", "repository_id"},
		{"github", "repository_owner", "repository_owner_id"},
		{"github", "actor", "actor_id"},
		{"github", "enterprise", "enterprise_id"},
		{"gitlab", "project_path", "project_id"},
		{"gitlab", "namespace_path", "namespace_id"},
		{"gitlab", "user_login", "user_id"},
		{"gitlab", "job_project_path", "job_project_id"},
		{"buildkite", "organization_slug", "organization_id"},
		{"buildkite", "pipeline_slug", "pipeline_id"},
		{"terraform", "terraform_organization_name", "terraform_organization_id"},
		{"terraform", "terraform_workspace_name", "terraform_workspace_id"},
		{"azure", "rpo_uri", "rpo_id"},
		{"kubernetes", "sub", "kubernetes.io|serviceaccount|uid"},
		{"kubernetes", "kubernetes.io|pod|name", "kubernetes.io|pod|uid"},
	} {
		p, _ := Lookup(want[0])
		if c, ok := p.Claim(want[1]); !ok || c.Nature != Name || c.ID != want[2] {
			t.Errorf("%s %s: %+v, want the id %s", want[0], want[1], c, want[2])
		}
	}
}

func TestClaimOutsideTheCatalogue(t *testing.T) {
	own := &Provider{Claims: []Claim{{Name: "a", Kind: Object, Fields: []Claim{{Name: "b"}}}}, Prefixes: []string{"x_"}}
	for path, want := range map[string]bool{"a": true, "a|b": true, "a|c": false, "b": false, "": false} {
		if c, ok := own.Claim(path); ok != want || ok && c.Name != path[len(path)-1:] {
			t.Errorf("%q: %v, %+v", path, ok, c)
		}
	}
	for path, want := range map[string]bool{"a|b": true, "x_y": true, "x_": false, "y": false} {
		if own.Knows(path) != want {
			t.Errorf("%q: known %v", path, !want)
		}
	}
	own.Open = true
	if !own.Knows("y") {
		t.Error("open, and y isn't known")
	}
}

func TestSuggest(t *testing.T) {
	for _, c := range [][3]string{
		{"github", "repositry_id", "repository_id"},
		{"github", "Repository_ID", "repository_id"},
		{"github", "enviroment", "environment"},
		{"github", "job_workflow_reff", "job_workflow_ref"},
		{"github", "zzzzzz", ""},
		{"github", "", ""},
		{"gitlab", "refprotected", "ref_protected"},
		{"bitbucket", "repositoryuuid", "repositoryUuid"},
		{"circleci", "project-id", "oidc.circleci.com/project-id"},
		{"kubernetes", "namespace", "kubernetes.io|namespace"},
		{"kubernetes", "serviceaccount|uid", "kubernetes.io|serviceaccount|uid"},
		{"kubernetes", "kubernetes.io|serviceacount|uid", "kubernetes.io|serviceaccount|uid"},
	} {
		p, _ := Lookup(c[0])
		if got := p.Suggest(c[1]); got != c[2] {
			t.Errorf("%s %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
	p, _ := Lookup("github")
	if got := p.Suggest(strings.Repeat("repository", 10000)); got != "" {
		t.Errorf("a long name: %q", got)
	}
}

// TestJob: the keys of the samples, and which of them are of one job.
func TestJob(t *testing.T) {
	want := map[string]string{
		"azure/pipeline":                            `org_id="0f5b4f4c-8f1e-4d7a-9c57-2f3f6a1d9e10" run_id="1817"`,
		"azure/entra":                               "",
		"bitbucket/deployment":                      `stepUuid="{d5ff2daf-063f-4c13-82fc-cb51af94c2cc}"`,
		"buildkite/default":                         `job_id="0184990a-477b-4fa8-9968-496074483cee"`,
		"circleci/v2":                               `oidc.circleci.com/job-id="1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9"`,
		"github/push":                               `repository_id="74" run_id="30433642" run_attempt="1" check_run_id="35200000001"`,
		"github/enterprise-server":                  "",
		"gitlab/branch":                             `project_id="20" job_id="302"`,
		"gitlab/merge_request_from_fork":            `project_id="31" job_id="305"`,
		"jenkins/default":                           "",
		"kubernetes/pod-without-node":               `kubernetes.io|pod|uid="0d8b260e-ef0e-45fb-be8e-ff44f97722e8"`,
		"kubernetes/secret":                         "",
		"oidc/typical":                              "",
		"spiffe/spire":                              "",
		"terraform/plan":                            `terraform_run_id="run-X3n1AUXNGWbfECsJ" terraform_run_phase="plan"`,
		"terraform/apply":                           `terraform_run_id="run-X3n1AUXNGWbfECsJ" terraform_run_phase="apply"`,
		"terraform/stack":                           "",
		"circleci/custom-webhook-documented-claims": "",
	}
	samples := Samples()
	for name, key := range want {
		p, _ := Lookup(samples[name].Type)
		if got := p.Job(samples[name].Claims); got != key {
			t.Errorf("%s: %s, want %s", name, got, key)
		}
	}
}

// TestJobWithoutKey: where nothing names a job, no two tokens are of one.
func TestJobWithoutKey(t *testing.T) {
	for _, p := range []*Provider{{}, {JobKey: []string{}}} {
		if got := p.Job(map[string]any{"": "x", "sub": "x"}); got != "" {
			t.Errorf("key %q", got)
		}
	}
	p := &Provider{JobKey: []string{"a", "b"}}
	for _, claims := range []map[string]any{nil, {}, {"a": "1"}, {"a": "1", "b": ""}, {"a": "1", "b": nil}, {"a": "1", "b": true}, {"a": "1", "b": []any{"2"}}, {"a": "1", "b": 1.5}} {
		if got := p.Job(claims); got != "" {
			t.Errorf("%v: key %q", claims, got)
		}
	}
}

// TestKeysAreApart: no value passes for two, or for the beginning of another.
func TestKeysAreApart(t *testing.T) {
	p := &Provider{JobKey: []string{"a", "b"}, Tenant: []string{"a"}}
	seen := map[string][2]string{}
	values := []string{"1", `1"`, `"1`, `1" b="2`, "1 b=2", `1\`, `1\"`, "1 ", " 1", "1|2", "|", "a", "1\n", "1\x00", "ä", "a\u0308", "\xff", `\xff`, "\u202e1"}
	for _, a := range values {
		for _, b := range values {
			key := p.Job(map[string]any{"a": a, "b": b})
			if other, ok := seen[key]; ok || key == "" {
				t.Errorf("%q and %q: key %q, as %q", a, b, key, other)
			}
			seen[key] = [2]string{a, b}
		}
	}
	if got := p.Job(map[string]any{"a": `1" b="2`, "b": "x|y z"}); got != `a="1\" b=\"2" b="x|y z"` {
		t.Errorf("key %s", got)
	}
	if got := p.Job(map[string]any{"a": int64(9007199254740993), "b": json.Number("7")}); got != `a="9007199254740993" b="7"` {
		t.Errorf("key of numbers %s", got)
	}
}

// TestWhose: the widest id that the token has.
func TestWhose(t *testing.T) {
	samples := Samples()
	for name, want := range map[string]string{
		"azure/pipeline":                            `org_id="0f5b4f4c-8f1e-4d7a-9c57-2f3f6a1d9e10"`,
		"azure/entra":                               `tid="975f013f-7f24-47e8-a7d3-abc4752bf346"`,
		"bitbucket/branch":                          `workspaceUuid="{e2b9cba7-4ecf-452c-bb1c-87add4084c99}"`,
		"buildkite/default":                         "",
		"buildkite/with-ids":                        `organization_id="f892efa9-103e-4d28-97a1-3b8616a0994d"`,
		"circleci/v1":                               `oidc.circleci.com/org-id="c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e"`,
		"github/push":                               `repository_owner_id="65"`,
		"github/enterprise-properties":              `enterprise_id="2"`,
		"gitlab/merge_request_from_fork":            `namespace_id="90"`,
		"jenkins/default":                           "",
		"kubernetes/secret":                         `kubernetes.io|serviceaccount|uid="e6a8680e-d103-4cce-80ea-03acbbeacf7d"`,
		"oidc/minimal":                              "",
		"spiffe/minimal":                            `sub="spiffe://example.org/build/\"nightly\" | main"`,
		"terraform/module-test":                     `terraform_organization_id="org-GRNbCjYNpBB6NEH9"`,
		"circleci/custom-webhook-documented-claims": `oidc.circleci.com/project-id="3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c"`,
	} {
		p, _ := Lookup(samples[name].Type)
		if got := p.Whose(samples[name].Claims); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestValue(t *testing.T) {
	claims := map[string]any{"a": map[string]any{"b": "c"}, "d": "e"}
	for path, want := range map[string]any{"a|b": "c", "d": "e", "d|e": nil, "a|b|c": nil, "x": nil, "": nil, "|": nil} {
		if got := Value(claims, path); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
}

// TestLookupsAllocateNothing: they stand in the path of every request.
func TestLookupsAllocateNothing(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		p, _ := Lookup("kubernetes")
		if _, ok := p.Claim("kubernetes.io|serviceaccount|uid"); !ok {
			t.Error("not found")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJob(b *testing.B) {
	sample := Samples()["github/push"]
	for b.Loop() {
		p, _ := Lookup("github")
		if p.Job(sample.Claims) == "" {
			b.Fatal("no key")
		}
	}
}

// FuzzKey: two tokens have one key only when their values are the same.
func FuzzKey(f *testing.F) {
	f.Add("1", `2" b="3`, `1" b="2`, "3")
	f.Add("a", "", "", "a")
	p := &Provider{JobKey: []string{"a", "b"}}
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		first, second := map[string]any{"a": a, "b": b}, map[string]any{"a": c, "b": d}
		one, two := p.Job(first), p.Job(second)
		if one != "" && (one == two) != maps.Equal(first, second) {
			t.Errorf("%v %s, %v %s", first, one, second, two)
		}
	})
}
