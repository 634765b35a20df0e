package catalogue

import (
	"net/url"
	"strings"
)

// Run is where people see the job that a token was for; "" where nobody knows. What
// the token says goes into it escaped: names of repositories are chosen by people.
func (p *Provider) Run(issuer string, claims map[string]any) string {
	text := func(path string) string {
		value, _ := scalar(Value(claims, path))
		return value
	}
	switch p.Type {
	case "github":
		return webURL(githubHost(issuer), text("repository"), "actions", "runs", text("run_id"), "attempts", text("run_attempt"))
	case "gitlab":
		return webURL(issuer, text("project_path"), "-", "jobs", text("job_id"))
	case "buildkite":
		return webURL("https://buildkite.com", text("organization_slug"), text("pipeline_slug"), "builds", text("build_number"))
	}
	return ""
}

// githubHost is where the repositories are of which an issuer of GitHub's tells.
func githubHost(issuer string) string {
	const cloud, residency, server = "https://token.actions.githubusercontent.com", "https://token.actions.", "/_services/token"
	switch {
	case issuer == cloud || strings.HasPrefix(issuer, cloud+"/"):
		return "https://github.com"
	case strings.HasSuffix(issuer, server):
		return strings.TrimSuffix(issuer, server)
	case strings.HasPrefix(issuer, residency) && strings.HasSuffix(issuer, ".ghe.com"):
		return "https://" + strings.TrimPrefix(issuer, residency)
	}
	return issuer
}

// webURL joins segments, of which a name may hold slashes; "" where one is missing.
func webURL(host string, segments ...string) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(host, "/"))
	for _, segment := range segments {
		if segment == "" {
			return ""
		}
		for part := range strings.SplitSeq(segment, "/") {
			b.WriteString("/" + url.PathEscape(part))
		}
	}
	return b.String()
}
