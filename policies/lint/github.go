package lint

import (
	"bytes"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/strictyaml"
)

func githubRules() []*Rule {
	return []*Rule{gh001(), gh004(), gh006(), gh007(), gh008(), gh009(), gh010(), gh011(), gh012(), gh013(), gh015(), gh016(), gh018()}
}

// github are the types that GitHub's rules judge.
func github() []string { return []string{"github"} }

// githubOwned says whether an id of repository or owner is pinned: as a claim, or
// within an immutable `sub`.
func githubOwned(e *entry) bool {
	return e.fixed("repository_id", "repository_owner_id") || e.all("sub", immutableOwner)
}

func gh001() *Rule {
	return &Rule{
		ID: "GH-001", Severity: Error, Title: "neither repository_id nor repository_owner_id is pinned", types: github(),
		Why:    "Names of repositories and organisations can be given up and registered by anybody: GEN-003, for GitHub. A pattern pins no id.",
		Fix:    `Add repository_id, or write the name as a pair: repository: {name: acme/payments, id: "123"}.`,
		Source: "github/docs oidc.md",
		Bad:    onePolicy("test", "github", "repository: acme/payments\nevent_name: push"),
		Good:   onePolicy("test", "github", "repository: {name: acme/payments, id: \"123\"}\nevent_name: push"),
		entry: func(e *entry) {
			if githubOwned(e) || e.shared() && !e.pinned(whose("github")...) || onlyWorkflow(e) {
				return // or GEN-002's, or GH-006's
			}
			at, hint := e.claims(), `add repository_id: "…": gh api repos/OWNER/NAME --jq .id prints it`
			if l := e.says("repository"); l != nil {
				at, hint = l.at, pairHint(l)
			}
			e.add(Error, at, hint, "no id of a repository or its owner is pinned: who registers the name later has the grant")
		},
	}
}

// onlyWorkflow says whether a workflow file alone says whose job it is.
func onlyWorkflow(e *entry) bool {
	return e.pinned("job_workflow_ref") && !e.pinned("repository", "repository_owner", "sub", "workflow_ref")
}

func gh004() *Rule {
	return &Rule{
		ID: "GH-004", Severity: Error, Title: "event_name is not pinned, or lets in events that run other people's code", types: github(),
		Why:    "pull_request_target, workflow_run and issue_comment run in the name of the base repository, on its default branch, and can be started by anybody with an account; many such workflows check out what they were sent.",
		Fix:    "Pin event_name: [push, workflow_dispatch], or what the job needs.",
		Source: "docs.dodopayments.com; PyPI security-model.md",
		Unseen: "Which branch is the default one: main, master, trunk, develop and default are taken for it. An error in production, where neither environment nor another ref is pinned; else a warning.",
		Bad:    onePolicy(production, "github", "repository_id: \"123\"\nref: refs/heads/main\nrunner_environment: github-hosted"),
		Good:   onePolicy(production, "github", someDeploy),
		entry:  checkEvents,
	}
}

func checkEvents(e *entry) {
	if l := e.says("event_name"); l != nil {
		for _, event := range []string{"pull_request_target", "workflow_run", "issue_comment"} {
			if item := e.takes("event_name", event); item != nil {
				e.add(e.graver(Error, Warning), item.at, "leave it out, or list push, workflow_dispatch and the like", "event_name lets %s in: strangers start it in the name of the repository", event)
			}
		}
		return
	}
	if e.speaks("event_name") {
		return
	}
	severity := e.graver(Error, Warning)
	if e.pinned("environment") || !defaultRef(e) {
		if !e.production {
			return
		}
		severity = Warning
	}
	e.add(severity, e.claims(), "add event_name: [push, workflow_dispatch]", "event_name is not pinned: pull_request_target and others run other people's code in the name of the repository")
}

// defaultRef says whether the entry could match the default branch, on which
// strangers can start some events.
func defaultRef(e *entry) bool {
	if e.only("ref_type", "tag") {
		return false
	}
	test := func(start string) bool {
		branch, isBranch := strings.CutPrefix(start, "refs/heads/")
		return strings.HasPrefix(start, "refs/tags/") || isBranch && !slices.Contains([]string{"main", "master", "trunk", "develop", "default"}, branch)
	}
	if l := e.says("ref"); l != nil {
		return e.open(l) && !e.all("ref", func(start string) bool { return strings.HasPrefix(start, "refs/tags/") }) || !e.all("ref", test)
	}
	if e.says("sub") != nil {
		return !e.all("sub", func(start string) bool {
			_, ref, found := strings.Cut(start, ":ref:")
			return strings.Contains(start, ":environment:") || found && test(ref)
		})
	}
	return !e.speaks("ref")
}

