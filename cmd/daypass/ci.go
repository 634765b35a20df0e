package main

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// Variables with which GitHub Actions hands out job tokens.
const (
	githubPrefix = "ACTIONS_ID_TOKEN_REQUEST_"
	githubURL    = githubPrefix + "URL"
	githubToken  = githubPrefix + "TOKEN"
)

// Variables in which other programs look for a job's token.
const (
	variableSigstore    = "SIGSTORE_ID_TOKEN"
	variableWebIdentity = "AWS_WEB_IDENTITY_TOKEN_FILE" // Kubernetes, and whoever imitates it
)

// ciSystem is a CI system: how a job knows that it runs there, and how it gets
// its token.
type ciSystem struct {
	name, title string
	variable    string   // which says that the job runs here
	value       string   // of that variable; any but an empty one when ""
	token       ciToken  // no token and no error: the system has none for this job
	leads       []string // variables that hold a token, or get one
	looks       []string // further variables of which doctor says whether they are set
	missing     string   // what to say of a job without a token
}

type ciToken func(ctx context.Context, p *program) (string, error)

// ciSystems are those that are known, in the order in which they are looked for:
// a job of one may run on a machine of another.
func ciSystems() []ciSystem {
	return []ciSystem{{
		name: "github", title: "GitHub Actions", variable: "GITHUB_ACTIONS", value: "true",
		token: githubJobToken, leads: []string{githubURL, githubToken},
		missing: "this job may not ask GitHub for a token (hint: add `permissions: {id-token: write}` to the job; jobs of forks get none)",
	}, {
		name: "buildkite", title: "Buildkite", variable: "BUILDKITE", value: "true",
		token: buildkiteJobToken, leads: []string{"BUILDKITE_AGENT_ACCESS_TOKEN"},
		missing: "this step has no buildkite-agent, which gives tokens (hint: in a container, mount it: `mount-buildkite-agent: true`)",
	}, {
		name: "gitlab", title: "GitLab CI", variable: "GITLAB_CI", value: "true",
		token:   noToken, // it has the name that the job's author gives it
		missing: "GitLab gives a token under the name that the job chooses (hint: add `id_tokens: {" + variableJobToken + ": {aud: …}}` to the job, or name yours with --token-env)",
	}, {
		name: "circleci", title: "CircleCI", variable: "CIRCLECI", value: "true",
		token: circleJobToken, leads: []string{"CIRCLE_OIDC_TOKEN_V2", "CIRCLE_OIDC_TOKEN"},
		missing: "this job has no token (hint: CircleCI gives none to jobs of forks)",
	}, {
		name: "bitbucket", title: "Bitbucket Pipelines", variable: "BITBUCKET_BUILD_NUMBER",
		token: variableToken("BITBUCKET_STEP_OIDC_TOKEN"), leads: []string{"BITBUCKET_STEP_OIDC_TOKEN"},
		missing: "this step has no token (hint: add `oidc: true` to the step)",
	}, {
		name: "azure", title: "Azure DevOps Pipelines", variable: "TF_BUILD",
		token: azureJobToken, leads: []string{azureToken}, looks: []string{azureURL, azureConnection},
		missing: "this job may not ask Azure DevOps for a token (hint: hand the step its access token: `env: {SYSTEM_ACCESSTOKEN: $(System.AccessToken)}`)",
	}}
}

// detectCI is where this program runs; nil where that is no CI system it knows.
func detectCI() *ciSystem {
	systems := ciSystems()
	i := slices.IndexFunc(systems, func(s ciSystem) bool {
		value := os.Getenv(s.variable)
		return value != "" && (s.value == "" || strings.EqualFold(value, s.value))
	})
	if i < 0 && os.Getenv(githubURL) != "" && os.Getenv(githubToken) != "" {
		i = 0 // a runner that imitates GitHub's
	}
	if i < 0 {
		return nil
	}
	return &systems[i]
}

