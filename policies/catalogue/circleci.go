package catalogue

// circleci is CircleCI: cloud, and server since 4.4. The two tokens of a job, v1
// and v2, differ in `sub` alone.
func circleci() *Provider {
	return &Provider{
		Type: "circleci", Title: "CircleCI",
		Claims: []Claim{
			{Name: "oidc.circleci.com/project-id", Kind: Text, Nature: ID, Doc: "the project"},
			{Name: "oidc.circleci.com/org-id", Kind: Text, Nature: ID, Optional: true, Doc: "the organisation; in tokens, not in the documentation"},
			{Name: "oidc.circleci.com/context-ids", Kind: List, Nature: ID, Optional: true, Doc: "the contexts of the job"},
			{Name: "oidc.circleci.com/vcs-origin", Kind: Text, Nature: Name, Optional: true, Doc: "the repository, a fork's for its pull requests: github.com/owner/name; absent for custom webhooks"},
			{Name: "oidc.circleci.com/vcs-ref", Kind: Text, Nature: Fact, Optional: true, Doc: "the fully qualified ref: refs/heads/main; absent for custom webhooks"},
			{Name: "oidc.circleci.com/ssh-rerun", Kind: Bool, Nature: Fact, Doc: "true: a person has a shell in the job"},
			{Name: "oidc.circleci.com/pipeline-definition-id", Kind: Text, Nature: ID, Optional: true, Doc: "the definition of the pipeline; in tokens, not in the documentation"},
			{Name: "oidc.circleci.com/pipeline-id", Kind: Text, Nature: ID, Optional: true, Doc: "the run of the pipeline; in tokens, not in the documentation"},
			{Name: "oidc.circleci.com/workflow-id", Kind: Text, Nature: ID, Optional: true, Doc: "the run of the workflow; in tokens, not in the documentation"},
			{Name: "oidc.circleci.com/job-id", Kind: Text, Nature: ID, Optional: true, Doc: "the run of the job; in tokens, not in the documentation"},
			{Name: "sub", Kind: Text, Nature: Name, Doc: "org/ID/project/ID/user/ID, and in v2 behind it /vcs-origin/URL/vcs-ref/REF"},
		},
		Tenant:        []string{"oidc.circleci.com/project-id", "oidc.circleci.com/org-id"},
		JobKey:        []string{"oidc.circleci.com/job-id"},
		Issuers:       []string{"https://oidc.circleci.com/org/ORGANISATION_ID", "https://oidc.circleci.com"},
		SharedIssuers: []string{"https://oidc.circleci.com"},
		Lifetime:      "1 hour",
		Docs:          "https://circleci.com/docs/guides/permissions-authentication/openid-connect-tokens/",
	}
}
