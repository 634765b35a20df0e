package catalogue

// providers is the catalogue.
func providers() []*Provider {
	return []*Provider{
		{Type: "github", Title: "GitHub Actions", Claims: []Claim{{Name: "repository", Kind: Text, Nature: Name, ID: "repository_id"}, {Name: "repository_id", Kind: Text, Nature: ID}}, Tenant: []string{"repository_id", "repository_owner_id", "enterprise_id"}, JobKey: []string{"repository_id", "run_id", "run_attempt", "check_run_id"}, HasJTI: true},
		{Type: "gitlab", Title: "GitLab CI/CD", Tenant: []string{"project_id", "namespace_id"}, JobKey: []string{"project_id", "job_id"}, HasJTI: true},
		{Type: "oidc", Title: "any OIDC provider", Open: true},
		{Type: "buildkite", Title: "Buildkite", Tenant: []string{"pipeline_id", "organization_id"}, JobKey: []string{"job_id"}},
	}
}
