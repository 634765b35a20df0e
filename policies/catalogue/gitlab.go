package catalogue

import "slices"

// gitlab is GitLab CI/CD: GitLab.com, Dedicated and self-managed instances. Truth
// values are the texts "true" and "false".
func gitlab() *Provider {
	return &Provider{
		Type: "gitlab", Title: "GitLab CI/CD",
		Claims:        slices.Concat(gitlabProject(), gitlabPipeline(), gitlabPlace()),
		Tenant:        []string{"project_id", "namespace_id"},
		JobKey:        []string{"project_id", "job_id"},
		Issuers:       []string{"https://gitlab.com", "https://HOST"},
		SharedIssuers: []string{"https://gitlab.com"},
		HasJTI:        true,
		Lifetime:      "the job's timeout, or 5 minutes where it has none",
		Docs:          "https://docs.gitlab.com/ci/secrets/id_token_authentication/",
	}
}

func gitlabProject() []Claim {
	return []Claim{
		{Name: "project_path", Kind: Text, Nature: Name, ID: "project_id", Doc: "group/project; the fork in merge request pipelines from forks"},
		{Name: "project_id", Kind: Text, Nature: ID, Doc: "the project; the fork in merge request pipelines from forks"},
		{Name: "namespace_path", Kind: Text, Nature: Name, ID: "namespace_id", Doc: "the group or person directly above the project"},
		{Name: "namespace_id", Kind: Text, Nature: ID, Doc: "the group or person directly above the project"},
		{Name: "job_project_path", Kind: Text, Nature: Name, ID: "job_project_id", Optional: true, Doc: "the project in which the job runs (since 18.4)"},
		{Name: "job_project_id", Kind: Text, Nature: ID, Optional: true, Doc: "the project in which the job runs (since 18.4)"},
		{Name: "job_namespace_path", Kind: Text, Nature: Name, ID: "job_namespace_id", Optional: true, Doc: "the group or person directly above that project (since 18.4)"},
		{Name: "job_namespace_id", Kind: Text, Nature: ID, Optional: true, Doc: "the group or person directly above that project (since 18.4)"},
		{Name: "project_visibility", Kind: Text, Nature: Fact, Values: []string{"public", "private", "internal"}, Doc: "who can read the project"},
		{Name: "user_login", Kind: Text, Nature: Name, ID: "user_id", Doc: "who runs the job"},
		{Name: "user_id", Kind: Text, Nature: ID, Doc: "who runs the job"},
		{Name: "user_email", Kind: Text, Nature: Name, ID: "user_id", Doc: "their e-mail address"},
		{Name: "user_access_level", Kind: Text, Nature: Fact, Optional: true, Doc: "their role in the project: developer, maintainer, owner, …; null for non-members"},
		{Name: "user_identities", Kind: Objects, Nature: Fact, Optional: true, Fields: []Claim{
			{Name: "provider", Kind: Text, Nature: Fact, Doc: "where they have the account"},
			{Name: "extern_uid", Kind: Text, Nature: ID, Doc: "its id there"},
		}, Doc: "their accounts elsewhere, where they allow it"},
		{Name: "groups_direct", Kind: List, Nature: Name, Optional: true, Doc: "paths of the groups that they are a member of themselves; absent above 200"},
	}
}

func gitlabPipeline() []Claim {
	return []Claim{
		{Name: "pipeline_id", Kind: Text, Nature: ID, Doc: "the pipeline"},
		{Name: "pipeline_source", Kind: Text, Nature: Fact, Doc: "what started it: push, web, schedule, api, merge_request_event, …"},
		{Name: "job_id", Kind: Text, Nature: ID, Doc: "the job; a retry is another one"},
		{Name: "job_source", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "what put the job into the pipeline: a policy, or the pipeline's source (since 18.9)"},
		{Name: "job_config", Kind: Object, Nature: Fact, Optional: true, Unchecked: true, Doc: "the file that defines such a job (since 18.9)"},
		{Name: "ref", Kind: Text, Nature: Fact, Doc: "name of branch or tag, without refs/heads/: pin ref_type or ref_path too"},
		{Name: "ref_type", Kind: Text, Nature: Fact, Values: []string{"branch", "tag"}, Doc: "what the ref is"},
		{Name: "ref_path", Kind: Text, Nature: Fact, Doc: "the fully qualified ref: refs/heads/main"},
		{Name: "ref_protected", Kind: Text, Nature: Fact, Values: truth(), Doc: "whether the ref is protected, as a text"},
		{Name: "sha", Kind: Text, Nature: ID, Doc: "the commit"},
		{Name: "ci_config_ref_uri", Kind: Text, Nature: Name, Optional: true, Doc: "the pipeline's definition: HOST/group/project//.gitlab-ci.yml@refs/heads/main; null when it is of another project"},
		{Name: "ci_config_sha", Kind: Text, Nature: ID, Optional: true, Doc: "the commit of that file; null likewise"},
		jti(),
	}
}

func gitlabPlace() []Claim {
	return []Claim{
		{Name: "environment", Kind: Text, Nature: Name, Optional: true, Doc: "the environment that the job deploys to"},
		{Name: "environment_protected", Kind: Text, Nature: Fact, Optional: true, Values: truth(), Doc: "whether it is protected, as a text"},
		{Name: "environment_action", Kind: Text, Nature: Free, Optional: true, Values: []string{"start", "prepare", "stop", "verify", "access"}, Doc: "what the job does with it"},
		{Name: "deployment_tier", Kind: Text, Nature: Fact, Optional: true, Values: []string{"production", "staging", "testing", "development", "other"}, Doc: "its tier"},
		{Name: "runner_id", Kind: Number, Nature: ID, Doc: "the runner, the one number among the ids"},
		{Name: "runner_environment", Kind: Text, Nature: Fact, Values: []string{"gitlab-hosted", "self-hosted"}, Doc: "whose machine runs the job"},
	}
}
