package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// Variables with which GitHub Actions hands out job tokens.
const (
	githubPrefix = "ACTIONS_ID_TOKEN_REQUEST_"
	githubURL    = githubPrefix + "URL"
	githubToken  = githubPrefix + "TOKEN"
)

// jobToken finds the job's token.
func (p *program) jobToken(ctx context.Context) (string, error) {
	token, err := p.givenToken("DAYPASS_TOKEN_FILE")
	switch {
	case token != "" || err != nil:
		return token, err
	case os.Getenv(githubURL) != "" && os.Getenv(githubToken) != "":
		return p.githubJobToken(ctx)
	case os.Getenv("GITHUB_ACTIONS") == "true":
		return "", usage("this job may not ask GitHub for a token (hint: add `permissions: {id-token: write}` to the job; jobs of forks get none)")
	}
	return "", usage("no token given (hint: set --token-file, --token-env or DAYPASS_TOKEN_FILE)")
}

// adminToken finds the token of an admin, or of a session.
func (p *program) adminToken() (string, error) {
	token, err := p.givenToken("DAYPASS_ADMIN_TOKEN_FILE", "DAYPASS_TOKEN_FILE")
	if token == "" && err == nil {
		err = usage("no token given (hint: set --token-file or DAYPASS_ADMIN_TOKEN_FILE)")
	}
	return token, err
}

// givenToken reads the token that a flag names, or else the first of these
// variables that is set; "" when there is none.
func (p *program) givenToken(variables ...string) (string, error) {
	switch {
	case p.tokenFile != "" && p.tokenEnv != "":
		return "", usage("--token-file and --token-env are both set")
	case p.tokenFile != "":
		return p.readToken(p.tokenFile)
	case p.tokenEnv != "":
		if token := strings.TrimSpace(os.Getenv(p.tokenEnv)); token != "" {
			return token, nil
		}
		return "", usage("the environment variable that --token-env names is not set")
	}
	for _, name := range variables {
		if file := os.Getenv(name); file != "" {
			return p.readToken(file)
		}
	}
	return "", nil
}

// readToken reads a token from a file, without the space around it.
func (p *program) readToken(file string) (string, error) {
	from := p.stdin
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the file that the caller names is the one to read
		if err != nil {
			return "", fmt.Errorf("reading token: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, 2*api.MaxToken))
	if err != nil {
		return "", fmt.Errorf("reading token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("reading token: %s is empty", file)
	}
	return token, nil
}

const (
	githubTries   = 3
	githubTimeout = 20 * time.Second // of one try
	githubPause   = 500 * time.Millisecond
)

// githubJobToken asks GitHub Actions for a token of this job.
func (p *program) githubJobToken(ctx context.Context) (string, error) {
	audience := p.setting(p.audience, "DAYPASS_AUDIENCE")
	if audience == "" {
		return "", usage("no audience given (hint: set --audience or DAYPASS_AUDIENCE to the one that the broker accepts)")
	}
	u, err := url.Parse(os.Getenv(githubURL))
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !client.IsLoopback(u.Hostname())) {
		return "", fmt.Errorf("asking GitHub for a token: %s is no https URL", githubURL)
	}
	// What stands in the query already is GitHub's and stays as it is.
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "audience=" + url.QueryEscape(audience)
	for try := 1; ; try++ {
		token, again, err := askGitHub(ctx, u.String())
		if err == nil {
			return token, nil
		}
		if !again || try == githubTries || ctx.Err() != nil {
			return "", fmt.Errorf("asking GitHub for a token: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(githubPause << (try - 1)):
		}
	}
}

// askGitHub asks once. With an error comes whether to ask again.
func askGitHub(ctx context.Context, address string) (token string, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, githubTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil) //nolint:gosec // the runner says where it gives tokens out
	if err != nil {
		return "", false, errors.New("the URL can't be used")
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv(githubToken))
	request.Header.Set("Accept", "application/json; api-version=2.0")
	request.Header.Set("User-Agent", "daypass/"+version)
	asking := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := asking.Do(request) //nolint:gosec // the same
	if err != nil {
		return "", true, err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	if response.StatusCode != http.StatusOK {
		return "", response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests,
			fmt.Errorf("status %d", response.StatusCode)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 4*api.MaxToken)).Decode(&answer); err != nil || answer.Value == "" {
		return "", false, errors.New("the answer holds no token")
	}
	return answer.Value, false, nil
}
