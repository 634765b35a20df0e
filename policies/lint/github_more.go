package lint

import (
	"regexp"
	"strings"
	"sync"
)

const githubRoot = "https://token.actions.githubusercontent.com"

func gh015() *Rule {
	return &Rule{
		ID: "GH-015", Severity: Error, Title: "a test for a part of a repository property", types: github(),
		Why:    "The values of a property with several are one text, joined by commas: `prod` is a part of `nonprod`, and a pattern fits what was meant for another value.",
		Fix:    "List the whole texts that the property may have.",
		Source: "github/docs",
		Unseen: "Parts that a condition takes by split() or matches().",
		Bad:    onePolicy("test", "github", somePush+"\nrepo_property_stage: {glob: '*prod*'}"),
		Good:   onePolicy("test", "github", somePush+"\nrepo_property_stage: [prod, 'eu,prod']"),
		entry: func(e *entry) {
			for i := range e.own {
				l := &e.own[i]
				if !strings.HasPrefix(l.path, "repo_property_") {
					continue
				}
				for n := range l.items {
					if item := &l.items[n]; item.form == contains || item.form == glob && e.wide(item) || item.form == regex && e.wide(item) && e.reading(item.text()).wide {
						e.add(Error, item.at, "list the whole texts", "claim %s: its values are one text, joined by commas, of which this fits a part", l.path)
					}
				}
			}
			if m := partOfProperty().FindStringSubmatch(e.job.Condition); m != nil {
				e.add(Error, e.condition(), "compare the whole text", "condition: the values of %s are one text, joined by commas, of which %s fits a part", m[1], m[2])
			}
		},
	}
}

var partOfProperty = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`claims\.(repo_property_\w+)\.(contains|startsWith|endsWith)\(`)
})

func gh016() *Rule {
	return &Rule{
		ID: "GH-016", Severity: Warning, Title: "an enterprise is pinned beside the issuer of all, or another enterprise's", types: github(),
		Why:    "An enterprise can have an issuer of its own, …/SLUG. Then its tokens never come from the root issuer, and jobs are locked out; and where both are trusted, more is trusted than was meant.",
		Fix:    "Name the one issuer that the enterprise's tokens have.",
		Source: "github/docs",
		Unseen: "Whether the enterprise has switched to an issuer of its own.",
		Bad:    onePolicy("test", "github", somePush+"\nenterprise: {name: acme, id: \"9\"}"),
		Good:   onePolicy("test", "github", somePush),
		entry: func(e *entry) {
			slug, isSlug := strings.CutPrefix(e.config.Issuer, githubRoot+"/")
			l := e.says("enterprise")
			switch {
			case e.config.Issuer == githubRoot && e.pinned("enterprise", "enterprise_id"):
				path := "enterprise"
				if !e.pinned(path) {
					path = "enterprise_id"
				}
				e.add(Warning, e.place(path), "if it has an issuer of its own, name that one: "+githubRoot+"/SLUG", "an enterprise is pinned, and the provider's issuer is that of all of GitHub.com")
			case isSlug && l != nil && e.takes("enterprise", slug) == nil:
				e.add(Warning, l.at, "write "+slug, "the provider's issuer is that of the enterprise %s, so that another never matches", slug)
			}
		},
		provider: func(p *provider) {
			if p.Type != "github" || p.Issuer != githubRoot {
				return
			}
			for name, other := range p.ctx.Providers {
				if other.Type == "github" && strings.HasPrefix(other.Issuer, githubRoot+"/") {
					p.add(Warning, p.at("issuer"), "leave one of them out", "beside the enterprise's own issuer of provider %s, that of all of GitHub.com is trusted", name)
				}
			}
		},
	}
}

