package lint

import (
	"slices"
	"strings"
)

func otherRules() []*Rule {
	return []*Rule{bb001(), bb002(), jk001(), ad002(), tf001(), tf002(), k8002()}
}

const bitbucketIDs = "repositoryUuid: '{4b3c5c1e-1a2b-4c3d-8e9f-0a1b2c3d4e5f}'\nworkspaceUuid: '{7d6c5b4a-9f8e-4d7c-b6a5-f4e3d2c1b0a9}'"

func bb001() *Rule {
	return &Rule{
		ID: "BB-001", Severity: Error, Title: "match on Bitbucket's `sub`", types: []string{"bitbucket"},
		Why:    "It ends in the id of the step, which is another in every run: it matches nothing, or with a wildcard all that the ids say better.",
		Fix:    "Match repositoryUuid, workspaceUuid and branchName or deploymentEnvironmentUuid.",
		Source: "fulcio#1257",
		Bad:    onePolicy("test", "bitbucket", bitbucketIDs+"\nsub: '{4b3c5c1e-1a2b-4c3d-8e9f-0a1b2c3d4e5f}:{0f1e2d3c-4b5a-4678-9abc-def012345678}'"),
		Good:   onePolicy("test", "bitbucket", bitbucketIDs),
		entry: func(e *entry) {
			if l := e.says("sub"); l != nil {
				e.add(Error, l.at, "match repositoryUuid", "sub holds the id of the step, which is another in every run")
			}
		},
	}
}

func bb002() *Rule {
	return &Rule{
		ID: "BB-002", Severity: Error, Title: "an audience of one's own, and neither repositoryUuid nor workspaceUuid", types: []string{"bitbucket"},
		Why:    "Bitbucket's default audience names the workspace; with another, nothing does but a slug within the issuer, which can be renamed.",
		Fix:    "Pin repositoryUuid, or workspaceUuid.",
		Source: "shadcn oidc/bitbucket",
		Unseen: "Where no configuration says what the audience is, it is taken to be one's own.",
		Bad:    onePolicy("test", "bitbucket", "branchName: main"),
		Good:   onePolicy("test", "bitbucket", bitbucketIDs+"\nbranchName: main"),
		entry: func(e *entry) {
			if !strings.HasPrefix(e.config.Audience, "ari:cloud:bitbucket::workspace/") && !e.fixed("repositoryUuid", "workspaceUuid") {
				e.add(Error, e.claims(), "add repositoryUuid: '{…}'", "neither repositoryUuid nor workspaceUuid is pinned, and the audience names no workspace")
			}
		},
	}
}

func jk001() *Rule {
	return &Rule{
		ID: "JK-001", Severity: Error, Title: "trust rests on claims that Jenkins makes from templates", types: []string{"jenkins"},
		Why:    "A template may hold a build's parameters and variables, which whoever starts or edits the job chooses. The plugin has a warning against its name for it.",
		Fix:    "Pin sub, which is the job's URL unless somebody changed it, and let the templates hold what the controller says alone.",
		Source: "README of Jenkins' oidc-provider plugin; plugins.jenkins.io",
		Unseen: "The templates: an entry that pins `sub` beside other claims is let pass, and so is a `sub` that has a template of its own.",
		Bad:    onePolicy("test", "jenkins", "team: payments"),
		Good:   onePolicy("test", "jenkins", "sub: https://jenkins.example.com/job/payments/job/deploy/\nteam: payments"),
		entry: func(e *entry) {
			if !e.pinned("sub") {
				e.add(Error, e.claims(), "add sub: https://HOST/job/FOLDER/job/NAME/", "sub is not pinned: all other claims come from templates, which may hold what a job's author chooses")
			}
		},
	}
}

func ad002() *Rule {
	return &Rule{
		ID: "AD-002", Severity: Error, Title: "a `sub` by name without prj_id and def_id", types: []string{"azure"},
		Why:    "p://ORG/PROJECT/PIPELINE and sc://ORG/PROJECT/CONNECTION are names: they change, and others can have them.",
		Fix:    "Pin prj_id and def_id.",
		Source: "fulcio#1803",
		Bad:    onePolicy("test", "azure", "sub: p://acme/payments/deploy"),
		Good:   onePolicy("test", "azure", "prj_id: 5c4f0d0e-6b1a-4c39-9c5e-0a7d4b8e1f22\ndef_id: \"12\""),
		entry: func(e *entry) {
			if subByName(e) {
				e.add(Error, e.says("sub").at, "pin prj_id and def_id", "sub is made of names, and prj_id and def_id are not both pinned")
			}
		},
	}
}

