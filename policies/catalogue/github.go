package catalogue

import "slices"

// github is GitHub Actions: GitHub.com, data residency (ghe.com) and GitHub
// Enterprise Server, which put the same claims into their tokens and differ in
// `iss`. All of them are texts.
func github() *Provider {
	return &Provider{
		Type: "github", Title: "GitHub Actions",
		Claims:   slices.Concat(githubRepository(), githubWorkflow(), githubRun()),
		Prefixes: []string{"repo_property_"},
		Tenant:   []string{"repository_id", "repository_owner_id", "enterprise_id"},
		JobKey:   []string{"repository_id", "run_id", "run_attempt", "check_run_id"},
		Issuers: []string{
			"https://token.actions.githubusercontent.com",
			"https://token.actions.githubusercontent.com/ENTERPRISE",
			"https://token.actions.SUBDOMAIN.ghe.com",
			"https://HOST/_services/token",
		},
		SharedIssuers: []string{"https://token.actions.githubusercontent.com"},
		HasJTI:        true,
		Lifetime:      "5 minutes",
		Docs:          "https://docs.github.com/en/actions/reference/security/oidc",
	}
}

func githubRepository() []Claim {
	return []Claim{
		{Name: "repository", Kind: Text, Nature: Name, ID: "repository_id", Doc: "owner/name of the repository"},
		{Name: "repository_id", Kind: Text, Nature: ID, Doc: "the repository"},
		{Name: "repository_owner", Kind: Text, Nature: Name, ID: "repository_owner_id", Doc: "the organisation or person that has the repository"},
		{Name: "repository_owner_id", Kind: Text, Nature: ID, Doc: "the organisation or person that has the repository"},
		{Name: "repository_visibility", Kind: Text, Nature: Fact, Values: []string{"public", "private", "internal"}, Doc: "who can read the repository"},
		{Name: "enterprise", Kind: Text, Nature: Name, ID: "enterprise_id", Optional: true, Doc: "the enterprise of the repository, where it has one"},
		{Name: "enterprise_id", Kind: Text, Nature: ID, Optional: true, Doc: "the enterprise of the repository, where it has one"},
		{Name: "environment", Kind: Text, Nature: Name, Optional: true, Doc: "the environment that the job names; it comes into being when a job first names it"},
		{Name: "environment_node_id", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "the environment; listed by discovery, not in the documentation"},
		{Name: "issuer_scope", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "what the issuer stands for; not in the documentation"},
	}
}

func githubWorkflow() []Claim {
	return []Claim{
		{Name: "workflow", Kind: Text, Nature: Free, Doc: "the `name:` in the workflow file, which its author chooses"},
		{Name: "workflow_ref", Kind: Text, Nature: Name, Doc: "path and ref of the workflow file: owner/name/.github/workflows/x.yml@refs/heads/main"},
		{Name: "workflow_sha", Kind: Text, Nature: ID, Doc: "the commit of the workflow file"},
		{Name: "job_workflow_ref", Kind: Text, Nature: Name, Doc: "path and ref of the reusable workflow that holds the job; of the workflow itself where there is none"},
		{Name: "job_workflow_sha", Kind: Text, Nature: ID, Doc: "the commit of that file"},
		{Name: "event_name", Kind: Text, Nature: Fact, Doc: "what started the run: push, pull_request, workflow_dispatch, …"},
		{Name: "ref", Kind: Text, Nature: Fact, Doc: "the fully qualified ref: refs/heads/main, refs/tags/v1, refs/pull/7/merge; empty for deployments of a commit"},
		{Name: "ref_type", Kind: Text, Nature: Fact, Values: []string{"branch", "tag"}, Doc: "what the ref is; branch for pull requests too"},
		{Name: "ref_protected", Kind: Text, Nature: Fact, Values: truth(), Doc: "whether branch protection or a ruleset covers the ref, as a text"},
		{Name: "base_ref", Kind: Text, Nature: Fact, Doc: "the target branch of a pull request, else empty"},
		{Name: "head_ref", Kind: Text, Nature: Free, Doc: "the source branch of a pull request, named by its author, else empty"},
		{Name: "sha", Kind: Text, Nature: ID, Doc: "the commit"},
	}
}

func githubRun() []Claim {
	return []Claim{
		{Name: "actor", Kind: Text, Nature: Name, ID: "actor_id", Doc: "who started the run"},
		{Name: "actor_id", Kind: Text, Nature: ID, Doc: "who started the run"},
		{Name: "run_id", Kind: Text, Nature: ID, Doc: "the run; the same when it is repeated"},
		{Name: "run_number", Kind: Text, Nature: Fact, Doc: "how many runs of this workflow there were"},
		{Name: "run_attempt", Kind: Text, Nature: Fact, Doc: "how often the run was tried, from 1"},
		{Name: "check_run_id", Kind: Text, Nature: ID, Optional: true, Doc: "the job; absent on older Enterprise Servers"},
		{Name: "runner_environment", Kind: Text, Nature: Fact, Values: []string{"github-hosted", "self-hosted"}, Doc: "whose machine runs the job"},
		jti(),
	}
}
