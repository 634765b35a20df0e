package examples_test

import (
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// configured stands in for a server's configuration.
type configured map[string]bool

func (c configured) CheckGrant(use policies.GrantUse) error {
	if key := fmt.Sprintf("%s/%s for %s in %s", use.Issuer, use.Role, use.Policy, use.Environment); !c[key] {
		return fmt.Errorf("not configured: %s", key)
	}
	return nil
}

func load(t *testing.T) *policies.Set {
	t.Helper()
	set, err := policies.Load(t.Context(), policies.Source{FS: os.DirFS(".")}, policies.Config{
		Providers: map[string]lint.Provider{
			"github":    {Type: "github", Issuer: "https://token.actions.githubusercontent.com", Audience: "https://ci.daypass.example.com", SessionTTL: time.Hour},
			"gitlab":    {Type: "gitlab", Issuer: "https://gitlab.example.com", Audience: "https://ci.daypass.example.com", SessionTTL: time.Hour},
			"buildkite": {Type: "buildkite", Issuer: "https://agent.buildkite.com", Audience: "https://ci.daypass.example.com", SessionTTL: time.Hour},
		},
		Issuers: configured{
			"payments-db/deployer for payments in production":    true,
			"payments-db/reporter for payments in production":    true,
			"release-jwt/ for payments in production":            true,
			"storefront-db/owner for storefront in staging":      true,
			"storefront-db/reader for storefront in staging":     true,
			"warehouse/reader for nightly-reports in production": true,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestExamples(t *testing.T) {
	set := load(t)
	for _, found := range set.Findings() { // examples are models
		if found.Severity != lint.Info {
			t.Errorf("%s %s", found.Rule, found.Mistake)
		}
	}
	if len(set.Grants()) != 6 || len(set.Skipped()) != 0 {
		t.Errorf("%d grants, skipped %v", len(set.Grants()), set.Skipped())
	}
	github := map[string]any{
		"repository_id": "123456789", "repository_owner_id": "987654", "ref": "refs/heads/main", "environment": "production",
		"event_name": "push", "runner_environment": "github-hosted", "run_attempt": "1",
	}
	pull := map[string]any{
		"repository_id": "123456789", "repository_owner_id": "987654", "ref": "refs/pull/7/merge", "event_name": "pull_request",
		"runner_environment": "github-hosted", "run_attempt": "1",
	}
	gitlab := map[string]any{
		"project_id": "20", "namespace_id": "72", "ref": "main", "ref_type": "branch", "ref_protected": "true",
		"pipeline_source": "push", "user_access_level": "developer",
	}
	staging := map[string]any{"environment": "staging"}
	maps.Copy(staging, gitlab)
	day, night := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		what, provider string
		claims         map[string]any
		grant          string
		at             time.Time
		allowed        bool
	}{
		{"main may deploy", "github", github, "payments/deploy-db", day, true},
		{"main may sign", "github", github, "payments/sign-release", day, true},
		{"not at night", "github", github, "payments/deploy-db", night, false},
		{"a pull request may not", "github", pull, "payments/deploy-db", day, false},
		{"another provider may not", "gitlab", github, "payments/deploy-db", day, false},
		{"a developer reads", "gitlab", gitlab, "storefront/read", day, true},
		{"a developer doesn't migrate", "gitlab", gitlab, "storefront/migrate", day, false},
		{"the staging deployment migrates", "gitlab", staging, "storefront/migrate", day, true},
	} {
		_, err := set.Decide(policies.Identity{Provider: tc.provider, ProviderType: tc.provider, Claims: tc.claims}, policies.Request{Grant: tc.grant}, tc.at)
		if (err == nil) != tc.allowed {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}