// subByName says whether names within `sub` are all that says whose job it is.
func subByName(e *entry) bool {
	l := e.says("sub")
	if l == nil || e.fixed("prj_id") && e.fixed("def_id") {
		return false
	}
	return !e.all("sub", func(start string) bool { return strings.HasPrefix(start, "/eid1/") }) // Entra's form, of ids
}

const terraformIDs = "terraform_organization_id: org-GRNbCjYNpBB6NEBH\nterraform_workspace_id: ws-mbsd5E3Ktt5Rg2Xm"

func tf001() *Rule {
	return &Rule{
		ID: "TF-001", Severity: Error, Title: "terraform_organization_id and the workspace's id are not both pinned", types: []string{"terraform"},
		Why:    "All of HCP Terraform's customers share one issuer, and names of organisations and workspaces can be used again.",
		Fix:    "Pin terraform_organization_id and terraform_workspace_id; terraform_project_id or terraform_stack_id stand for all that is in them.",
		Source: "dodo's Terraform page; Astrix",
		Bad:    onePolicy("test", "terraform", "terraform_organization_name: acme\nterraform_workspace_name: payments"),
		Good:   onePolicy("test", "terraform", terraformIDs),
		entry: func(e *entry) {
			owner := e.fixed("terraform_organization_id")
			if owner && e.fixed("terraform_workspace_id", "terraform_project_id", "terraform_stack_id") || e.shared() && !e.pinned(whose("terraform")...) {
				return
			}
			missing := "terraform_workspace_id"
			if !owner {
				missing = "terraform_organization_id"
			}
			e.add(Error, e.claims(), "add "+missing+`: "…"`, "%s is not pinned: names can be used again", missing)
		},
	}
}

func tf002() *Rule {
	return &Rule{
		ID: "TF-002", Severity: Error, Title: "a production grant for any phase of a run", types: []string{"terraform"},
		Why:    "A pull request gets a speculative plan, and with it what was meant for the apply.",
		Fix:    "Pin terraform_run_phase: apply (terraform_operation for Stacks).",
		Source: "dodo; HashiCorp",
		Bad:    onePolicy(production, "terraform", terraformIDs),
		Good:   onePolicy(production, "terraform", terraformIDs+"\nterraform_run_phase: apply"),
		entry: func(e *entry) {
			inSubject := e.all("sub", func(start string) bool { return strings.Contains(start, ":run_phase:apply") })
			if e.production && !e.fixed("terraform_run_phase", "terraform_operation") && !inSubject {
				e.add(Error, e.near("terraform_run_phase"), "add terraform_run_phase: apply", "any phase would do: a plan that a pull request started has the grant too")
			}
		},
	}
}

func k8002() *Rule {
	const account = "kubernetes.io|serviceaccount|uid"
	return &Rule{
		ID: "K8-002", Severity: Warning, Title: "a service account by name, or any namespace", types: []string{"kubernetes"},
		Why:    "An account that is deleted and made again has the same name, and another uid: whoever may make accounts there inherits the grant.",
		Fix:    "Pin kubernetes.io.serviceaccount.uid; kubectl get serviceaccount NAME -o jsonpath={.metadata.uid} prints it.",
		Source: "fulcio docs",
		Bad:    onePolicy("test", "kubernetes", "kubernetes.io: {namespace: payments, serviceaccount: {name: deployer}}"),
		Good:   onePolicy("test", "kubernetes", "kubernetes.io: {namespace: payments, serviceaccount: {name: deployer, uid: 14ee3fa4-a7e2-420f-9f9a-dbc4507c3798}}"),
		entry: func(e *entry) {
			if !e.fixed(account) {
				e.add(Warning, e.claims(), "add kubernetes.io: {serviceaccount: {uid: …}}", "the service account's uid is not pinned: one made again under its name has the grant")
			}
			if l := e.says("kubernetes.io|namespace"); l != nil && e.open(l) {
				n := slices.IndexFunc(l.items, func(i item) bool { return e.wide(&i) })
				e.add(Warning, l.items[n].at, "list the namespaces", "whoever may make a namespace that fits has the grant")
			}
		},
	}
}
