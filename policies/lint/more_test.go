package lint_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/lint"
)

var update = flag.Bool("update", false, "write docs/lint.md anew")

// TestEveryRuleOfTheList: each id is looked for, or it is said why it isn't.
func TestEveryRuleOfTheList(t *testing.T) {
	families := map[string]int{"GEN": 21, "GH": 18, "GL": 10, "BK": 3, "CC": 3, "BB": 2, "JK": 2, "AD": 3, "TF": 2, "K8": 2, "WVR": 4}
	var want []string
	for family, count := range families {
		for n := range count {
			want = append(want, fmt.Sprintf("%s-%03d", family, n+1))
		}
	}
	var got []string
	for _, rule := range lint.Rules() {
		got = append(got, rule.ID)
		if found, ok := lint.Lookup(rule.ID); !ok || found.Title != rule.Title {
			t.Errorf("%s isn't found", rule.ID)
		}
	}
	for _, rule := range lint.NotChecked() {
		got = append(got, rule.ID)
		if _, ok := lint.Lookup(rule.ID); ok || rule.Why == "" {
			t.Errorf("%s is looked for, or nothing says why not", rule.ID)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("rules are %q, want %q", got, want)
	}
}

// job is a policy with one job entry, whose claims are written in one line.
func job(environment, provider, claims string) string {
	return "policy: p\nowner: o\nenvironment: " + environment + "\njobs: [{name: j, provider: " + provider + ", claims: {" + claims + "}}]\ngrants: [{name: g, issuer: i}]\n"
}

// TestSeverities: what the examples of the rules don't show.
func TestSeverities(t *testing.T) {
	const (
		push     = `repository_id: "1", event_name: push`
		deploy   = push + `, ref: refs/heads/main, runner_environment: github-hosted`
		deployer = `repository_id: "1", ref: refs/heads/main, runner_environment: github-hosted`
		gitlab   = `project_id: "1", pipeline_source: push`
		circle   = `oidc.circleci.com/vcs-origin: github.com/a/b, oidc.circleci.com/ssh-rerun: false`
		buildIDs = `organization_id: o, pipeline_id: p`
	)
	for _, tc := range []struct{ environment, provider, claims, want string }{
		{"test", "github", push, ""},
		{"production", "github", deploy, ""},
		{"test", "unknown", "x: 1", ""},
		{"test", "github", `sub: "repo:acme@65/pay@123:ref:refs/heads/main", event_name: push`, "GH-002 warning"},
		{"test", "github", `sub: ["repo:acme@65/pay@123:ref:refs/heads/main", "repo:acme/pay:ref:refs/heads/main"], event_name: push`, "GH-001 error, GH-017 warning"},
		{"test", "github", `sub: {glob: "repo:acme@65/*:ref:refs/heads/main"}, event_name: push`, "GH-002 warning"},
		{"test", "github", `repository_id: {glob: 1*}, event_name: push`, "GH-001 error"},
		{"test", "github", `repository_id: {regex: "1|2"}, event_name: push`, ""},
		{"test", "github", `repository_id: {regex: "12?|[0-9]{3}"}, event_name: push`, "GH-001 error"},
		{"test", "github", `repository: [{name: a/b, id: "1"}, a/c], event_name: push`, "GH-001 error"},
		{"test", "github", `repository: [{name: a/b, id: "1"}, {name: a/c, id: "2"}], event_name: push`, ""},
		{"test", "github", `repository: {name: a/b, id: "1"}, repository_id: {glob: 1*}, event_name: push`, ""},
		{"test", "github", `enterprise_id: "1", event_name: push`, "GH-001 error, GH-016 warning"},
		{"test", "github", `repository_owner: acme, repository_id: "1", event_name: push`, ""},
		{"test", "github", push + `, repository: {glob: acme*}`, "GEN-004 error"},
		{"test", "github", push + `, repository_owner: {glob: acme*}`, "GEN-004 error"},
		{"test", "github", `repository_owner_id: "1", event_name: push, repository: {glob: acme/*}`, "GEN-003 warning"},
		{"test", "github", push + `, workflow_ref: {glob: "acme/*/deploy.yml@refs/heads/main"}`, "GH-007 warning"},
		{"test", "github", push + `, job_workflow_ref: {glob: "**/deploy.yml@refs/heads/main"}`, "GEN-004 error, GH-007 warning"},
		{"test", "oidc", `sub: {glob: "*"}`, "GEN-004 error"},
		{"test", "oidc", `sub: {regex: "repo:(acme|umbrella)/.+"}`, "GEN-004 error"},
		{"test", "oidc", `sub: {regex: "repo:(acme|umbrella)/pay:.+"}`, ""},
		{"test", "spiffe", `sub: {glob: "spiffe://example.org*"}`, "GEN-004 error"},
		{"test", "spiffe", `sub: {glob: "spiffe://example.org/ns/*"}`, ""},
		{"test", "azure", `rpo_uri: "https://dev.azure.com/acme/pay"`, "GEN-003 error"},
		{"test", "azure", `prj_id: x, rpo_uri: "https://dev.azure.com/acme/pay"`, "GEN-003 warning"},
		{"test", "azure", `sub: /eid1/c/pub/t/x/a/y/sc/1/2`, "GEN-008 warning"},
		{"test", "github", push + `, ref: {regex: "refs/heads/v1.2"}`, "GEN-006 warning"},
		{"test", "github", push + `, runner_environment: {contains: github-hosted}`, "GEN-009 error"},
		{"test", "gitlab", gitlab + `, runner_id: "1"`, "GEN-009 error"},
		{"test", "gitlab", gitlab + `, runner_id: 1`, ""},
		{"test", "gitlab", gitlab + `, user_id: "7", groups_direct: a`, "GEN-009 error"},
		{"test", "gitlab", gitlab + `, user_id: "7", groups_direct: {contains: a}`, ""},
		{"test", "gitlab", gitlab + `, user_id: "7", groups_direct: {glob: a*}`, "GEN-009 error"},
		{"test", "circleci", `oidc.circleci.com/project-id: x, oidc.circleci.com/vcs-origin: github.com/a/b, oidc.circleci.com/ssh-rerun: "false"`, "CC-003 warning, GEN-009 error"},
		{"test", "kubernetes", `kubernetes.io: deployer`, "GEN-009 error, K8-002 warning"},
		{"test", "kubernetes", `kubernetes.io: {namespce: a, serviceaccount: {uid: u}}`, "GEN-010 error"},
		{"test", "kubernetes", `kubernetes.io: {namespace: {glob: a*}, serviceaccount: {uid: u}}`, "K8-002 warning"},
		{"test", "github", push + `, repo_property_any: x`, ""},
		{"test", "github", push + `, rеpository: x`, "GEN-010 error"},
		{"test", "github", `repository_id: "1"`, "GH-004 warning"},
		{"test", "github", `repository_id: "1", ref: refs/heads/release`, ""},
		{"test", "github", `repository_id: "1", event_name: [push, issue_comment]`, "GH-004 warning"},
		{"production", "github", deploy + `, event_name: {glob: pull_*}`, ""}, // the key twice: refused below
		{"production", "github", deployer + `, event_name: {glob: "pull_*"}`, "GH-004 error"},
		{"production", "github", deployer + `, environment: production`, "GH-004 warning, GH-010 info"},
		{"production", "github", `repository_id: "1", ref: [refs/heads/a, refs/tags/v1], runner_environment: github-hosted`, "GH-004 warning"},
		{"production", "github", `repository_id: "1", ref: {glob: refs/tags/v*}, ref_protected: "true", runner_environment: github-hosted`, "GH-004 warning"},
		{"production", "github", `repository_id: "1", ref: {glob: refs/heads/*}, runner_environment: github-hosted`, "GH-004 error"},
		{"production", "github", `repository_id: "1", ref: refs/heads/main, ref_type: tag, runner_environment: github-hosted`, "GH-004 warning"},
		{"test", "github", push + `, sub: {glob: "repo:acme/pay:*"}`, "GH-005 warning"},
		{"test", "github", push + `, sub: {regex: "repo:acme/pay:.*"}`, "GH-005 warning"},
		{"test", "github", push + `, sub: "repo:acme/pay:environment:prod:job_workflow_ref:a/b"`, "GH-002 warning"},
		{"test", "github", push + `, sub: "repository_owner_id:65:ref:refs/heads/main"`, "GEN-008 warning"},
		{"test", "github", push + `, ref: {glob: refs/**}`, "GH-011 error"},
		{"test", "github", push + `, ref: {glob: "**/main"}`, "GH-011 error"},
		{"test", "github", push + `, ref: {regex: "refs/(heads|tags)/v.*"}, ref_protected: "true"`, ""},
		{"test", "github", push + `, ref: [refs/heads/main, {glob: refs/tags/v*}]`, "GH-012 warning"},
		{"production", "github", push + `, ref: refs/heads/main, runner_environment: [github-hosted, self-hosted]`, "GH-013 warning"},
		{"test", "github", push + `, repo_property_x: {contains: prod}`, "GH-015 error"},
		{"test", "github", push + `, repo_property_x: {regex: "(.*,)?prod"}`, ""},
		{"test", "github", push + `, repo_property_x: {regex: ".*prod"}`, "GH-015 error"},
		{"test", "github", push + `, repository_visibility: public`, ""},
		{"test", "gitlab", `ref_path: refs/heads/main, pipeline_source: push`, "GL-001 error"},
		{"test", "gitlab", `project_id: "1", pipeline_source: [push, merge_request_event]`, "GL-005 warning"},
		{"test", "gitlab", `project_id: "1", job_project_id: "1"`, ""},
		{"test", "gitlab", gitlab + `, namespace_path: {glob: acme/*}`, ""},
		{"production", "gitlab", gitlab + `, ref: main, ref_type: branch, environment_protected: "true", ci_config_sha: x`, ""},
		{"production", "gitlab", gitlab + `, ref: main, ref_type: branch, ref_protected: ["true", "false"], ci_config_sha: x`, "GL-003 error"},
		{"test", "buildkite", `organization_id: o`, "BK-001 warning"},
		{"test", "buildkite", `organization_id: o, pipeline_slug: p`, "GEN-003 warning"},
		{"test", "buildkite", `build_branch: main, build_source: schedule`, "GEN-002 error"},
		{"production", "buildkite", buildIDs, "GEN-018 error"},
		{"test", "circleci", circle + `, sub: {glob: "org/1/project/*"}`, "CC-001 warning"},
		{"test", "circleci", `sub: {glob: "org/1/project/2/user/*/vcs-origin/github.com/a/b/vcs-ref/*"}, oidc.circleci.com/ssh-rerun: false`, "GEN-008 warning"},
		{"test", "terraform", `terraform_run_phase: apply`, "GEN-002 error"},
		{"test", "terraform", `terraform_organization_id: o, terraform_workspace_name: w`, "GEN-003 warning, TF-001 error"},
		{"test", "terraform", `terraform_organization_id: o, terraform_project_id: p`, ""},
		{"production", "terraform", `terraform_organization_id: o, terraform_workspace_id: w, terraform_run_phase: [plan, apply]`, ""},
		{"production", "oidc", `sub: x`, ""},
	} {
		f, mistakes := document.Read("a.yaml", []byte(job(tc.environment, tc.provider, tc.claims)))
		if len(mistakes) > 0 {
			if tc.want != "" {
				t.Errorf("%s: %v", tc.claims, mistakes)
			}
			continue
		}
		got := rules(checkAll([]*document.File{f}, lint.Context{Providers: server(), Now: noon, Conditions: conditions(t)}))
		if got != tc.want {
			t.Errorf("%s, %s: %s\n got %s\nwant %s", tc.environment, tc.provider, tc.claims, got, tc.want)
		}
	}
}

// rules are the ids and severities of findings, each once.
func rules(findings []lint.Finding) string {
	set := make(map[string]bool)
	for _, f := range findings {
		set[f.Rule+" "+string(f.Severity)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}

// TestConditionsPin: a claim that a condition speaks of counts as pinned, and is
// one that the provider has to know.
func TestConditionsPin(t *testing.T) {
	for condition, want := range map[string]string{
		`claims.repository_id == "1"`:                                            "GH-004 error, GH-013 warning",
		`claims.repository_id == "1" && claims.event_name == "push"`:             "GH-013 warning",
		`claims.repository_id == "1" && claims.ref != "x"`:                       "GH-004 error, GH-013 warning", // claims say main
		`claims.repositry_id == "1"`:                                             "GEN-010 error, GH-001 error, GH-004 error, GH-013 warning",
		`claims.repository_id == "1" && claims.workflow == "x"`:                  "GH-004 error, GH-008 error, GH-013 warning",
		`claims.repository_id == "1" && claims.actor == "x"`:                     "GH-004 error, GH-009 warning, GH-013 warning",
		`claims.repository_id == "1" && claims.environment == "x"`:               "GH-004 warning, GH-013 warning",
		`claims.repository_id == "1" && claims.runner_environment == ""`:         "GH-004 error",
		`claims.repository_id == "1" && claims.repo_property_a.contains("prod")`: "GH-004 error, GH-013 warning, GH-015 error",
	} {
		text := strings.Replace(job("production", "github", "repository: a/b, ref: refs/heads/main"), "name: j,", "name: j, condition: '"+condition+"',", 1)
		got := rules(slices.DeleteFunc(check(t, text), func(f lint.Finding) bool { return f.Rule == "GEN-003" }))
		if got != want {
			t.Errorf("%s: %s, want %s", condition, got, want)
		}
	}
}

// TestWithoutConfiguration: a provider whose name is a type is taken to be of it.
func TestWithoutConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		job("test", "github", "ref: main"):                         "GEN-002 error, GH-004 warning, GH-011 error",
		job("test", "hub", "ref: main"):                            "",
		job("test", "gitlab", "ref_path: refs/heads/main"):         "GEN-002 error, GL-005 warning",
		job("test", "circleci", "oidc.circleci.com/vcs-ref: x"):    "CC-001 warning, CC-002 error, CC-003 warning",
		job("test", "terraform", "terraform_run_phase: [\"x\"]"):   "GEN-002 error, GEN-010 error",
		job("test", "bitbucket", "branchName: main"):               "BB-002 error",
		job("test", "github", "repository_id: '1', enterprise: a"): "GH-004 warning",
	} {
		if got := rules(checkAll(read(t, text), lint.Context{})); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	ctx := lint.Context{Providers: map[string]lint.Provider{
		"bb": {Type: "bitbucket", Audience: "ari:cloud:bitbucket::workspace/1"},
		"gh": {Type: "github", Issuer: "https://token.actions.githubusercontent.com/acme"},
		"ge": {Type: "github", Issuer: "https://github.example.com/_services/token"},
	}}
	for text, want := range map[string]string{
		job("test", "bb", "branchName: main"):                                           "",
		job("test", "gh", "event_name: push"):                                           "GH-001 error", // its own issuer, so not GEN-002
		job("test", "ge", "event_name: push"):                                           "GH-001 error",
		job("test", "gh", `repository_id: "1", event_name: push, enterprise: acme`):     "",
		job("test", "gh", `repository_id: "1", event_name: push, enterprise: umbrella`): "GH-016 warning",
		job("test", "github", "event_name: push"):                                       "", // no provider of that name: the loader says so
	} {
		if got := rules(checkAll(read(t, text), ctx)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestWaivers(t *testing.T) {
	const claims = "repository_id: \"1\"\nevent_name: push\n"
	entry := func(before, first, actor string) string {
		return "policy: p\nowner: o\nenvironment: test\njobs:\n" + before + "  - name: j" + first + "\n    provider: github\n    claims:\n      repository_id: \"1\"\n      event_name: push\n" + actor + "grants: [{name: g, issuer: i}]\n"
	}
	const actor, good = "      actor: a\n", "lint:allow GH-009 until=2027-01-31 reason=ours"
	for _, tc := range []struct{ name, text, want string }{
		{"none", entry("", "", actor), "GH-009 warning"},
		{"in the line", entry("", "", "      actor: a # "+good+"\n"), ""},
		{"above it", entry("", "", "      # "+good+"\n"+actor), ""},
		{"above it, over a comment and an empty line", entry("", "", "      # "+good+"\n      # it is\n\n"+actor), ""},
		{"two above it", entry("", "", "      # "+good+"\n      # lint:allow GH-001 until=2027-01-31 reason=x\n"+actor), "WVR-003 warning"},
		{"behind it", entry("", "", actor+"      # "+good+"\n"), "GH-009 warning, WVR-003 warning"},
		{"for the entry, above it", entry("  # "+good+"\n", "", actor), ""},
		{"for the entry, in its first line", entry("", " # "+good, actor), ""},
		{"another rule", entry("", "", "      actor: a # lint:allow GH-001 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-003 warning"},
		{"in a text", entry("", "", "      actor: 'a # "+good+"'\n"), "GH-009 warning"},
		{"no reason", entry("", "", "      actor: a # lint:allow GH-009 until=2027-01-31\n"), "GH-009 warning, WVR-001 error"},
		{"an empty reason", entry("", "", "      actor: a # lint:allow GH-009 until=2027-01-31 reason= \n"), "GH-009 warning, WVR-001 error"},
		{"no end", entry("", "", "      actor: a # lint:allow GH-009 reason=until=2027-01-31\n"), "GH-009 warning, WVR-001 error"},
		{"no day", entry("", "", "      actor: a # lint:allow GH-009 until=2027-02-30 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"no rule", entry("", "", "      actor: a # lint:allow until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"an unknown rule", entry("", "", "      actor: a # lint:allow GH-999 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"one that isn't looked for", entry("", "", "      actor: a # lint:allow GEN-019 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"one of the loader", entry("", "", "      actor: a # lint:allow GEN-005 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"one of the configuration", entry("", "", "      actor: a # lint:allow GEN-001 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"one of waivers", entry("", "", "      actor: a # lint:allow WVR-002 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"too many words", entry("", "", "      actor: a # lint:allow GH-009 GH-001 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"run together", entry("", "", "      actor: a # lint:allowGH-009 until=2027-01-31 reason=x\n"), "GH-009 warning, WVR-001 error"},
		{"ended today", entry("", "", "      actor: a # lint:allow GH-009 until=2026-11-23 reason=x\n"), "GH-009 warning, WVR-002 error"},
		{"ends tomorrow", entry("", "", "      actor: a # lint:allow GH-009 until=2026-11-24 reason=x\n"), "WVR-004 warning"},
		{"one ended, one not", entry("", "", "      # lint:allow GH-009 until=2026-11-01 reason=x\n      # "+good+"\n"+actor), "WVR-002 error"},
		{"an error", strings.Replace(entry("", "", "      # lint:allow GH-008 until=2027-01-31 reason=x\n      workflow: a\n"), claims, "", 1), ""},
		{"of an exception", entry("", "", "") + "exceptions:\n  # lint:allow GH-009 until=2027-01-31 reason=x\n  - grant: g\n    jobs:\n      - {provider: github, claims: {repository_id: \"2\", event_name: push, actor: a}}\n    owner: o\n    reason: r\n    until: 2027-01-01\n", ""},
	} {
		if got := rules(check(t, tc.text)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	// Without a clock none has ended.
	if got := rules(checkAll(read(t, entry("", "", "      actor: a # lint:allow GH-009 until=2026-11-23 reason=x\n")), lint.Context{Providers: server()})); got != "" {
		t.Errorf("without a clock: %s", got)
	}
}

// TestTestsAndTemplates: claims are known in a policy's tests and templates too.
func TestTestsAndTemplates(t *testing.T) {
	text := `policy: p
owner: o
environment: test
jobs:
  - {name: a, provider: github, claims: {repository_id: "1", event_name: push}}
  - {name: b, provider: oidc, claims: {sub: x}}
grants:
  - {name: g, jobs: [a, b], issuer: i, with: {x: ["{{ claims.shaa }}", {z: "{{claims.ref}}-{{ claims.no }}"}]}}
  - {name: h, jobs: [b], issuer: i, with: {x: "{{ claims.anything }}"}}
tests:
  - name: t
    job: {provider: github, claims: {repository_id: 1, reff: x, ref_type: twig, aud: [a, b], run_id: ["1"]}}
    deny: [g]
  - {name: u, job: {provider: oidc, claims: {x: 1}}, deny: [g]}
`
	var got []string
	for _, f := range check(t, text) {
		got = append(got, fmt.Sprintf("%s %d:%d %s", f.Rule, f.Line, f.Col, f.Hint))
	}
	want := []string{
		"GEN-010 8:51 did you mean sha?", "GEN-010 8:76 ",
		`GEN-009 12:53 quote it: "1"`, "GEN-010 12:62 did you mean ref?", "GEN-010 12:75 known are branch, tag", "GEN-009 12:102 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestSets: the same entry in two policies; entries that add nothing.
func TestSets(t *testing.T) {
	one := job("test", "github", `repository_id: "1", event_name: [push, schedule]`)
	same := strings.NewReplacer("policy: p", "policy: q", "[push, schedule]", "[schedule, push]").Replace(one)
	other := strings.NewReplacer("policy: p", "policy: q", "name: j,", "name: j, condition: 'claims.actor_id == \"1\"',").Replace(one)
	if got := rules(check(t, one+"---\n"+same)); got != "GEN-014 warning" {
		t.Error("the same entry in another order:", got)
	}
	if got := rules(check(t, one+"---\n"+other)); got != "" {
		t.Error("with a condition:", got)
	}
	const head = "policy: p\nowner: o\nenvironment: test\njobs:\n"
	const a, b = `  - {name: a, provider: github, claims: {repository_id: "1", event_name: [push, schedule]}}` + "\n", `  - {name: b, provider: github, claims: {repository_id: "1", event_name: push, ref: refs/heads/x}}` + "\n"
	for text, want := range map[string]string{
		a + b + "grants: [{name: g, jobs: [a, b], issuer: i}]\n":                                                                                                                               "6:5",
		b + a + "grants: [{name: g, jobs: [a, b], issuer: i}]\n":                                                                                                                               "5:5",
		a + b + "grants: [{name: g, jobs: [a], issuer: i}, {name: h, jobs: [b], issuer: i}]\n":                                                                                                 "",
		a + strings.Replace(a, "name: a", "name: b", 1) + "grants: [{name: g, jobs: [a, b], issuer: i}]\n":                                                                                     "6:5",
		strings.Replace(a, "name: a", `name: a, condition: "true == true"`, 1) + b + "grants: [{name: g, jobs: [a, b], issuer: i}]\n":                                                          "",
		a + "grants: [{name: g, issuer: i}]\nexceptions: [{grant: g, jobs: [{provider: github, claims: {repository_id: \"1\", event_name: push}}], owner: o, reason: r, until: 2027-01-01}]\n": "7:32",
		b + "grants: [{name: g, issuer: i}]\nexceptions: [{grant: g, jobs: [{provider: github, claims: {repository_id: \"1\", event_name: push}}], owner: o, reason: r, until: 2027-01-01}]\n": "",
	} {
		got := ""
		for _, f := range check(t, head+text) {
			if f.Rule == "GEN-015" {
				got += fmt.Sprintf("%d:%d", f.Line, f.Col)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestProviders(t *testing.T) {
	one := func(typ, issuer, audience, more string) string {
		return fmt.Sprintf("providers:\n  - {name: a, type: %s, issuer: %q, audience: %q%s}\n", typ, issuer, audience, more)
	}
	const own, root = "https://ci.example.com", "https://token.actions.githubusercontent.com"
	for text, want := range map[string]string{
		one("github", root, own, ""):                                                                               "",
		one("oidc", "http://127.0.0.1:8080", own, ""):                                                              "",
		one("oidc", "http://ci.internal", own, ""):                                                                 "GEN-012 error",
		one("oidc", "https://u:p@id.example.com", own, ""):                                                         "GEN-012 error",
		one("oidc", "https://id.example.com/?x", own, ""):                                                          "GEN-012 error",
		one("oidc", "https://id.example.com/", own, ""):                                                            "",
		one("gitlab", "https://GitLab.com", own, ""):                                                               "GEN-012 error",
		one("oidc", "https://id.example.com", "https://id.example.com", ""):                                        "GEN-001 error",
		one("github", root, "https://github.com/acme", ""):                                                         "GEN-001 error",
		one("circleci", "https://oidc.circleci.com/org/x", "6d3f3e0e-40b7-4d0c-9d2f-7f2f4a3e1b11", ""):             "GEN-001 error",
		one("azure", "https://login.microsoftonline.com/x/v2.0", "api://AzureADTokenExchange", ""):                 "GEN-001 error",
		one("github", root, "api://AzureADTokenExchange", ", replay: once"):                                        "GEN-001 error",
		one("kubernetes", "https://k8s.example.com", "https://k8s.example.com", ""):                                "K8-001 error",
		one("kubernetes", "https://k8s.example.com", "https://kubernetes.default.svc.cluster.local:443", ""):       "K8-001 error",
		one("gitlab", "https://gitlab.com", own, ""):                                                               "",
		one("github", root, own, ", max_token_age: 5m"):                                                            "",
		one("github", root, own, "") + "  - {name: b, type: github, issuer: \"" + root + "/acme\", audience: x}\n": "GH-016 warning",
	} {
		if got := rules(checkProviders(t, text)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestDocs: docs/lint.md says what the rules say.
func TestDocs(t *testing.T) {
	var b bytes.Buffer
	lint.WriteDocs(&b)
	path := filepath.Join("..", "..", "docs", "lint.md")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Error("docs/lint.md is not what the rules say: go test ./policies/lint -run TestDocs -update")
	}
}

// FuzzCheck: no file takes the linter down, and every finding has a place in it.
func FuzzCheck(f *testing.F) {
	for _, rule := range lint.Rules() {
		if !rule.Providers {
			f.Add([]byte(rule.Bad))
			f.Add([]byte(rule.Good))
		}
	}
	speaks := conditions(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, _ := document.Read("a.yaml", data)
		files := []*document.File{file}
		for _, ctx := range []lint.Context{{Providers: server(), Now: noon, Conditions: speaks}, {}} {
			first := checkAll(files, ctx)
			for _, found := range first {
				if rule, ok := lint.Lookup(found.Rule); !ok || found.Text == "" || rule.Held != "" || rule.Providers {
					t.Fatalf("a finding of no rule: %+v", found)
				}
				if found.File != "a.yaml" || found.Line < 1 || found.Col < 1 || found.Line > bytes.Count(data, []byte("\n"))+1 {
					t.Fatalf("a place outside of the file: %+v", found)
				}
			}
			if again := checkAll(files, ctx); !slices.Equal(first, again) {
				t.Fatalf("found %v, and then %v", first, again)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	speaks := conditions(b)
	const typical = `policy: payN
owner: a@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims:
      repository_id: "N"
      repository_owner_id: "2"
      ref: [refs/heads/main, refs/heads/next]
      event_name: [push, workflow_dispatch]
      runner_environment: github-hosted
    condition: int(claims.run_attempt) < 3
  - name: other
    provider: gitlab
    claims: {project_id: "N", pipeline_source: push, ref: main, ref_type: branch, ref_protected: "true"}
grants:
  - {name: db, jobs: [release, other], issuer: db, role: r, ttl: 15m, max_ttl: 1h}
  - {name: jwt, jobs: [release], issuer: jwt, with: {audience: a, claims: {ref: "{{ claims.ref }}"}}}
tests:
  - name: main
    job: {provider: github, claims: {repository_id: "N", repository_owner_id: "2", ref: refs/heads/main, event_name: push, runner_environment: github-hosted, run_attempt: "1"}}
    allow: [db, jwt]
`
	var files []*document.File
	for i := range 1000 {
		f, _ := document.Read(fmt.Sprintf("f%d.yaml", i), []byte(strings.ReplaceAll(typical, "N", fmt.Sprint(i))))
		files = append(files, f)
	}
	ctx := lint.Context{Providers: server(), Now: noon, Conditions: speaks}
	b.ReportAllocs()
	for b.Loop() {
		if got := checkAll(files, ctx); len(got) != 1000 { // GL-009 of each
			b.Fatal(len(got), got[0])
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Microsecond)/float64(b.N)/float64(len(files)), "µs/file")
}