func gh006() *Rule {
	return &Rule{
		ID: "GH-006", Severity: Error, Title: "job_workflow_ref is pinned without repository_id or repository_owner_id", types: github(),
		Why:    "Anybody may call a public reusable workflow from a repository of their own: the file's name says nothing of who runs it.",
		Fix:    "Pin repository_id or repository_owner_id of those who may call it.",
		Source: "fulcio docs/oidc.md",
		Bad:    onePolicy("test", "github", "job_workflow_ref: acme/ci/.github/workflows/deploy.yml@refs/heads/main\nevent_name: push"),
		Good:   onePolicy("test", "github", somePush+"\njob_workflow_ref: acme/ci/.github/workflows/deploy.yml@refs/heads/main"),
		entry: func(e *entry) {
			if onlyWorkflow(e) && !githubOwned(e) {
				e.add(Error, e.place("job_workflow_ref"), `add repository_owner_id: "…"`, "job_workflow_ref is pinned, and not who calls it: anybody may call a public workflow")
			}
		},
	}
}

func gh007() *Rule {
	return &Rule{
		ID: "GH-007", Severity: Warning, Title: "a workflow is pinned at any ref", types: github(),
		Why:    "Whoever may push a branch edits the workflow there, and it has the same name.",
		Fix:    "Pin the file at @refs/heads/main, or its commit by workflow_sha or job_workflow_sha.",
		Source: "PyPI security model",
		Unseen: "Whether the branch that is named is protected.",
		Bad:    onePolicy("test", "github", somePush+"\nworkflow_ref: {glob: acme/payments/.github/workflows/deploy.yml@**}"),
		Good:   onePolicy("test", "github", somePush+"\nworkflow_ref: acme/payments/.github/workflows/deploy.yml@refs/heads/main"),
		entry: func(e *entry) {
			for _, of := range [...]struct{ path, sha string }{{"workflow_ref", "workflow_sha"}, {"job_workflow_ref", "job_workflow_sha"}} {
				l := e.says(of.path)
				if l == nil || e.pinned(of.sha) {
					continue
				}
				for n := range l.items {
					if i := &l.items[n]; e.wide(i) && slices.ContainsFunc(e.starts(i), func(start string) bool { return !fixedRef(start) }) {
						e.add(Warning, i.at, "pin it @refs/heads/main, or pin "+of.sha, "%s fits the workflow at any ref: whoever pushes a branch edits it there", of.path)
					}
				}
			}
		},
	}
}

// fixedRef says whether what a workflow's ref begins with goes past refs/heads/ or
// the like into the ref itself.
func fixedRef(start string) bool {
	_, ref, found := strings.Cut(start, "@")
	return found && (strings.HasPrefix(ref, "refs/tags/") && len(ref) > len("refs/tags/") || strings.HasPrefix(ref, "refs/heads/") && len(ref) > len("refs/heads/"))
}

func gh008() *Rule {
	return &Rule{
		ID: "GH-008", Severity: Error, Title: "match on workflow, which is the name that its author wrote", types: github(),
		Why:    "`name:` in any workflow file can be any text, in as many files as one likes.",
		Fix:    "Match workflow_ref (path and ref of the file), or job_workflow_ref for a reusable one.",
		Source: "fulcio config.yaml: mutable, deprecated",
		Bad:    onePolicy("test", "github", somePush+"\nworkflow: deploy"),
		Good:   onePolicy("test", "github", somePush+"\nworkflow_ref: acme/payments/.github/workflows/deploy.yml@refs/heads/main"),
		entry: func(e *entry) {
			if e.pinned("workflow") {
				e.add(Error, e.place("workflow"), "match workflow_ref", "workflow is whatever the author of a workflow file wrote as its name")
			}
		},
	}
}

func gh009() *Rule {
	return &Rule{
		ID: "GH-009", Severity: Warning, Title: "match on actor without actor_id", types: github(),
		Why:    "People rename their accounts, and others take the name.",
		Fix:    `Write the pair, actor: {name: octocat, id: "583231"}, or actor_id alone.`,
		Source: "cageyv.dev",
		Bad:    onePolicy("test", "github", somePush+"\nactor: octocat"),
		Good:   onePolicy("test", "github", somePush+"\nactor: {name: octocat, id: \"583231\"}"),
		entry: func(e *entry) {
			if e.pinned("actor") && !e.fixed("actor_id") {
				hint := "compare actor_id"
				if l := e.says("actor"); l != nil {
					hint = pairHint(l)
				}
				e.add(Warning, e.place("actor"), hint, "actor is a name that somebody else can have later, and actor_id is not pinned")
			}
		},
	}
}

