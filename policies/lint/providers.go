package lint

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// providerRules are those about the server's configuration.
func providerRules() []*Rule {
	return []*Rule{gen001(), gen012(), gen016(), gl008(), gl010(), jk002(), ad001(), ad003(), k8001()}
}

// oneProvider is an example: a piece of configuration with one provider.
func oneProvider(typ, issuer, audience string, more ...string) string {
	return "providers:\n  - name: " + typ + "\n    type: " + typ + "\n    issuer: " + issuer + "\n    audience: " + audience + "\n" + strings.Join(more, "")
}

const (
	ownAudience  = "https://ci.daypass.example.com"
	azureFixed   = "api://AzureADTokenExchange"
	audienceHint = "take a name that is this server's alone, such as its external_url"
)

var uuid = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
})

func gen001() *Rule {
	return &Rule{
		ID: "GEN-001", Severity: Error, Title: "no audience that is this server's alone", Providers: true,
		Why:    "A token that was made for another service, and leaked there or is held there, would be accepted; and this server could use what it gets elsewhere.",
		Fix:    "Take a name of this server's own as audience, such as its external_url, and let jobs ask for it.",
		Source: "github/docs oidc.md; fulcio#1803",
		Unseen: "Audiences that some other service took for itself, but for the known ones.",
		Bad:    oneProvider("github", "https://token.actions.githubusercontent.com", "sts.amazonaws.com"),
		Good:   oneProvider("github", "https://token.actions.githubusercontent.com", ownAudience),
		provider: func(p *provider) {
			hint := audienceHint
			switch p.Type {
			case "kubernetes":
				if apiServer(p.Audience, p.Issuer) {
					return // K8-001
				}
			case "azure":
				if p.Audience == azureFixed {
					if p.ReplayOnce {
						return // AD-003
					}
					hint = "Azure DevOps has no other: say `replay: once`, so that a token is used up here"
				}
			}
			if p.Audience != "" && common(p.Audience, p.Issuer) {
				p.add(Error, p.at("audience"), hint, "other services accept tokens for the audience %s too", p.Audience)
			}
		},
	}
}

// common says whether an audience isn't one server's alone.
func common(audience, issuer string) bool {
	known := []string{
		"sts.amazonaws.com", azureFixed, "sigstore", "vault", "https://kubernetes.default.svc", "kubernetes", "https://gitlab.com",
		"https://app.terraform.io", "pypi", "npm:registry.npmjs.org",
	}
	for _, prefix := range []string{"https://github.com/", "https://buildkite.com/", "https://iam.googleapis.com/", "//iam.googleapis.com/"} {
		if strings.HasPrefix(audience, prefix) {
			return true
		}
	}
	return slices.Contains(known, audience) || audience == issuer || uuid().MatchString(audience)
}

func gen012() *Rule {
	return &Rule{
		ID: "GEN-012", Severity: Error, Title: "an issuer that is not https, holds a user, query or fragment, or is the twin of a known one", Providers: true,
		Why:    "Issuers are compared as texts: one more slash is another issuer, and one without https can be anybody on the way.",
		Fix:    "Write the issuer exactly as it stands in the `iss` of the tokens.",
		Source: "octo-sts README; shadcn's policy contract",
		Bad:    oneProvider("github", "https://token.actions.githubusercontent.com/", ownAudience),
		Good:   oneProvider("github", "https://token.actions.githubusercontent.com", ownAudience),
		provider: func(p *provider) {
			if p.Issuer == "" {
				return
			}
			hint := "write it as it stands in the `iss` of the tokens"
			if why := badIssuer(p.Issuer); why != "" {
				p.add(Error, p.at("issuer"), hint, "the issuer %s", why)
				return
			}
			if p.known == nil {
				return
			}
			for _, shared := range p.known.SharedIssuers {
				if p.Issuer != shared && strings.EqualFold(strings.TrimRight(p.Issuer, "/"), shared) {
					p.add(Error, p.at("issuer"), "write "+shared, "%s writes itself %s: another text is another issuer", p.known.Title, shared)
				}
			}
		},
	}
}

