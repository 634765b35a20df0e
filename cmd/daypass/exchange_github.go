package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

const (
	githubEnv     = "GITHUB_ENV"
	githubActions = "GITHUB_ACTIONS"
	// maskCommand has GitHub's runner mask what follows, in all that the job prints
	// from then on. The runner looks for it on both output streams of a step, and
	// doesn't show it.
	maskCommand = "::add-mask::"
)

// exchangeForGitHub gives a job's later steps the credentials as environment
// variables, after the runner was told to mask them: in every form that its own
// masker doesn't think of. Variables go to $GITHUB_ENV and masks to standard
// output where ownFile is set; otherwise variables go to standard output, which
// the caller sends there, and masks to standard error.
func (p *program) exchangeForGitHub(ctx context.Context, c *client.Client, token string, request api.ExchangeRequest, session, ownFile bool) error {
	variables, masks := p.stdout, p.stderr
	if ownFile {
		file, err := os.OpenFile(os.Getenv(githubEnv), os.O_APPEND|os.O_WRONLY, 0) //nolint:gosec // the runner names it; before a token is spent
		if err != nil {
			return usage("opening the file that %s names: %w (hint: --github-env works in a step of GitHub Actions; elsewhere use another --format)", githubEnv, err)
		}
		defer file.Close() //nolint:errcheck // the error of the write is what counts
		variables, masks = file, p.stdout
	}
	answer, err := c.Exchange(ctx, token, request)
	if err != nil {
		return err
	}
	text, err := githubVariables(answer, session)
	if err != nil {
		return err
	}
	if os.Getenv(githubActions) == "true" {
		if _, err := masks.Write([]byte(p.githubMasks(answer))); err != nil {
			return fmt.Errorf("printing masks, so no credentials are handed out: %w", err)
		}
	} else {
		p.say("warning: this is no step of GitHub Actions: nobody was told to mask the credentials")
	}
	if _, err := variables.Write([]byte(text)); err != nil {
		return fmt.Errorf("printing credentials: %w", err)
	}
	return nil
}

// githubMasks are the commands for all forms of all secrets of an answer, the
// longest forms of each first. What can't be masked is said.
func (p *program) githubMasks(answer *api.ExchangeResponse) string {
	var commands strings.Builder
	told := map[string]bool{}
	mask := func(value string) {
		for _, form := range redact.Forms(value) {
			if !told[form] {
				told[form] = true
				commands.WriteString(maskCommand + githubData(form) + "\n")
			}
		}
	}
	mask(answer.Session.Token)
	for _, credential := range answer.Credentials {
		for _, name := range credential.Secret {
			switch value := credential.Values[name]; {
			case value == "":
			case redact.Common(value):
				p.say("warning: the value %s of %s is too short or too common to be masked: it is not masked", name, credential.Grant)
			default:
				mask(value)
			}
		}
	}
	return commands.String()
}

// githubData escapes what follows a workflow command: a line end would end it, and
// begin another one of the value's choice.
func githubData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// githubVariables are blocks for $GITHUB_ENV, as the broker itself renders them.
func githubVariables(answer *api.ExchangeResponse, session bool) (string, error) {
	values := map[string]string{}
	for _, credential := range answer.Credentials {
		for name, value := range credential.Env {
			if !validName(name) {
				return "", fmt.Errorf("the broker's answer for %s sets an environment variable that can't be set", credential.Grant)
			}
			values[name] = value
		}
	}
	if session {
		values["DAYPASS_SESSION_TOKEN"] = answer.Session.Token
	}
	// A line that stands in no value: none can end its own block and set others.
	delimiter := "daypass_" + rand.Text()
	var names []string
	for name, value := range values {
		if strings.Contains(value, delimiter) {
			return "", fmt.Errorf("a value of the broker's answer holds the delimiter that was made up for it")
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", name, delimiter, values[name], delimiter)
	}
	return b.String(), nil
}
