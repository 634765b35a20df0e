package catalogue

// azure is Azure Pipelines. Its tokens have two shapes: those of the old issuer
// (vstoken) say which pipeline runs, those of Entra say which service connection.
func azure() *Provider {
	return &Provider{
		Type: "azure", Title: "Azure DevOps Pipelines",
		Claims: []Claim{
			{Name: "org_id", Kind: Text, Nature: ID, Optional: true, Doc: "the organisation"},
			{Name: "prj_id", Kind: Text, Nature: ID, Optional: true, Doc: "the project"},
			{Name: "def_id", Kind: Text, Nature: ID, Optional: true, Doc: "the pipeline, a number in a text, within its project"},
			{Name: "rpo_id", Kind: Text, Nature: ID, Optional: true, Doc: "the repository; for one on GitHub its name, so pin def_id"},
			{Name: "rpo_uri", Kind: Text, Nature: Name, ID: "rpo_id", Optional: true, Doc: "where the repository is"},
			{Name: "rpo_ver", Kind: Text, Nature: ID, Optional: true, Doc: "the commit"},
			{Name: "rpo_ref", Kind: Text, Nature: Fact, Optional: true, Doc: "the fully qualified ref: refs/heads/main, refs/pull/7/merge"},
			{Name: "run_id", Kind: Text, Nature: ID, Optional: true, Doc: "the run, a number in a text, within its organisation"},
			{Name: "tid", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Entra: the tenant"},
			{Name: "oid", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Entra: the service principal that signed in for Azure DevOps"},
			{Name: "azp", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Entra: its application"},
			{Name: "azpacr", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "Entra: how that application signed in"},
			{Name: "idtyp", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "Entra: what the token is of: app"},
			{Name: "aio", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "Entra: for its own use"},
			{Name: "rh", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "Entra: for its own use"},
			{Name: "uti", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "Entra: the id of the token itself"},
			{Name: "ver", Kind: Text, Nature: Fact, Optional: true, Unchecked: true, Doc: "Entra: the version of the token's format"},
			{Name: "sub", Kind: Text, Nature: Name, Doc: "p://ORG/PROJECT/PIPELINE or sc://ORG/PROJECT/CONNECTION, names all; of Entra /eid1/c/pub/t/…/a/…/sc/ORG_ID/CONNECTION_ID"},
		},
		Tenant: []string{"prj_id", "org_id", "tid"},
		// Nothing names a job: those of one run count as one.
		JobKey:   []string{"org_id", "run_id"},
		Issuers:  []string{"https://vstoken.dev.azure.com/ORGANISATION_ID", "https://login.microsoftonline.com/TENANT_ID/v2.0"},
		Lifetime: "10 minutes",
		Docs:     "https://learn.microsoft.com/en-us/rest/api/azure/devops/distributedtask/oidctoken/create",
	}
}