func badIssuer(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "is no URL"
	case u.User != nil:
		return "holds a user"
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return "has a query or a fragment"
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return ""
	default:
		return "is not https"
	}
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func gen016() *Rule {
	return &Rule{
		ID: "GEN-016", Severity: Warning, Title: "job tokens are accepted for more than an hour after they were issued", Providers: true,
		Why:    "A stolen token lives on for as long.",
		Fix:    "Set max_token_age to what a job needs between its token and its exchange: minutes.",
		Source: "PostHog#97871; dodo docs",
		Unseen: "A provider without max_token_age: then the token's own end and the server's bound hold. Leeway is 60 s at most everywhere. A token without `jti` is known again by the digest of its signed part, so that replay needs no jti.",
		Bad:    oneProvider("gitlab", "https://gitlab.example.com", ownAudience, "    max_token_age: 2h\n"),
		Good:   oneProvider("gitlab", "https://gitlab.example.com", ownAudience, "    max_token_age: 1h\n"),
		provider: func(p *provider) {
			if p.MaxTokenAge > time.Hour {
				p.add(Warning, p.at("max_token_age"), "write 1h or less", "tokens are accepted until %s after they were issued", short(p.MaxTokenAge))
			}
		},
	}
}

func gl008() *Rule {
	return &Rule{
		ID: "GL-008", Severity: Error, Title: "https://gitlab.com as the issuer of what is a self-managed GitLab", Providers: true,
		Why:    "Every user of GitLab.com would be at the door, and nobody of the own instance.",
		Fix:    "Write the URL of the instance.",
		Source: "GitLab's instances share claims and differ in `iss` alone",
		Unseen: "What was meant, but for a provider with a private address or an authority of its own.",
		Bad:    oneProvider("gitlab", "https://gitlab.com", ownAudience, "    allow_private_address: true\n"),
		Good:   oneProvider("gitlab", "https://gitlab.example.com", ownAudience, "    allow_private_address: true\n"),
		provider: func(p *provider) {
			if p.Type == "gitlab" && p.Issuer == "https://gitlab.com" && p.Private {
				p.add(Error, p.at("issuer"), "write the instance's URL", "GitLab.com has no private address and no authority of its own: a self-managed instance seems to be meant")
			}
		},
	}
}

func gl010() *Rule {
	return &Rule{
		ID: "GL-010", Severity: Warning, Title: "replay: once for GitLab's tokens", Providers: true,
		Why:    "A GitLab job has its token from the start and can't get another: its second request is refused, and so are jobs that fetch several secrets one by one.",
		Fix:    "Leave `replay: session`, or ask for all grants in one exchange and go on with the session token.",
		Source: "gitlab-runner resolver.go; dodo's GitLab page",
		Bad:    oneProvider("gitlab", "https://gitlab.example.com", ownAudience, "    replay: once\n"),
		Good:   oneProvider("gitlab", "https://gitlab.example.com", ownAudience, "    replay: session\n"),
		provider: func(p *provider) {
			if p.Type == "gitlab" && p.ReplayOnce {
				p.add(Warning, p.at("replay"), "write session", "a GitLab job can't get a second token: its second exchange would be refused")
			}
		},
	}
}

func jk002() *Rule {
	return &Rule{
		ID: "JK-002", Severity: Warning, Title: "one issuer for all of a Jenkins controller", Providers: true,
		Why:    "One key signs for all jobs of all teams, and whoever may edit any job can template its claims.",
		Fix:    "Give each team's folder a credential of its own, and name its issuer: https://HOST/job/FOLDER/oidc.",
		Source: "README of Jenkins' oidc-provider plugin",
		Bad:    oneProvider("jenkins", "https://jenkins.example.com/oidc", ownAudience),
		Good:   oneProvider("jenkins", "https://jenkins.example.com/job/payments/oidc", ownAudience),
		provider: func(p *provider) {
			if p.Type == "jenkins" && strings.HasSuffix(p.Issuer, "/oidc") && !strings.Contains(p.Issuer, "/job/") {
				p.add(Warning, p.at("issuer"), "name a folder's issuer: https://HOST/job/FOLDER/oidc", "this issuer signs for all jobs of the controller with one key")
			}
		},
	}
}

