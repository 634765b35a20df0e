package lint

import (
	"slices"
	"strings"
)

func gitlabRules() []*Rule {
	return []*Rule{gl001(), gl002(), gl003(), gl004(), gl005(), gl006(), gl007(), gl009()}
}

func gitlab() []string { return []string{"gitlab"} }

// Claims of examples, of GitLab CI.
const (
	gitlabPush   = "project_id: \"20\"\npipeline_source: push"
	gitlabDeploy = gitlabPush + "\nref: main\nref_type: branch\nref_protected: \"true\"\nci_config_ref_uri: gitlab.example.com/acme/payments//.gitlab-ci.yml@refs/heads/main"
)

func gl001() *Rule {
	return &Rule{
		ID: "GL-001", Severity: Error, Title: "neither project_id nor namespace_id is pinned", types: gitlab(),
		Why:    "Paths of projects and groups can be given up and taken by somebody else: GEN-003, for GitLab. A pattern pins no id.",
		Fix:    `Add project_id, or write the path as a pair: project_path: {name: acme/payments, id: "20"}.`,
		Source: "dodo's GitLab page; PyPI on resurrection",
		Bad:    onePolicy("test", "gitlab", "project_path: acme/payments\npipeline_source: push"),
		Good:   onePolicy("test", "gitlab", "project_path: {name: acme/payments, id: \"20\"}\npipeline_source: push"),
		entry: func(e *entry) {
			if e.fixed("project_id", "namespace_id", "job_project_id", "job_namespace_id") || e.shared() && !e.pinned(whose("gitlab")...) {
				return // or GEN-002's
			}
			at, hint := e.claims(), `add project_id: "…", which the project's page shows`
			if l := e.says("project_path"); l != nil {
				at, hint = l.at, pairHint(l)
			}
			e.add(Error, at, hint, "no id of a project or its group is pinned: who has the path later has the grant")
		},
	}
}

func gl002() *Rule {
	return &Rule{
		ID: "GL-002", Severity: Error, Title: "ref without ref_type or ref_path", types: gitlab(),
		Why:    "GitLab's ref has no refs/heads/: a tag called main is as good as the branch, and more people may make tags.",
		Fix:    "Add ref_type: branch, or match ref_path: refs/heads/main.",
		Source: "GitLab docs",
		Bad:    onePolicy("test", "gitlab", gitlabPush+"\nref: main"),
		Good:   onePolicy("test", "gitlab", gitlabPush+"\nref: main\nref_type: branch"),
		entry: func(e *entry) {
			if l := e.says("ref"); l != nil && !e.pinned("ref_type", "ref_path") {
				e.add(Error, l.at, "add ref_type: branch", "a tag of that name is as good as the branch")
			}
		},
	}
}

func gl003() *Rule {
	return &Rule{
		ID: "GL-003", Severity: Error, Title: "a production grant without ref_protected or environment_protected", types: gitlab(),
		Why:    "Any developer pushes a branch of any name, and what isn't protected has no rules.",
		Fix:    `Add ref_protected: "true" or environment_protected: "true".`,
		Source: "GitLab docs",
		Bad:    onePolicy(production, "gitlab", strings.Replace(gitlabDeploy, "ref_protected: \"true\"\n", "", 1)),
		Good:   onePolicy(production, "gitlab", gitlabDeploy),
		entry: func(e *entry) {
			if e.production && !e.only("ref_protected", "true", true) && !e.only("environment_protected", "true", true) {
				e.add(Error, e.claims(), `add ref_protected: "true"`, "neither a protected ref nor a protected environment is asked for: any developer can push a branch")
			}
		},
	}
}

func gl004() *Rule {
	return &Rule{
		ID: "GL-004", Severity: Error, Title: "true or false where GitLab sends a text", types: gitlab(),
		Why:    "GitLab sends \"true\" and \"false\": a truth value never matches.",
		Fix:    "Quote it.",
		Source: "GitLab docs",
		Bad:    onePolicy("test", "gitlab", gitlabPush+"\nref_protected: true"),
		Good:   onePolicy("test", "gitlab", gitlabPush+"\nref_protected: \"true\""),
		entry: func(e *entry) {
			for i := range e.own {
				for n := range e.own[i].items {
					if item := &e.own[i].items[n]; gitlabBool(e, &e.own[i], item) {
						e.add(Error, item.at, rewrite(e.own[i].known, item.raw), "claim %s: %s", shown(e.own[i].path), mismatch(e.own[i].known, item.raw))
					}
				}
			}
		},
	}
}

