package lint

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

func buildkiteRules() []*Rule { return []*Rule{bk001(), bk002(), bk003()} }

func buildkite() []string { return []string{"buildkite"} }

const buildkiteIDs = "organization_id: 0184990a-477b-4fa8-9968-496074483cee\npipeline_id: 0184990a-4782-42b5-afc1-16715b10b8ff"

func bk001() *Rule {
	return &Rule{
		ID: "BK-001", Severity: Error, Title: "organization_id, or the pipeline, is not pinned", types: buildkite(),
		Why:    "All of Buildkite's customers share one issuer, and slugs can be given up. An error without organization_id; a warning where any pipeline of the organisation would do.",
		Fix:    "Pin organization_id and pipeline_id, and let the job ask for them: buildkite-agent oidc request-token --claim organization_id --claim pipeline_id.",
		Source: "buildkite.com/docs/apis/workload-identity-federation",
		Bad:    onePolicy("test", "buildkite", "organization_slug: acme\npipeline_slug: payments"),
		Good:   onePolicy("test", "buildkite", buildkiteIDs),
		entry: func(e *entry) {
			switch {
			case e.anonymous(): // GEN-002
			case !e.fixed("organization_id"):
				e.add(Error, e.claims(), `add organization_id: "…", and ask for it by --claim organization_id`, "organization_id is not pinned: slugs can be given up, and the issuer is everybody's")
			case !e.pinned("pipeline_id", "pipeline_slug"):
				e.add(Warning, e.claims(), `add pipeline_id: "…", and ask for it by --claim pipeline_id`, "any pipeline of the organisation would do")
			}
		},
	}
}

func bk002() *Rule {
	return &Rule{
		ID: "BK-002", Severity: Warning, Title: "build_branch without build_source", types: buildkite(),
		Why:    "Whoever starts a build by hand or by the API names its branch, whatever commit it builds.",
		Fix:    "Pin build_source: webhook, or schedule.",
		Source: "fulcio config.yaml; not checked against live tokens",
		Bad:    onePolicy("test", "buildkite", buildkiteIDs+"\nbuild_branch: main"),
		Good:   onePolicy("test", "buildkite", buildkiteIDs+"\nbuild_branch: main\nbuild_source: webhook"),
		entry: func(e *entry) {
			if e.pinned("build_branch") && !e.pinned("build_source") {
				e.add(Warning, e.place("build_branch"), "add build_source: webhook", "whoever starts a build by hand names the branch")
			}
		},
	}
}

func bk003() *Rule {
	return &Rule{
		ID: "BK-003", Severity: Warning, Title: "a `sub` that leaves commit and step open, for production", types: buildkite(),
		Why:    "The pipeline's author chooses the step's key, and any commit fits.",
		Fix:    "Match organization_id, pipeline_id, build_branch and build_source instead of sub.",
		Source: "Buildkite docs",
		Bad:    onePolicy(production, "buildkite", buildkiteIDs+"\nsub: {glob: organization:acme:pipeline:payments:ref:refs/heads/main:commit:*:step:*}"),
		Good:   onePolicy(production, "buildkite", buildkiteIDs+"\nbuild_branch: main\nbuild_source: webhook"),
		entry: func(e *entry) {
			if i := anyStep(e); i != nil {
				e.add(Warning, i.at, "match pipeline_id, build_branch and build_source instead of sub", "sub leaves the step open, whose key the pipeline's author chooses")
			}
		},
	}
}

// anyStep is an alternative of `sub` that leaves the step open, in production.
func anyStep(e *entry) *item {
	l := e.says("sub")
	if l == nil || !e.production {
		return nil
	}
	for n := range l.items {
		if i := &l.items[n]; e.wide(i) && (strings.HasSuffix(i.text(), "*") || e.reading(i.text()).wide) {
			return i
		}
	}
	return nil
}

// CircleCI's claims have names as URLs do.
const (
	circle        = "oidc.circleci.com/"
	circleProject = circle + "project-id"
	circleOrigin  = circle + "vcs-origin"
	circleRerun   = circle + "ssh-rerun"
)

