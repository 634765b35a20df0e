package lint

import (
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

func genericRules() []*Rule {
	return []*Rule{gen002(), gen003(), gen008(), gen017(), gen018()}
}

// Claims of examples, of GitHub Actions.
const (
	somePush   = "repository_id: \"123\"\nevent_name: push"
	someDeploy = somePush + "\nref: refs/heads/main\nrunner_environment: github-hosted"
)

func gen002() *Rule {
	return &Rule{
		ID: "GEN-002", Severity: Error, Title: "nothing says whose pipeline it is, at an issuer that everybody shares",
		Why:    "GitHub.com, GitLab.com, Buildkite and HCP Terraform sign the tokens of all their customers with one `iss`. A branch name or an event alone is matched by any stranger's pipeline.",
		Fix:    "Pin the id of the repository, project, pipeline or workspace, or that of its owner.",
		Source: "Tinder Security Labs and Datadog on AWS roles open to all of GitHub; UNC6426",
		Unseen: "Where no configuration says what a provider's issuer is, it is taken to be the shared one.",
		Bad:    onePolicy("test", "github", "ref: refs/heads/main\nevent_name: push"),
		Good:   onePolicy("test", "github", somePush+"\nref: refs/heads/main"),
		entry: func(e *entry) {
			if e.shared() && !e.pinned(whose(e.config.Type)...) {
				e.add(Error, e.claims(), "add "+e.known.Tenant[0]+`: "…"`, "nothing says whose job this is: any stranger's at %s would match", e.known.Title)
			}
		},
	}
}

// whose are the claims of a type that say whose job it is, by id or by name.
func whose(typ string) []string {
	switch typ {
	case "github":
		return []string{"repository_id", "repository", "repository_owner_id", "repository_owner", "enterprise_id", "enterprise", "sub", "workflow_ref", "job_workflow_ref"}
	case "gitlab":
		return []string{
			"project_id", "project_path", "namespace_id", "namespace_path", "job_project_id", "job_project_path",
			"job_namespace_id", "job_namespace_path", "ci_config_ref_uri", "sub",
		}
	case "buildkite":
		return []string{"pipeline_id", "pipeline_slug", "organization_id", "organization_slug", "cluster_id", "queue_id", "sub"}
	case "circleci":
		return []string{circleProject, circle + "org-id", circleOrigin, "sub"}
	case "terraform":
		return []string{
			"terraform_organization_id", "terraform_organization_name", "terraform_project_id", "terraform_project_name", "terraform_workspace_id",
			"terraform_workspace_name", "terraform_full_workspace", "terraform_stack_id", "terraform_stack_name", "sub",
		}
	default:
		return nil
	}
}

func gen003() *Rule {
	return &Rule{
		ID: "GEN-003", Severity: Error, Title: "trust rests on a name alone, though the token holds an id",
		Why:    "Names can be given up and taken by somebody else; ids are never given out twice. An error where no id at all is pinned, a warning where the owner's is, and a repository within it goes by its name.",
		Fix:    `Write the pair, such as repository: {name: acme/payments, id: "123"}: a token with one half of it is refused and raised as an event.`,
		Source: "Astrix on Sub:jugation; PyPI's notes on account resurrection",
		Unseen: "Where no id of a repository or an organisation is pinned, GH-001, GL-001, BK-001, TF-001, AD-002 and K8-002 say so for their providers, and this rule doesn't repeat it.",
		Bad:    onePolicy("test", "github", "repository: acme/payments\nrepository_owner_id: \"65\"\nevent_name: push"),
		Good:   onePolicy("test", "github", "repository: {name: acme/payments, id: \"123\"}\nrepository_owner_id: \"65\"\nevent_name: push"),
		entry:  checkNames,
	}
}

func checkNames(e *entry) {
	if e.known == nil || e.config.Type == "kubernetes" {
		return
	}
	owned := e.fixed(e.known.Tenant...)
	if !owned && (slices.Contains([]string{"github", "gitlab", "buildkite", "terraform"}, e.config.Type) || e.says("sub") != nil) {
		return // a rule of its own says so
	}
	for i := range e.own {
		l := &e.own[i]
		if l.known == nil || l.known.Nature != catalogue.Name || l.known.ID == "" || l.known.ID == "actor_id" || l.known.ID == "user_id" || e.fixed(l.known.ID) {
			continue
		}
		if n := slices.Index(e.known.Tenant, l.known.ID); n >= 0 && e.fixed(e.known.Tenant[:n]...) {
			continue // an id of something within it
		}
		severity := Error
		if owned {
			severity = Warning
		}
		e.add(severity, l.at, pairHint(l), "claim %s is a name that somebody else can have later, and %s is not pinned", shown(l.path), shown(l.known.ID))
	}
}

// pairHint writes the pair that a name should be.
func pairHint(l *line) string {
	name := "…"
	if len(l.items) == 1 && l.items[0].form == exact && l.items[0].text() != "" {
		name = l.items[0].text()
	}
	return "write {name: " + name + `, id: "…"}`
}

func gen008() *Rule {
	return &Rule{
		ID: "GEN-008", Severity: Warning, Title: "match on `sub` where the token has a claim for each of its parts",
		Why:    "`sub` is put together of names, and its make-up changes: GitHub's templates and immutable form, Terraform's project, CircleCI's two versions. Then jobs are locked out, or a part that was relied on is gone.",
		Fix:    "Match the claims that it is made of, ids first, and leave `sub` out.",
		Source: "AWS STS condition keys for single claims (2026-01)",
		Unseen: "For GitHub, GH-002, GH-003, GH-005, GH-014 and GH-017 say more of a `sub` that has the default form, and this rule is silent.",
		types:  []string{"github", "gitlab", "buildkite", "circleci", "terraform", "azure", "kubernetes"},
		Bad:    onePolicy("test", "gitlab", "project_id: \"20\"\npipeline_source: push\nsub: project_path:acme/payments:ref_type:branch:ref:main"),
		Good:   onePolicy("test", "gitlab", "project_id: \"20\"\npipeline_source: push\nref: main\nref_type: branch"),
		entry: func(e *entry) {
			l := e.says("sub")
			if l == nil || subRule(e) != "" {
				return
			}
			e.add(Warning, l.at, "match "+strings.Join(e.known.Tenant, ", ")+" and the other claims that it is made of", "sub is put together of several claims, and how can change")
		},
	}
}

// subRule is the rule of the provider's own that has something to say about the
// entry's `sub`; "" for none.
func subRule(e *entry) string {
	switch e.config.Type {
	case "github":
		rule, _ := githubSub(e)
		return rule
	case "buildkite":
		if anyStep(e) != nil {
			return "BK-003"
		}
	case "circleci":
		if anyProject(e) != nil {
			return "CC-001"
		}
	case "azure":
		if subByName(e) {
			return "AD-002"
		}
	}
	return ""
}

func gen017() *Rule {
	return &Rule{
		ID: "GEN-017", Severity: Warning, Title: "a credential's ttl or max_ttl is longer than the session that holds it",
		Why:    "Every lease ends with its session, so that a longer ttl is never had: whoever reads the file believes in a time that isn't true.",
		Fix:    "Shorten the ttl, write `ttl: until job token expires`, or raise the provider's session_ttl.",
		Source: "Vault on lease explosions, doc PR #24683",
		Unseen: "How long a job runs; the default_ttl of an issuer, for a grant without ttl.",
		Bad:    strings.Replace(onePolicy("test", "github", somePush), "issuer: db", "issuer: db, ttl: 2h", 1),
		Good:   strings.Replace(onePolicy("test", "github", somePush), "issuer: db", "issuer: db, ttl: 30m, max_ttl: 1h", 1),
		policy: func(p *policy) { p.eachGrant(p.checkLifetime) },
	}
}

func (p *policy) checkLifetime(g *document.Grant) {
	var session time.Duration
	for _, e := range p.jobsOf(g) {
		if ttl := e.config.SessionTTL; ttl > 0 && (session == 0 || ttl < session) {
			session = ttl
		}
	}
	if session == 0 {
		return
	}
	var ttl time.Duration // 0: none, or until the job's token expires
	if g.TTL != "" && g.TTL != document.UntilTokenExpires {
		ttl, _ = strictyaml.ParseDuration(g.TTL) // one that is none is the loader's to refuse
	}
	for _, of := range [...]struct {
		key    string
		length time.Duration
	}{{"ttl", ttl}, {"max_ttl", g.MaxTTL.Std()}} {
		if of.length > session {
			p.add(Warning, g.At.Of(of.key), "write "+short(session)+" or less, or raise session_ttl", "%s is %s, and the session ends after %s", of.key, short(of.length), short(session))
		}
	}
}

// short writes a duration without the zeros behind it.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if rest, ok := strings.CutSuffix(text, zero); ok && rest != "" && !strings.ContainsAny(rest[len(rest)-1:], "0123456789") {
			text = rest
		}
	}
	return text
}