func gh010() *Rule {
	return &Rule{
		ID: "GH-010", Severity: Info, Title: "environment taken for an approval, with no note that it is protected", types: github(),
		Why:    "No claim says whether an environment is protected, and one comes into being when a job first names it: without protection rules it proves nothing.",
		Fix:    "Protect the environment in the repository's settings, and say so in a comment on that line: # protected.",
		Source: "GitHub's documentation has no such claim; not checked against live tokens",
		Bad:    onePolicy(production, "github", someDeploy+"\nenvironment: production"),
		Good:   onePolicy(production, "github", someDeploy+"\nenvironment: production # protected: two reviewers"),
		entry: func(e *entry) {
			if l := e.says("environment"); l != nil && e.production && !e.noted(l.at) {
				e.add(Info, l.at, "protect it, and note that here: # protected", "nothing in a token says whether the environment is protected")
			}
		},
	}
}

// noted says whether a comment in that line speaks of protection.
func (p *policy) noted(at strictyaml.Pos) bool {
	n := 0
	for text := range bytes.Lines(p.file.Data) {
		if n++; n == at.Line {
			_, comment, _ := bytes.Cut(text, []byte(" #"))
			return bytes.Contains(comment, []byte("protect"))
		}
	}
	return false
}

func gh011() *Rule {
	return &Rule{
		ID: "GH-011", Severity: Error, Title: "a ref that is not fully qualified, or a pattern that fits branches and tags", types: github(),
		Why:    "GitHub's refs are written in full: `main` matches nothing, and refs/* lets tags in, which anybody who may push can make.",
		Fix:    "Write refs/heads/main, or a pattern that begins with refs/heads/ or refs/tags/.",
		Source: "github/docs",
		Bad:    onePolicy("test", "github", somePush+"\nref: main"),
		Good:   onePolicy("test", "github", somePush+"\nref: refs/heads/main"),
		entry: func(e *entry) {
			l := e.says("ref")
			if l == nil {
				return
			}
			for n := range l.items {
				i := &l.items[n]
				if i.form == contains || i.raw == "" || i.text() == "" {
					continue
				}
				bad := slices.ContainsFunc(e.starts(i), func(start string) bool {
					return !strings.HasPrefix(start, "refs/heads/") && !strings.HasPrefix(start, "refs/tags/") && !strings.HasPrefix(start, "refs/pull/")
				})
				switch {
				case bad && e.wide(i):
					e.add(Error, i.at, "begin with refs/heads/ or refs/tags/", "ref: the pattern doesn't say whether it is for branches or tags")
				case bad && !strings.HasPrefix(i.text(), "refs/"):
					e.add(Error, i.at, "write refs/heads/"+i.text(), "ref: GitHub's refs are written in full, so that %s matches nothing", quoted(i.text()))
				}
			}
		},
	}
}

func gh012() *Rule {
	return &Rule{
		ID: "GH-012", Severity: Warning, Title: "tags are let in, and nothing says that they are protected", types: github(),
		Why:    "Whoever may push can push a tag, on any commit, with any workflow in it.",
		Fix:    "Protect tags by a ruleset; then pin ref_protected: \"true\", or ref_type: tag, or say so in a comment on that line: # protected.",
		Source: "PyPI security model",
		Bad:    onePolicy("test", "github", somePush+"\nref: {glob: refs/tags/v*}"),
		Good:   onePolicy("test", "github", somePush+"\nref: {glob: refs/tags/v*}\nref_type: tag\nref_protected: \"true\""),
		entry: func(e *entry) {
			l := e.says("ref")
			if l == nil || e.only("ref_type", "tag") || e.only("ref_protected", "true") {
				return
			}
			for n := range l.items {
				i := &l.items[n]
				if e.wide(i) && slices.ContainsFunc(e.starts(i), func(start string) bool { return strings.HasPrefix(start, "refs/tags/") }) && !e.noted(i.at) {
					e.add(Warning, i.at, `add ref_protected: "true", or note here: # protected`, "whoever may push can push a tag that fits")
				}
			}
		},
	}
}

func gh013() *Rule {
	return &Rule{
		ID: "GH-013", Severity: Warning, Title: "a production grant for any runner", types: github(),
		Why:    "A self-hosted runner keeps what one job leaves behind, and the next job, a pull request's perhaps, finds it.",
		Fix:    "Pin runner_environment: github-hosted, or give the job to an exception, which is on record and ends.",
		Source: "github/docs",
		Bad:    onePolicy(production, "github", somePush+"\nref: refs/heads/main"),
		Good:   onePolicy(production, "github", someDeploy),
		entry: func(e *entry) {
			if e.production && e.exception == nil && !e.only("runner_environment", "github-hosted") {
				e.add(Warning, e.near("runner_environment"), "add runner_environment: github-hosted", "self-hosted runners, which keep state between jobs, may have a production grant")
			}
		},
	}
}

// near is where the entry speaks of a claim, or where its claims stand.
func (e *entry) near(path string) strictyaml.Pos {
	if l := e.says(path); l != nil {
		return l.at
	}
	return e.claims()
}