func circleciRules() []*Rule { return []*Rule{cc001(), cc002(), cc003()} }

func circleci() []string { return []string{"circleci"} }

const circleJob = circleProject + ": 9f2c1f0e-6f3b-4c42-a0f1-4d5e4c9f7a10\n" + circleOrigin + ": github.com/acme/payments\n" + circleRerun + ": false"

func cc001() *Rule {
	return &Rule{
		ID: "CC-001", Severity: Warning, Title: "no project-id, or a `sub` with project/*", types: circleci(),
		Why:    "Any project of the organisation would do. CircleCI's own sample has project/*.",
		Fix:    "Pin oidc.circleci.com/project-id.",
		Source: "CircleCI docs",
		Bad:    onePolicy("test", "circleci", strings.TrimPrefix(circleJob, circleProject+": 9f2c1f0e-6f3b-4c42-a0f1-4d5e4c9f7a10\n")),
		Good:   onePolicy("test", "circleci", circleJob),
		entry: func(e *entry) {
			switch i := anyProject(e); {
			case i != nil:
				e.add(Warning, i.at, "pin "+circleProject+", and leave sub out", "sub fits any project of the organisation")
			case e.anonymous(): // GEN-002
			case !e.fixed(circleProject) && e.says("sub") == nil:
				e.add(Warning, e.claims(), "add "+circleProject+`: "…"`, "any project of the organisation would do")
			}
		},
	}
}

// anyProject is an alternative of `sub` that fits any project.
func anyProject(e *entry) *item {
	l := e.says("sub")
	if l == nil || e.fixed(circleProject) {
		return nil
	}
	for n := range l.items {
		i := &l.items[n]
		if e.wide(i) && slices.ContainsFunc(e.starts(i), func(start string) bool { return !circleSubject().MatchString(start) }) {
			return i
		}
	}
	return nil
}

var circleSubject = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^org/[^/]+/project/[^/]+/`)
})

func cc002() *Rule {
	return &Rule{
		ID: "CC-002", Severity: Error, Title: "vcs-origin is not pinned, so that builds of forks match", types: circleci(),
		Why:    "Where secrets are passed to builds of forks, those have tokens of the same project; vcs-origin alone names the fork.",
		Fix:    "Pin oidc.circleci.com/vcs-origin: github.com/OWNER/NAME.",
		Source: "CircleCI docs",
		Unseen: "Whether the project passes secrets to builds of forks: where it never will, waive this.",
		Bad:    onePolicy("test", "circleci", strings.Replace(circleJob, circleOrigin+": github.com/acme/payments\n", "", 1)),
		Good:   onePolicy("test", "circleci", circleJob),
		entry: func(e *entry) {
			if !e.pinned(circleOrigin) && !originInSubject(e) && !e.anonymous() {
				e.add(Error, e.claims(), "add "+circleOrigin+": github.com/OWNER/NAME", "vcs-origin is not pinned: builds of forks would match, where they get tokens")
			}
		},
	}
}

// originInSubject says whether a `sub` of the second form names the repository.
func originInSubject(e *entry) bool {
	l := e.says("sub")
	return l != nil && !slices.ContainsFunc(l.items, func(i item) bool {
		_, origin, found := strings.Cut(i.text(), "/vcs-origin/")
		return !found || i.form == regex || strings.HasPrefix(origin, "*")
	})
}

func cc003() *Rule {
	return &Rule{
		ID: "CC-003", Severity: Warning, Title: "ssh-rerun is not required to be false", types: circleci(),
		Why:    "Where it is true, a person has a shell in the job, and in it the credentials.",
		Fix:    "Pin oidc.circleci.com/ssh-rerun: false.",
		Source: "CircleCI docs",
		Bad:    onePolicy("test", "circleci", strings.TrimSuffix(circleJob, "\n"+circleRerun+": false")),
		Good:   onePolicy("test", "circleci", circleJob),
		entry: func(e *entry) {
			if !e.only(circleRerun, false) && !e.anonymous() {
				e.add(Warning, e.near(circleRerun), "add "+circleRerun+": false", "a job with a person's shell in it may have the grant")
			}
		},
	}
}