func ad001() *Rule {
	return &Rule{
		ID: "AD-001", Severity: Warning, Title: "Azure DevOps' issuer that ends", Providers: true,
		Why:    "vstoken.dev.azure.com is retired on 2027-07-01 for most connections.",
		Fix:    "Move to the tenant's issuer, https://login.microsoftonline.com/TENANT/v2.0, whose tokens have other claims.",
		Source: "learn.microsoft.com, convert-service-connections",
		Bad:    oneProvider("azure", "https://vstoken.dev.azure.com/9e6c7a37-7fbe-4fd8-8b4b-ac5c5a6f9b5d", ownAudience),
		Good:   oneProvider("azure", "https://login.microsoftonline.com/9e6c7a37-7fbe-4fd8-8b4b-ac5c5a6f9b5d/v2.0", ownAudience),
		provider: func(p *provider) {
			if strings.HasPrefix(p.Issuer, "https://vstoken.dev.azure.com/") {
				p.add(Warning, p.at("issuer"), "plan the move to https://login.microsoftonline.com/TENANT/v2.0", "this issuer is retired on 2027-07-01")
			}
		},
	}
}

func ad003() *Rule {
	return &Rule{
		ID: "AD-003", Severity: Warning, Title: "Azure DevOps' fixed audience, api://AzureADTokenExchange", Providers: true,
		Why:    "Its tokens can have no other audience. Whoever gets one could use it at Entra, and one made for Entra could be used here: a token must at least be used up by its first use. Without that it is GEN-001, an error.",
		Fix:    "Say replay: once.",
		Source: "fulcio#1803",
		Bad:    oneProvider("azure", "https://login.microsoftonline.com/9e6c7a37-7fbe-4fd8-8b4b-ac5c5a6f9b5d/v2.0", azureFixed, "    replay: once\n"),
		Good:   oneProvider("azure", "https://login.microsoftonline.com/9e6c7a37-7fbe-4fd8-8b4b-ac5c5a6f9b5d/v2.0", ownAudience),
		provider: func(p *provider) {
			if p.Type == "azure" && p.Audience == azureFixed && p.ReplayOnce {
				p.add(Warning, p.at("audience"), "", "Entra accepts tokens for this audience too, and Azure DevOps has no other")
			}
		},
	}
}

func k8001() *Rule {
	return &Rule{
		ID: "K8-001", Severity: Error, Title: "the cluster's own API server as audience", Providers: true,
		Why:    "Every pod has a token for that audience, whether it needs one or not: all of them would be at the door.",
		Fix:    "Take an audience of this server's own, and mount a projected token for it.",
		Source: "KEP-1205",
		Bad:    oneProvider("kubernetes", "https://oidc.eks.eu-west-1.amazonaws.com/id/ABCDEF", "https://kubernetes.default.svc"),
		Good:   oneProvider("kubernetes", "https://oidc.eks.eu-west-1.amazonaws.com/id/ABCDEF", ownAudience),
		provider: func(p *provider) {
			if p.Type == "kubernetes" && apiServer(p.Audience, p.Issuer) {
				p.add(Error, p.at("audience"), audienceHint, "%s is the API server's audience: every pod has a token for it", p.Audience)
			}
		},
	}
}

// apiServer says whether an audience is one that API servers have by default.
func apiServer(audience, issuer string) bool {
	host := strings.TrimPrefix(audience, "https://")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return audience != "" && (audience == issuer || audience == "api" || host == "kubernetes" || strings.HasPrefix(host, "kubernetes.default"))
}
