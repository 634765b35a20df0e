package catalogue

// terraform is HCP Terraform and Terraform Enterprise: runs of workspaces, tests
// of modules and deployments of Stacks, which have fewer claims in common than
// apart.
func terraform() *Provider {
	return &Provider{
		Type: "terraform", Title: "HCP Terraform",
		Claims: []Claim{
			{Name: "terraform_organization_id", Kind: Text, Nature: ID, Doc: "the organisation: org-…"},
			{Name: "terraform_organization_name", Kind: Text, Nature: Name, ID: "terraform_organization_id", Doc: "the organisation"},
			{Name: "terraform_project_id", Kind: Text, Nature: ID, Optional: true, Doc: "the project: prj-…; absent in tests of modules"},
			{Name: "terraform_project_name", Kind: Text, Nature: Name, ID: "terraform_project_id", Optional: true, Doc: "the project; absent in tests of modules"},
			{Name: "terraform_workspace_id", Kind: Text, Nature: ID, Optional: true, Doc: "the workspace: ws-…; in runs of workspaces alone"},
			{Name: "terraform_workspace_name", Kind: Text, Nature: Name, ID: "terraform_workspace_id", Optional: true, Doc: "the workspace; in runs of workspaces alone"},
			{Name: "terraform_full_workspace", Kind: Text, Nature: Name, ID: "terraform_workspace_id", Optional: true, Doc: "organization:O:project:P:workspace:W, names all"},
			{Name: "terraform_run_id", Kind: Text, Nature: ID, Optional: true, Doc: "the run: run-…, of a test trun-…"},
			{Name: "terraform_run_phase", Kind: Text, Nature: Fact, Optional: true, Values: []string{"plan", "apply"}, Doc: "what the run is doing; anybody's pull request can get a plan"},
			{Name: "terraform_stack_id", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Stacks: the stack: st-…"},
			{Name: "terraform_stack_name", Kind: Text, Nature: Name, ID: "terraform_stack_id", Optional: true, Unchecked: true, Doc: "Stacks: the stack"},
			{Name: "terraform_stack_deployment_name", Kind: Text, Nature: Name, Optional: true, Unchecked: true, Doc: "Stacks: the deployment, named in the stack's files"},
			{Name: "terraform_operation", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Values: []string{"plan", "apply"}, Doc: "Stacks: what is being done"},
			{Name: "terraform_plan_id", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Stacks: the plan"},
			{Name: "sub", Kind: Text, Nature: Name, Doc: "organization:O:project:P:workspace:W:run_phase:PHASE, names all; of a test organization:O:module:M:operation:test_run"},
			jti(),
		},
		Tenant:        []string{"terraform_workspace_id", "terraform_project_id", "terraform_organization_id"},
		JobKey:        []string{"terraform_run_id", "terraform_run_phase"},
		Issuers:       []string{"https://app.terraform.io", "https://app.eu.terraform.io", "https://HOST"},
		SharedIssuers: []string{"https://app.terraform.io", "https://app.eu.terraform.io"},
		HasJTI:        true,
		Lifetime:      "to the timeout of the plan or apply, up to 24 hours",
		Docs:          "https://developer.hashicorp.com/terraform/cloud-docs/dynamic-provider-credentials/workload-identity-tokens",
	}
}
