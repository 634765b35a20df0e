package catalogue

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestSamples: what the samples hold is what the catalogue says.
func TestSamples(t *testing.T) {
	samples := Samples()
	shapes := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		sample := samples[name]
		shapes[sample.Type]++
		p, ok := Lookup(sample.Type)
		if !ok || !strings.HasPrefix(name, sample.Type+"/") {
			t.Errorf("%s: type %q", name, sample.Type)
			continue
		}
		for claim, value := range sample.Claims {
			c, ok := p.Claim(claim)
			if !ok {
				if _, text := value.(string); !p.Knows(claim) || !p.Open && !text {
					t.Errorf("%s: claim %s isn't in the catalogue", name, claim)
				}
				continue
			}
			for _, why := range misfits(c, value) {
				t.Errorf("%s: %s", name, why)
			}
		}
		for _, c := range p.Claims {
			if value := sample.Claims[c.Name]; value == nil && !c.Optional {
				t.Errorf("%s: lacks %s, which is in every token", name, c.Name)
			}
		}
		if iss, _ := sample.Claims["iss"].(string); !strings.HasPrefix(iss, "https://") || strings.HasSuffix(iss, "/") {
			t.Errorf("%s: iss %q", name, iss)
		}
	}
	for _, typ := range Types() {
		if shapes[typ] < 2 {
			t.Errorf("%s: %d samples", typ, shapes[typ])
		}
	}
}

// misfits are the ways in which a value is not what the catalogue says of it.
func misfits(c *Claim, value any) []string {
	var found []string
	bad := func(format string, args ...any) {
		found = append(found, c.Name+": "+fmt.Sprintf(format, args...))
	}
	if list, ok := value.([]any); ok && c.Name == "aud" {
		if slices.ContainsFunc(list, func(item any) bool { _, text := item.(string); return !text }) {
			bad("%v", list)
		}
		return found
	}
	switch v := value.(type) {
	case nil:
		if !c.Optional {
			bad("null")
		}
	case string:
		if c.Kind != Text || c.Values != nil && !slices.Contains(c.Values, v) {
			bad("the text %q, kind %s, values %q", v, c.Kind, c.Values)
		}
	case int64:
		if c.Kind != Number {
			bad("a number, kind %s", c.Kind)
		}
	case bool:
		if c.Kind != Bool {
			bad("a truth value, kind %s", c.Kind)
		}
	case []any:
		for _, item := range v {
			switch item := item.(type) {
			case string:
				if c.Kind != List {
					bad("a list, kind %s", c.Kind)
				}
			case map[string]any:
				if c.Kind != Objects {
					bad("a list of objects, kind %s", c.Kind)
				}
				found = append(found, fieldMisfits(c, item)...)
			default:
				bad("a list that holds %T", item)
			}
		}
	case map[string]any:
		if c.Kind != Object {
			bad("an object, kind %s", c.Kind)
		}
		found = append(found, fieldMisfits(c, v)...)
	default:
		bad("a %T", v)
	}
	return found
}

func fieldMisfits(c *Claim, object map[string]any) []string {
	var found []string
	for _, field := range c.Fields {
		value, ok := object[field.Name]
		if !ok && !field.Optional {
			found = append(found, c.Name+" lacks "+field.Name)
		}
		if ok {
			found = append(found, misfits(&field, value)...)
		}
	}
	for name := range object {
		if c.Fields != nil && !slices.ContainsFunc(c.Fields, func(f Claim) bool { return f.Name == name }) {
			found = append(found, c.Name+": unknown field "+name)
		}
	}
	return found
}

// TestMisfitsAreFound: TestSamples can fail.
func TestMisfitsAreFound(t *testing.T) {
	p, _ := Lookup("gitlab")
	for claim, value := range map[string]any{
		"project_id": int64(20), "ref_protected": true, "ref_type": "banana", "runner_id": "1", "groups_direct": "a", "user_identities": []any{map[string]any{"provider": "x"}}, "sha": nil,
	} {
		if c, _ := p.Claim(claim); len(misfits(c, value)) == 0 {
			t.Errorf("%s may be %v", claim, value)
		}
	}
}

func TestSampleShapes(t *testing.T) {
	samples := Samples()
	for path, want := range map[[2]string]any{
		{"gitlab/branch", "runner_id"}:                                    int64(12270835),
		{"gitlab/branch", "exp"}:                                          int64(1764003600),
		{"gitlab/branch", "ref_protected"}:                                "true",
		{"gitlab/merge_request_from_fork", "ci_config_ref_uri"}:           nil,
		{"circleci/v1", "oidc.circleci.com/ssh-rerun"}:                    false,
		{"kubernetes/default-mount", "kubernetes.io|warnafter"}:           int64(1764003607),
		{"oidc/typical", "score"}:                                         0.5,
		{"oidc/typical", "project|id"}:                                    int64(7),
		{"buildkite/tag-without-key", "step_key"}:                         nil,
		{"github/environment", "sub"}:                                     "repo:octo-org/octo-repo:environment:Production%3AV1",
		{"kubernetes/pod-without-node", "kubernetes.io|node"}:             nil,
		{"kubernetes/pod-and-node", "kubernetes.io|node|name"}:            "worker-1",
		{"github/enterprise-properties", "repo_property_regions"}:         "us-east-1,eu-west-1",
		{"terraform/module-test", "terraform_workspace_id"}:               nil,
		{"azure/github-repository", "rpo_id"}:                             "octo-org/octo-repo",
		{"buildkite/cluster-subject", "agent_tag:queue"}:                  "runners",
		{"jenkins/default", "build_number"}:                               int64(123),
		{"jenkins/folder-with-templates", "release"}:                      true,
		{"bitbucket/tag", "branchName"}:                                   nil,
		{"circleci/custom-audience-fork", "oidc.circleci.com/vcs-origin"}: "github.com/stranger/widgets",
	} {
		if got := Value(samples[path[0]].Claims, path[1]); !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s: %#v, want %#v", path[0], path[1], got, want)
		}
	}
	changed := samples["github/push"].Claims
	changed["repository_id"] = "0"
	if Samples()["github/push"].Claims["repository_id"] != "74" {
		t.Error("the samples are shared")
	}
}

func TestSamplesSayWhereFrom(t *testing.T) {
	text, err := os.ReadFile("samples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range Types() {
		if !strings.Contains(string(text), "| `"+typ+".json` |") {
			t.Errorf("samples/README.md doesn't say where %s.json is from", typ)
		}
	}
}