// leadsToToken says that a variable holds a token that the CI system made for this
// job, or what gets another.
func leadsToToken(name string) bool {
	if name == variableSigstore || strings.HasPrefix(name, githubPrefix) {
		return true
	}
	return slices.Contains(leading(), name)
}

// leading are the variables of all systems. It is asked about each of a job's.
//
//nolint:gochecknoglobals // a constant table, made at first use
var leading = sync.OnceValue(func() []string {
	var names []string
	for _, s := range ciSystems() {
		names = append(names, s.leads...)
	}
	return names
})

func noToken(context.Context, *program) (string, error) { return "", nil }

// variableToken gives what a variable holds.
func variableToken(name string) ciToken {
	return func(context.Context, *program) (string, error) { return strings.TrimSpace(os.Getenv(name)), nil }
}

// jobAudience is the audience that a token is asked for with.
func (p *program) jobAudience() (string, error) {
	audience := p.setting(p.audience, "DAYPASS_AUDIENCE")
	if audience == "" {
		return "", usage("no audience given (hint: set --audience or DAYPASS_AUDIENCE to the one that the broker accepts)")
	}
	return audience, nil
}

func githubJobToken(ctx context.Context, p *program) (string, error) {
	if os.Getenv(githubURL) == "" || os.Getenv(githubToken) == "" {
		return "", nil
	}
	audience, err := p.jobAudience()
	if err != nil {
		return "", err
	}
	return tokenQuestion{
		of: "GitHub", variable: githubURL, bearer: os.Getenv(githubToken), member: "value",
		query: [][2]string{{"audience", audience}}, accept: "application/json; api-version=2.0",
	}.ask(ctx)
}

// Variables with which Azure DevOps hands out job tokens.
const (
	azureURL        = "SYSTEM_OIDCREQUESTURI"
	azureToken      = "SYSTEM_ACCESSTOKEN"
	azureConnection = "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID" // set in tasks that have one
)

// azureJobToken asks for a token, whose audience Azure DevOps fixes.
func azureJobToken(ctx context.Context, _ *program) (string, error) {
	if os.Getenv(azureURL) == "" || os.Getenv(azureToken) == "" {
		return "", nil
	}
	question := tokenQuestion{
		of: "Azure DevOps", variable: azureURL, bearer: os.Getenv(azureToken), member: "oidcToken", post: true,
		query: [][2]string{{"api-version", "7.1"}}, accept: "application/json",
	}
	if connection := os.Getenv(azureConnection); connection != "" {
		question.query = append(question.query, [2]string{"serviceConnectionId", connection})
	}
	return question.ask(ctx)
}

// buildkiteJobToken has the agent ask.
func buildkiteJobToken(ctx context.Context, p *program) (string, error) {
	if _, err := exec.LookPath("buildkite-agent"); err != nil {
		return "", nil //nolint:nilerr // no agent, no token
	}
	audience, err := p.jobAudience()
	if err != nil {
		return "", err
	}
	return askProgram(ctx, "buildkite-agent", "oidc", "request-token", "--audience", audience)
}

// circleJobToken takes the token that the job has, or has one made for the
// audience that is wanted.
func circleJobToken(ctx context.Context, p *program) (string, error) {
	token := strings.TrimSpace(os.Getenv("CIRCLE_OIDC_TOKEN_V2"))
	if token == "" {
		token = strings.TrimSpace(os.Getenv("CIRCLE_OIDC_TOKEN"))
	}
	audience := p.setting(p.audience, "DAYPASS_AUDIENCE")
	if audience == "" || token != "" && slices.Contains(readJWT(token).audiences(), audience) {
		return token, nil
	}
	if _, err := exec.LookPath("circleci"); err != nil {
		return token, nil //nolint:nilerr // the broker says what it thinks of the audience
	}
	claims, err := jsonText(map[string]string{"aud": audience})
	if err != nil {
		return "", err
	}
	return askProgram(ctx, "circleci", "run", "oidc", "get", "--claims", claims)
}

const askTimeout = 20 * time.Second // of one question for a token
