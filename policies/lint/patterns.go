package lint

import (
	"strings"
)

func patternRules() []*Rule { return []*Rule{gen004(), gen006(), gen007()} }

func gen004() *Rule {
	return &Rule{
		ID: "GEN-004", Severity: Error, Title: "a pattern reaches across the owner's or the repository's name",
		Why:    "`acme*` also fits `acme-evil/…`, which anybody can register. `acme/*` fits every repository that acme will ever have, and whoever has the name after it.",
		Fix:    "List the names, or pin the owner's id beside the pattern. A wildcard within the owner's name itself is wrong beside an id too.",
		Source: "Unit 42, Oh-My-DC",
		Unseen: "Forms of `sub` that the linter doesn't know: it reads repo:, project_path:, organization:, org/, p://, sc://, spiffe:// and system:serviceaccount:.",
		Bad:    onePolicy("test", "oidc", `sub: {glob: "repo:acme/*:ref:refs/heads/main"}`),
		Good:   onePolicy("test", "oidc", `sub: {glob: "repo:acme/payments:ref:refs/heads/release-*"}`),
		entry: func(e *entry) {
			for i := range e.own {
				e.checkReach(&e.own[i])
			}
		},
	}
}

func (e *entry) checkReach(l *line) {
	for n := range l.items {
		i := &l.items[n]
		if !e.wide(i) {
			continue
		}
		for _, start := range e.starts(i) {
			reach := reachOf(l.path, start)
			if reach == nowhere || reach == acrossRepository && (e.known != nil && e.fixed(e.known.Tenant...) || immutableOwner(start)) {
				continue
			}
			what, hint := "the repository's or project's name", "list the names, or pin the owner's id"
			if reach == acrossOwner {
				what, hint = "the owner's name, which strangers can register", "write the owner's name out"
			}
			e.add(Error, i.at, hint, "claim %s: the pattern reaches across %s", shown(l.path), what)
			break
		}
	}
}

// reach is how much of whose job it is a pattern leaves open.
type reach int

const (
	nowhere reach = iota
	acrossRepository
	acrossOwner
)

// reachOf says it of a pattern that is open behind its start.
func reachOf(path, start string) reach {
	switch path {
	case "repository", "project_path", "job_project_path":
		return within(start, "/", "")
	case "repository_owner", "organization_slug", "terraform_organization_name", "enterprise":
		return acrossOwner
	case "workflow_ref", "job_workflow_ref":
		return within(start, "/", "/")
	case "ci_config_ref_uri":
		_, rest, _ := strings.Cut(start, "/")
		return within(rest, "/", "//")
	case circleOrigin:
		_, rest, _ := strings.Cut(start, "/")
		return within(rest, "/", "")
	case "sub":
		return reachOfSub(start)
	default:
		return nowhere
	}
}

func reachOfSub(start string) reach {
	for _, of := range []struct{ prefix, owner, repository string }{
		{"repo:", "/", ":"}, {"project_path:", "/", ":"}, {"organization:", ":", "*"}, {"org/", "/", "*"},
		{"p://", "/", "*"}, {"sc://", "/", "*"}, {"spiffe://", "/", "*"}, {"system:serviceaccount:", ":", "*"},
	} {
		if rest, ok := strings.CutPrefix(start, of.prefix); ok {
			return within(rest, of.owner, of.repository)
		}
		if strings.HasPrefix(of.prefix, start) {
			return acrossOwner
		}
	}
	return nowhere
}

// within says how far the text goes: past the end of the owner's name, and past
// that of the repository's. A * as that end: the owner is all that there is; an
// empty one: what is open behind the start is the repository's name itself.
func within(start, owner, repository string) reach {
	_, rest, found := strings.Cut(start, owner)
	switch {
	case !found:
		return acrossOwner
	case repository == "*", repository != "" && strings.Contains(rest, repository):
		return nowhere
	default:
		return acrossRepository
	}
}

func gen006() *Rule {
	return &Rule{
		ID: "GEN-006", Severity: Error, Title: "an unescaped . in a regular expression, where a full stop is meant",
		Why:    "A . fits any character: `https://ci.example.com/.*` fits `https://ci-example.com/…` too, which somebody else can register. An error in a subject or a URL, a warning elsewhere.",
		Fix:    `Write \. for a full stop, or a glob, in which it is itself.`,
		Source: "octo-sts README",
		Unseen: "Issuers are never patterns here: the server's configuration pins each exactly. Patterns within conditions.",
		Bad:    onePolicy("test", "oidc", `sub: {regex: 'https://ci.example.com/deploy/[0-9]+'}`),
		Good:   onePolicy("test", "oidc", `sub: {regex: 'https://ci\.example\.com/deploy/[0-9]+'}`),
		entry: func(e *entry) {
			for i := range e.own {
				l := &e.own[i]
				severity := Warning
				switch l.path {
				case "sub", "iss", "workflow_ref", "job_workflow_ref", "ci_config_ref_uri", "rpo_uri", circleOrigin:
					severity = Error
				}
				for _, item := range l.items {
					if item.form == regex && e.reading(item.text()).dots {
						e.add(severity, item.at, `write \. for a full stop, or {glob: …}`, "claim %s: a . fits any character", shown(l.path))
					}
				}
			}
		},
	}
}

func gen007() *Rule {
	return &Rule{
		ID: "GEN-007", Severity: Warning, Title: "a glob with characters that mean something elsewhere, and here themselves",
		Why:    "In shells and in other brokers' globs, `?`, `[…]`, `{…}` and `!(…)` are operators, and * may cross /. Here a glob has * (not across /) and ** alone: such a pattern most likely fits nothing.",
		Fix:    "Write a list of globs, or a {regex: …}.",
		Source: "OpenBao claims.go; Infisical identity-oidc-auth-fns.ts",
		Bad:    onePolicy("test", "github", somePush+"\nref: {glob: 'refs/heads/release-[0-9]*'}"),
		Good:   onePolicy("test", "github", somePush+"\nref: {regex: 'refs/heads/release-[0-9]+'}"),
		entry: func(e *entry) {
			for i := range e.own {
				for _, item := range e.own[i].items {
					if at := strings.IndexAny(item.text(), "?[]{}()!"); item.form == glob && at >= 0 {
						e.add(Warning, item.at, "write {regex: …}, or a list of globs", "claim %s: in a glob, %c stands for nothing but itself", shown(e.own[i].path), item.text()[at])
					}
				}
			}
		},
	}
}
