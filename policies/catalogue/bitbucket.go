package catalogue

// bitbucket is Bitbucket Pipelines. Its ids are UUIDs in braces.
func bitbucket() *Provider {
	return &Provider{
		Type: "bitbucket", Title: "Bitbucket Pipelines",
		Claims: []Claim{
			{Name: "repositoryUuid", Kind: Text, Nature: ID, Doc: "the repository: {…}"},
			{Name: "workspaceUuid", Kind: Text, Nature: ID, Doc: "the workspace: {…}"},
			{Name: "pipelineUuid", Kind: Text, Nature: ID, Doc: "the run of the pipeline: {…}"},
			{Name: "stepUuid", Kind: Text, Nature: ID, Doc: "the run of the step: {…}"},
			{Name: "deploymentEnvironmentUuid", Kind: Text, Nature: ID, Optional: true, Doc: "the deployment environment, for steps that name one: {…}"},
			{Name: "branchName", Kind: Text, Nature: Fact, Optional: true, Doc: "the branch, without refs/heads/; absent for tags"},
			{Name: "sub", Kind: Text, Nature: Fact, Doc: "{repository}:{step}, or {repository}:{environment}:{step}; another in each run, so no policy can match it"},
		},
		Tenant:   []string{"repositoryUuid", "workspaceUuid"},
		JobKey:   []string{"stepUuid"},
		Issuers:  []string{"https://api.bitbucket.org/2.0/workspaces/WORKSPACE/pipelines-config/identity/oidc"},
		Lifetime: "1 hour (not checked)",
		Docs:     "https://support.atlassian.com/bitbucket-cloud/docs/integrate-pipelines-with-resource-servers-using-oidc/",
	}
}
