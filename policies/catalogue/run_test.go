package catalogue_test

import (
	"encoding/json"
	"testing"

	"github.com/daypass/daypass/policies/catalogue"
)

// TestRun: a job is shown where its provider shows it, and a name in a token leads
// nowhere else.
func TestRun(t *testing.T) {
	t.Parallel()
	hub := map[string]any{"repository": "octo-org/octo-repo", "run_id": "7", "run_attempt": "2"}
	lab := map[string]any{"project_path": "a/b/c", "job_id": "9"}
	for _, c := range []struct {
		provider, issuer string
		claims           map[string]any
		want             string
	}{
		{"github", "https://token.actions.githubusercontent.com", hub, "https://github.com/octo-org/octo-repo/actions/runs/7/attempts/2"},
		{"github", "https://token.actions.githubusercontent.com/octo", hub, "https://github.com/octo-org/octo-repo/actions/runs/7/attempts/2"},
		{"github", "https://token.actions.acme.ghe.com", hub, "https://acme.ghe.com/octo-org/octo-repo/actions/runs/7/attempts/2"},
		{"github", "https://ghes.example.com/_services/token", hub, "https://ghes.example.com/octo-org/octo-repo/actions/runs/7/attempts/2"},
		{"github", "https://token.actions.githubusercontent.com", map[string]any{"repository": "a/b?x#y", "run_id": "7", "run_attempt": "1"}, "https://github.com/a/b%3Fx%23y/actions/runs/7/attempts/1"},
		{"github", "https://token.actions.githubusercontent.com", map[string]any{"repository": "a/b"}, ""},
		{"gitlab", "https://gitlab.example.com", lab, "https://gitlab.example.com/a/b/c/-/jobs/9"},
		{"buildkite", "https://agent.buildkite.com", map[string]any{"organization_slug": "o", "pipeline_slug": "p", "build_number": json.Number("12")}, "https://buildkite.com/o/p/builds/12"},
		{"jenkins", "https://jenkins.example.com", hub, ""},
	} {
		p, ok := catalogue.Lookup(c.provider)
		if !ok {
			t.Fatal(c.provider)
		}
		if got := p.Run(c.issuer, c.claims); got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.provider, c.issuer, got, c.want)
		}
	}
}