func gen018() *Rule {
	return &Rule{
		ID: "GEN-018", Severity: Error, Title: "a production grant without a ref, an environment or a workflow pinned",
		Why:    "Whoever can push any branch of that repository gets the grant, with a workflow that they wrote themselves.",
		Fix:    "Pin the branch or tag, the environment, or the workflow file and its ref.",
		Source: "systemshardening.com on hardening OIDC federation",
		Unseen: "Providers whose tokens have no such claim: HCP Terraform (TF-002 looks at the run's phase), Kubernetes, SPIFFE, Jenkins, other OIDC issuers. Which branches are protected.",
		Bad:    onePolicy(production, "github", "repository_id: \"123\"\nevent_name: push\nrunner_environment: github-hosted"),
		Good:   onePolicy(production, "github", someDeploy),
		entry: func(e *entry) {
			places := deployed(e.config.Type)
			if e.production && places != nil && !e.pinned(places...) {
				e.add(Error, e.claims(), "pin "+places[0]+", or another of "+strings.Join(places[1:], ", "), "nothing says from where production may be reached: any branch would do")
			}
		},
	}
}

// deployed are the claims of a type that say from where a job deploys.
func deployed(typ string) []string {
	switch typ {
	case "github":
		return []string{"ref", "environment", "environment_node_id", "workflow_ref", "workflow_sha", "job_workflow_ref", "job_workflow_sha", "sha", "sub"}
	case "gitlab":
		return []string{"ref", "ref_path", "environment", "ci_config_ref_uri", "ci_config_sha", "sha", "sub"}
	case "buildkite":
		return []string{"build_branch", "build_tag", "build_commit", "sub"}
	case "circleci":
		return []string{circle + "vcs-ref", circle + "context-ids", circle + "pipeline-definition-id", "sub"}
	case "bitbucket":
		return []string{"branchName", "deploymentEnvironmentUuid"}
	case "azure":
		return []string{"rpo_ref", "rpo_ver", "sub"}
	default:
		return nil
	}
}
