package schema_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/schema"
)

var update = flag.Bool("update", false, "write the golden file")

func TestGolden(t *testing.T) {
	got, err := schema.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("policy.schema.json", got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("policy.schema.json is not what the schema is now (hint: go test ./policies/schema -update)")
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	data, err := schema.JSON()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("policy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := compiler.Compile("policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain reads YAML as editors do: YAML 1.2's core schema knows no dates.
func plain(t *testing.T, data []byte) any {
	t.Helper()
	var node yaml.Node
	if err := yaml.Unmarshal(data, &node); err != nil {
		t.Fatal(err)
	}
	var texts func(n *yaml.Node)
	texts = func(n *yaml.Node) {
		if n.Tag == "!!timestamp" {
			n.Tag = "!!str"
		}
		for _, below := range n.Content {
			texts(below)
		}
	}
	texts(&node)
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	written, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	read, err := jsonschema.UnmarshalJSON(bytes.NewReader(written))
	if err != nil {
		t.Fatal(err)
	}
	return read
}

const whole = `
policy: payments
owner: payments-team@example.com
description: Deploys of the payments service
environment: production
session: broad
jobs:
  - name: release
    provider: github
    claims:
      repository: {name: acme/payments, id: "123456789"}
      repository_owner_id: "987654"
      ref: [refs/heads/main, {glob: refs/tags/v*}, {regex: 'refs/heads/release-[0-9]+'}]
      environment: production
      check: true
      count: 3
      groups: {contains: deployers}
    condition: int(claims.run_attempt) <= 3
  - name: pod
    provider: cluster
    claims: {kubernetes.io: {namespace: payments, serviceaccount: {uid: [a, b]}}}
grants:
  - name: deploy-db
    jobs: [release]
    issuer: payments-db
    role: deployer
    ttl: 1h30m
    max_ttl: 1d
    max_active: 5
    max_active_per_job: 1
    redact: [{pattern: 'pay_live_[0-9a-z]{24}'}]
    env: {username: DB_USER}
  - name: sign-release
    jobs: [release, pod]
    issuer: release-jwt
    ttl: until job token expires
    with: {audience: https://sts.amazonaws.com, claims: {team: payments, share: 1.5, list: [1, {a: true}]}}
exceptions:
  - grant: deploy-db
    jobs: [{provider: github, claims: {repository_id: "123456789", ref: refs/heads/migrate-ledger}}]
    owner: payments-oncall@example.com
    reason: one-off ledger migration, CHG-4711
    until: 2026-12-01
tests:
  - name: main may deploy
    at: 2026-11-23T10:00:00Z
    ip: 203.0.113.7
    ttl: 10m
    job: {provider: github, claims: {ref: refs/heads/main, groups: [deployers], kubernetes.io: {namespace: payments}}}
    allow: [deploy-db]
    deny: [sign-release]
`

func TestAccepts(t *testing.T) {
	s := compiled(t)
	if err := s.Validate(plain(t, []byte(whole))); err != nil {
		t.Errorf("the whole one: %v", err)
	}
	if _, mistakes := document.Read("whole.yaml", []byte(whole)); len(mistakes) > 0 {
		t.Errorf("the whole one is no policy: %v", mistakes)
	}
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(plain(t, data)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestRejects(t *testing.T) {
	s := compiled(t)
	for _, tc := range []struct{ what, from, to string }{
		{"an unknown key", "policy: payments\n", "policy: payments\nownr: x\n"},
		{"a missing owner", "owner: payments-team@example.com\n", ""},
		{"a name with capitals", "policy: payments", "policy: Payments"},
		{"an unknown session", "session: broad", "session: wide"},
		{"a duration without unit", "max_ttl: 1d", "max_ttl: 90"},
		{"a duration backwards", "max_ttl: 1d", "max_ttl: 5m1h"},
		{"another ttl in words", "until job token expires", "until the end"},
		{"no leases at all", "max_active: 5", "max_active: 0"},
		{"an empty list of values", "uid: [a, b]", "uid: []"},
		{"a fraction as a claim", "count: 3", "count: 1.5"},
		{"two patterns in one", "{glob: refs/tags/v*}", "{glob: a*, regex: b}"},
		{"half a pair", `{name: acme/payments, id: "123456789"}`, "{name: acme/payments}"},
		{"an unknown key in a grant", "    role: deployer\n", "    role: deployer\n    rolle: x\n"},
		{"requires, which isn't enforced", "    role: deployer\n", "    role: deployer\n    requires: {approvals: 1}\n"},
		{"a lower-case variable", "DB_USER", "db_user"},
		{"a day in words", "until: 2026-12-01", "until: tomorrow"},
		{"no reason", "    reason: one-off ledger migration, CHG-4711\n", ""},
		{"a test without claims", "job: {provider: github, claims: {ref: refs/heads/main, groups: [deployers], kubernetes.io: {namespace: payments}}}", "job: {provider: github}"},
		{"a test that expects nothing", "    allow: [deploy-db]\n    deny: [sign-release]\n", ""},
	} {
		broken := strings.Replace(whole, tc.from, tc.to, 1)
		if broken == whole {
			t.Fatalf("%s: nothing is replaced", tc.what)
		}
		if s.Validate(plain(t, []byte(broken))) == nil {
			t.Errorf("%s is accepted", tc.what)
		}
	}
}

// Every key has a description, and every description a key.
func TestEveryKeyIsDescribed(t *testing.T) {
	data, err := schema.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(path string, node map[string]any)
	walk = func(path string, node map[string]any) {
		if items, ok := node["items"].(map[string]any); ok {
			walk(path, items)
		}
		properties, _ := node["properties"].(map[string]any)
		for name, below := range properties {
			seen++
			property := below.(map[string]any)
			if text, _ := property["description"].(string); text == "" {
				t.Errorf("%s.%s has no description", path, name)
			}
			walk(path+"."+name, property)
		}
	}
	walk("policy", root)
	if seen < 40 {
		t.Errorf("only %d keys seen", seen)
	}
}