// gitlabBool says whether an item is GL-004's, and not GEN-009's.
func gitlabBool(e *entry, l *line, i *item) bool {
	_, isBool := i.raw.(bool)
	return e.config.Type == "gitlab" && isBool && i.form == exact && l.known != nil && !sends(l.known, i.raw)
}

func gl005() *Rule {
	return &Rule{
		ID: "GL-005", Severity: Warning, Title: "merge request pipelines are let in", types: gitlab(),
		Why:    "In the pipeline of a merge request from a fork that runs in the parent, project_* name the fork or, since a security fix, the parent: who that lets in depends on the version.",
		Fix:    "Pin pipeline_source to what deploys (push, web, schedule), or job_project_id beside project_id.",
		Source: "gitlab#563038",
		Bad:    onePolicy("test", "gitlab", "project_id: \"20\""),
		Good:   onePolicy("test", "gitlab", gitlabPush),
		entry: func(e *entry) {
			item := e.takes("pipeline_source", "merge_request_event")
			if item == nil && e.pinned("pipeline_source") || e.pinned("job_project_id") {
				return
			}
			e.add(Warning, e.near("pipeline_source"), "add pipeline_source: [push, web, schedule], or job_project_id", "pipelines of merge requests are let in, those from forks too")
		},
	}
}

func gl006() *Rule {
	return &Rule{
		ID: "GL-006", Severity: Error, Title: "a pattern for namespace_path that goes on within a name", types: gitlab(),
		Why:    "`grp*` fits grp-evil too, which anybody can register. And namespace_id is that of the group directly above the project alone.",
		Fix:    "Write grp for the group itself and {glob: grp/**} for those below it, with project_id or namespace_id.",
		Source: "the rule GEN-004, for GitLab",
		Bad:    onePolicy("test", "gitlab", gitlabPush+"\nnamespace_path: {glob: acme*}"),
		Good:   onePolicy("test", "gitlab", gitlabPush+"\nnamespace_path: [acme, {glob: acme/**}]"),
		entry: func(e *entry) {
			for _, path := range []string{"namespace_path", "job_namespace_path"} {
				l := e.says(path)
				if l == nil {
					continue
				}
				for n := range l.items {
					if i := &l.items[n]; e.wide(i) && slices.ContainsFunc(e.starts(i), func(start string) bool { return !strings.HasSuffix(start, "/") && !strings.Contains(start, "/") }) {
						e.add(Error, i.at, "write [grp, {glob: grp/**}]", "%s: the pattern fits groups whose names merely begin so", path)
					}
				}
			}
		},
	}
}

func gl007() *Rule {
	return &Rule{
		ID: "GL-007", Severity: Warning, Title: "people are told by login, e-mail address or group", types: gitlab(),
		Why:    "They change, and others take them; and groups_direct is left out above 200 groups.",
		Fix:    "Pin user_id.",
		Source: "GitLab docs",
		Bad:    onePolicy("test", "gitlab", gitlabPush+"\nuser_login: ada"),
		Good:   onePolicy("test", "gitlab", gitlabPush+"\nuser_login: {name: ada, id: \"7\"}"),
		entry: func(e *entry) {
			for _, path := range []string{"user_login", "user_email", "groups_direct"} {
				if e.pinned(path) && !e.fixed("user_id") {
					e.add(Warning, e.place(path), "pin user_id", "%s can change, and user_id is not pinned", path)
				}
			}
		},
	}
}

func gl009() *Rule {
	return &Rule{
		ID: "GL-009", Severity: Info, Title: "a production grant without the pipeline's definition pinned", types: gitlab(),
		Why:    "Whoever writes .gitlab-ci.yml writes the job. Where a compliance pipeline is required, ci_config_ref_uri says whether this is one.",
		Fix:    "Pin ci_config_ref_uri or ci_config_sha.",
		Source: "fulcio docs/oidc.md",
		Unseen: "Whether a compliance pipeline is required.",
		Bad:    onePolicy(production, "gitlab", gitlabPush+"\nref: main\nref_type: branch\nref_protected: \"true\""),
		Good:   onePolicy(production, "gitlab", gitlabDeploy),
		entry: func(e *entry) {
			if e.production && !e.pinned("ci_config_ref_uri", "ci_config_sha", "job_config") {
				e.add(Info, e.claims(), "pin ci_config_ref_uri", "the pipeline's definition is not pinned: its author writes the job")
			}
		},
	}
}
