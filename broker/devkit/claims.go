package devkit

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// sampleFiles are claim sets in the shape of those in GitHub's documentation ("OpenID Connect reference") and GitLab's ("OpenID Connect
// (OIDC) authentication using ID tokens"): the names, types and forms are theirs, the values are made up. GitHub sends ids and run_attempt as
// strings; GitLab sends runner_id as a number, groups_direct as an array, and ref_protected as the string "true" or "false".
//
//go:embed claims/*.json
var sampleFiles embed.FS

// The profiles of the demo provider. Each is an issuer of its own.
const (
	ProfileGitHub = "github"
	ProfileGitLab = "gitlab"
)

// sampleClaims returns a fresh copy of a profile's claims.
func sampleClaims(profile string) (map[string]any, error) {
	if profile != ProfileGitHub && profile != ProfileGitLab {
		return nil, fmt.Errorf("there is no profile %q\nhint: %s or %s", profile, ProfileGitHub, ProfileGitLab)
	}
	text, err := sampleFiles.ReadFile("claims/" + profile + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample claims: %w", err)
	}
	var claims map[string]any
	if err := json.Unmarshal(text, &claims); err != nil {
		return nil, fmt.Errorf("reading the sample claims of %s: %w", profile, err)
	}
	return claims, nil
}

// override lays changes over the sample claims, and then what follows from them as the provider would have it: an override of repository
// changes sub, workflow_ref and so on, but for those that are overridden themselves. Ids stay: a token with another name and the same id is
// a case worth trying. A nil value removes the claim.
func override(profile string, claims, changes map[string]any) {
	maps.Copy(claims, changes)
	derived := deriveGitHub
	if profile == ProfileGitLab {
		derived = deriveGitLab
	}
	for name, value := range derived(claims) {
		if _, given := changes[name]; !given {
			claims[name] = value
		}
	}
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
}

func deriveGitHub(claims map[string]any) map[string]any {
	text := func(name string) string { s, _ := claims[name].(string); return s }
	repository, ref := text("repository"), text("ref")
	owner, _, _ := strings.Cut(repository, "/")
	refType := "branch"
	if strings.HasPrefix(ref, "refs/tags/") {
		refType = "tag"
	}
	// GitHub writes a colon in a value as %3A, so that a branch or environment can't imitate another part.
	escape := func(s string) string { return strings.ReplaceAll(s, ":", "%3A") }
	sub := "repo:" + repository + ":ref:" + escape(ref)
	switch {
	case text("environment") != "":
		sub = "repo:" + repository + ":environment:" + escape(text("environment"))
	case text("event_name") == "pull_request":
		sub = "repo:" + repository + ":pull_request"
	}
	workflow := repository + "/.github/workflows/deploy.yml@" + ref
	return map[string]any{
		"sub": sub, "repository_owner": owner, "ref_type": refType, "workflow_ref": workflow, "job_workflow_ref": workflow,
	}
}

func deriveGitLab(claims map[string]any) map[string]any {
	text := func(name string) string { s, _ := claims[name].(string); return s }
	project, ref, refType := text("project_path"), text("ref"), text("ref_type")
	path := "refs/heads/" + ref
	if refType == "tag" {
		path = "refs/tags/" + ref
	}
	namespace := project
	if i := strings.LastIndex(project, "/"); i >= 0 {
		namespace = project[:i]
	}
	return map[string]any{
		"sub":               "project_path:" + project + ":ref_type:" + refType + ":ref:" + ref,
		"namespace_path":    namespace,
		"ref_path":          path,
		"ci_config_ref_uri": "gitlab.example.com/" + project + "//.gitlab-ci.yml@" + path,
	}
}

// parseClaim reads an override from a query: a string, unless the sample's claim (or a time) is something else, which is then JSON.
func parseClaim(sample map[string]any, name, value string) (any, error) {
	_, isText := sample[name].(string)
	_, known := sample[name]
	isTime := name == "exp" || name == "nbf" || name == "iat"
	if (isText || !known) && !isTime {
		return value, nil
	}
	var v any
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		return nil, fmt.Errorf("reading claim %s as JSON: %w", name, err)
	}
	return v, nil
}
