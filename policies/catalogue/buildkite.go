package catalogue

// buildkite is Buildkite. Ids of organisation and pipeline stand in a token only
// when the job asks for them (--claim). The list is closed: what a job can ask for
// is documented, but for agent_tag:NAME, which is a prefix.
func buildkite() *Provider {
	return &Provider{
		Type: "buildkite", Title: "Buildkite",
		Claims: []Claim{
			{Name: "organization_slug", Kind: Text, Nature: Name, ID: "organization_id", Doc: "the organisation"},
			{Name: "organization_id", Kind: Text, Nature: ID, Optional: true, Doc: "the organisation; with --claim organization_id"},
			{Name: "pipeline_slug", Kind: Text, Nature: Name, ID: "pipeline_id", Doc: "the pipeline"},
			{Name: "pipeline_id", Kind: Text, Nature: ID, Optional: true, Doc: "the pipeline; with --claim pipeline_id"},
			{Name: "build_number", Kind: Number, Nature: Fact, Doc: "the number of the build within its pipeline"},
			{Name: "build_id", Kind: Text, Nature: ID, Optional: true, Doc: "the build; with --claim build_id"},
			{Name: "build_branch", Kind: Text, Nature: Free, Doc: "the branch; whoever starts a build by API or by hand names any: pin build_source too"},
			{Name: "build_tag", Kind: Text, Nature: Free, Optional: true, Doc: "the tag, where the build has one"},
			{Name: "build_commit", Kind: Text, Nature: Free, Doc: "the commit, or what the build was started with: HEAD"},
			{Name: "build_source", Kind: Text, Nature: Fact, Values: []string{"ui", "api", "webhook", "trigger_job", "schedule"}, Doc: "what started the build"},
			{Name: "step_key", Kind: Text, Nature: Free, Optional: true, Doc: "the `key` of the step, which the pipeline's author chooses; null without"},
			{Name: "job_id", Kind: Text, Nature: ID, Doc: "the job; a retry is another one"},
			{Name: "agent_id", Kind: Text, Nature: ID, Doc: "the agent"},
			{Name: "runner_environment", Kind: Text, Nature: Fact, Values: []string{"buildkite-hosted", "self-hosted"}, Doc: "whose machine runs the job"},
			{Name: "cluster_id", Kind: Text, Nature: ID, Optional: true, Doc: "the cluster; with --claim cluster_id"},
			{Name: "cluster_name", Kind: Text, Nature: Name, ID: "cluster_id", Optional: true, Doc: "the cluster; with --claim cluster_name"},
			{Name: "queue_id", Kind: Text, Nature: ID, Optional: true, Doc: "the queue; with --claim queue_id"},
			{Name: "queue_key", Kind: Text, Nature: Name, ID: "queue_id", Optional: true, Doc: "the queue; with --claim queue_key"},
			{Name: "https://aws.amazon.com/tags", Kind: Object, Nature: Free, Optional: true, Fields: []Claim{
				{Name: "principal_tags", Kind: Object, Nature: Free, Doc: "claims once more, each a list of one text"},
			}, Doc: "session tags for AWS; with --aws-session-tag"},
			{Name: "sub", Kind: Text, Nature: Name, Doc: "organization:SLUG:pipeline:SLUG:ref:REF:commit:SHA:step:KEY, or with --subject-claim one id"},
		},
		Prefixes:      []string{"agent_tag:"},
		Tenant:        []string{"pipeline_id", "organization_id"},
		JobKey:        []string{"job_id"},
		Issuers:       []string{"https://agent.buildkite.com"},
		SharedIssuers: []string{"https://agent.buildkite.com"},
		Lifetime:      "5 minutes; the job may ask for another with --lifetime",
		Docs:          "https://buildkite.com/docs/agent/cli/reference/oidc",
	}
}