func gh018() *Rule {
	return &Rule{
		ID: "GH-018", Severity: Warning, Title: "a public repository gets a production grant", types: github(),
		Why:    "Anybody can read its workflows and logs, and open pull requests; a credential that slips into a log is the world's.",
		Fix:    "Deploy from a private repository, or pin what may run as narrowly as can be.",
		Source: "tj-actions, CVE-2025-30066",
		Unseen: "A repository's visibility, unless the entry names it.",
		Bad:    onePolicy(production, "github", someDeploy+"\nrepository_visibility: public"),
		Good:   onePolicy(production, "github", someDeploy+"\nrepository_visibility: private"),
		entry: func(e *entry) {
			if item := e.takes("repository_visibility", "public"); item != nil && e.production {
				e.add(Warning, item.at, "", "a public repository may have a production grant")
			}
		},
	}
}

// What follows is about GitHub's `sub`, of which one rule at most has something to
// say for an entry, the gravest.

func githubSubRules() []*Rule { return []*Rule{gh002(), gh003(), gh005(), gh014(), gh017()} }

var (
	immutableForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^repo:[^/:@]+@[0-9]+/[^/:@]+@[0-9]+:`)
	})
	immutableOwnerForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^repo:[^/:@]+@[0-9]+/`)
	})
	hyphenForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^repo:[^/:@]+-[0-9]{3,}/[^/:@]+-[0-9]{3,}(:|$)`)
	})
	knownPart = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`:(ref|environment|job_workflow_ref|workflow_ref|actor|actor_id|repository|repository_id|repository_owner|repository_owner_id|repository_visibility|event_name|context|workflow|runner_environment):`)
	})
)

// immutableOwner says whether a `sub` that begins so holds the owner's id.
func immutableOwner(start string) bool { return immutableOwnerForm().MatchString(start) }

// githubSub is the rule that has something to say about the entry's `sub`, and the
// alternative it is about; "" for none.
func githubSub(e *entry) (rule string, at *item) {
	l := e.says("sub")
	if l == nil {
		return "", nil
	}
	old, immutable := 0, 0
	for n := range l.items {
		i := &l.items[n]
		for _, start := range e.starts(i) {
			switch {
			case hyphenForm().MatchString(start):
				return "GH-003", i
			case pullSubject(e, i):
				rule, at = "GH-005", i
			case rule == "" && literalColon(i):
				rule, at = "GH-014", i
			case immutableForm().MatchString(start):
				immutable++
			case strings.HasPrefix(start, "repo:"):
				old++
			}
		}
	}
	switch {
	case rule != "":
		return rule, at
	case old > 0 && immutable > 0:
		return "GH-017", &l.items[0]
	case old+immutable > 0:
		return "GH-002", &l.items[0]
	default:
		return "", nil
	}
}

// subject is the check of one of these rules.
func subject(id string, report func(e *entry, at *item)) func(*entry) {
	return func(e *entry) {
		if rule, at := githubSub(e); rule == id {
			report(e, at)
		}
	}
}

// pullSubject says whether an alternative lets pull requests in.
func pullSubject(e *entry, i *item) bool {
	text := i.text()
	switch i.form {
	case glob:
		parts := strings.SplitN(text, ":", 3)
		if len(parts) < 3 {
			return strings.HasSuffix(text, "**")
		}
		return strings.Trim(parts[2], "*") == "" || e.match("glob", parts[2], "pull_request")
	case regex:
		parts := strings.SplitN(text, ":", 3)
		return len(parts) == 3 && (parts[2] == ".*" || parts[2] == ".+" || e.match("regex", parts[2], "pull_request"))
	default:
		return strings.HasSuffix(text, ":pull_request")
	}
}

// literalColon says whether the environment or ref within an exact `sub` of the
// default form holds a colon.
func literalColon(i *item) bool {
	if i.form != exact {
		return false
	}
	for _, part := range []string{":environment:", ":ref:"} {
		if _, value, found := strings.Cut(i.text(), part); found {
			return strings.Contains(value, ":") && !knownPart().MatchString(":"+value+":")
		}
	}
	return false
}

const subHint = "match repository_id, ref, environment and event_name instead of sub"

func gh002() *Rule {
	return &Rule{
		ID: "GH-002", Severity: Warning, Title: "one of the two default forms of `sub` alone", types: github(),
		Why:    "Repositories created or renamed since 2026-07-15 have repo:OWNER@ID/NAME@ID:…, the others repo:OWNER/NAME:…, until an admin switches. Jobs stop working on that day.",
		Fix:    "Match the claims that `sub` is made of; or list both forms while they move.",
		Source: "github/docs oidc.md; miren#995",
		Bad:    onePolicy("test", "github", somePush+"\nsub: repo:acme/payments:ref:refs/heads/main"),
		Good:   onePolicy("test", "github", somePush+"\nref: refs/heads/main"),
		entry: subject("GH-002", func(e *entry, at *item) {
			e.add(Warning, at.at, subHint, "sub has two default forms, with ids and without, and this fits one of them alone")
		}),
	}
}

func gh003() *Rule {
	return &Rule{
		ID: "GH-003", Severity: Error, Title: "`sub` in the form repo:org-123/repo-456", types: github(),
		Why:    "GitHub showed this form once and withdrew it. Today it names an organisation org-123, which anybody can register.",
		Fix:    "Pin repository_id and repository_owner_id.",
		Source: "boostsecurity, Sleeper Squats (H1 #3693338)",
		Bad:    onePolicy("test", "github", somePush+"\nsub: repo:acme-123/payments-456:ref:refs/heads/main"),
		Good:   onePolicy("test", "github", somePush+"\nref: refs/heads/main"),
		entry: subject("GH-003", func(e *entry, at *item) {
			e.add(Error, at.at, "pin repository_id and repository_owner_id", "in this form of sub the numbers are parts of names, which strangers can register")
		}),
	}
}

func gh005() *Rule {
	return &Rule{
		ID: "GH-005", Severity: Error, Title: "a `sub` that lets pull requests in", types: github(),
		Why:    "Every pull request of the repository has a sub that ends in :pull_request, whatever code is in it. An error in production, else a warning.",
		Fix:    "Pin ref or environment, and event_name.",
		Source: "subvectors; Checkov's CKV_AZURE_249 lets it pass",
		Bad:    onePolicy(production, "github", someDeploy+"\nsub: repo:acme/payments:pull_request"),
		Good:   onePolicy(production, "github", someDeploy),
		entry: subject("GH-005", func(e *entry, at *item) {
			e.add(e.graver(Error, Warning), at.at, subHint, "sub lets pull requests in, whatever code is in them")
		}),
	}
}

func gh014() *Rule {
	return &Rule{
		ID: "GH-014", Severity: Error, Title: "a colon in the environment or ref of a `sub`", types: github(),
		Why:    "In a token it is %3A, so that this matches nothing; and where an old server leaves it as it is, an environment called a:ref:refs/heads/main passes for a branch.",
		Fix:    "Pin the environment claim, in which a colon is itself, or write %3A.",
		Source: "github/docs",
		Bad:    onePolicy("test", "github", somePush+"\nsub: repo:acme/payments:environment:prod:eu"),
		Good:   onePolicy("test", "github", somePush+"\nenvironment: prod:eu"),
		entry: subject("GH-014", func(e *entry, at *item) {
			e.add(Error, at.at, "pin environment, or write %3A", "within sub, a colon of the environment or ref is written %%3A")
		}),
	}
}

func gh017() *Rule {
	return &Rule{
		ID: "GH-017", Severity: Warning, Title: "`sub` in both default forms, where a template can change it", types: github(),
		Why:    "An admin of the repository or organisation can give `sub` another template; then the jobs are locked out, or a part that was relied on is gone.",
		Fix:    "Match the claims that `sub` is made of.",
		Source: "github/docs",
		Unseen: "Which template a repository has.",
		Bad:    onePolicy("test", "github", somePush+"\nsub: ['repo:acme/payments:ref:refs/heads/main', 'repo:acme@65/payments@123:ref:refs/heads/main']"),
		Good:   onePolicy("test", "github", somePush+"\nref: refs/heads/main"),
		entry: subject("GH-017", func(e *entry, at *item) {
			e.add(Warning, at.at, subHint, "an admin can give sub another template, and then neither form fits")
		}),
	}
}
