package lint_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// formatExample is the format's own example, but for the part that isn't enforced
// yet.
const formatExample = `
policy: payments
owner: payments-team@example.com
description: Deploys of the payments service
environment: production

jobs:
  - name: release
    provider: github
    claims:
      repository_id: "123456789"
      repository_owner_id: "987654"
      ref: refs/heads/main
      environment: production
    condition: int(claims.run_attempt) <= 3 && request.time.getHours("Europe/London") >= 7

grants:
  - name: deploy-db
    jobs: [release]
    issuer: payments-db
    role: deployer
    ttl: 15m
    max_ttl: 1h
    max_active: 5
    redact: [{pattern: 'pay_live_[0-9a-z]{24}'}]
  - name: sign-release
    issuer: release-jwt
    with:
      audience: https://sts.amazonaws.com
      claims: {team: payments, ref: "{{ claims.ref }}"}

exceptions:
  - grant: deploy-db
    jobs: [{provider: github, claims: {repository_id: "123456789", ref: refs/heads/migrate-ledger}}]
    owner: payments-oncall@example.com
    reason: one-off ledger migration, CHG-4711
    until: 2026-12-01

tests:
  - name: main may deploy
    at: 2026-11-23T10:00:00Z
    job: {provider: github, claims: {repository_id: "123456789", repository_owner_id: "987654", ref: refs/heads/main, environment: production, run_attempt: "1"}}
    allow: [deploy-db]
  - name: a pull request may not
    job: {provider: github, claims: {repository_id: "123456789", repository_owner_id: "987654", ref: refs/pull/7/merge, event_name: pull_request}}
    deny: [deploy-db, sign-release]
`

// TestModels: what we show people is let through.
func TestModels(t *testing.T) {
	texts := map[string]string{"format": formatExample}
	for _, name := range []string{"docs/policies.md", "README.md"} {
		data, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(data), "```yaml\n") {
			if text, _, found := strings.Cut(part, "```"); found && strings.HasPrefix(text, "policy:") {
				texts[name] = text
			}
		}
	}
	if len(texts) != 3 {
		t.Errorf("there are policies in %d places, want 3", len(texts))
	}
	for name, text := range texts {
		for _, cfg := range []policies.Config{{Now: noon}, {Now: noon, Providers: server()}} {
			set, err := policies.Load(t.Context(), policies.Source{FS: fstest.MapFS{"a.yaml": {Data: []byte(text)}}}, cfg)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := rules(set.Findings()); name != "format" && strings.Contains(got, "warning") {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
}

// TestPagesOfProviders: the entries to begin from refuse nowhere, in production.
func TestPagesOfProviders(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "providers.md"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for part := range strings.SplitSeq(string(data), "```yaml\n") {
		text, _, found := strings.Cut(part, "```")
		if !found || !strings.HasPrefix(text, "  - name: ") {
			continue
		}
		count++
		for _, found := range check(t, "policy: p\nowner: o\nenvironment: production\njobs:\n"+text+"grants: [{name: g, issuer: i}]\n") {
			if found.Severity == lint.Error {
				t.Errorf("%s %s in\n%s", found.Rule, found.Mistake, text)
			}
		}
	}
	if count < 11 {
		t.Errorf("%d entries", count)
	}
}
