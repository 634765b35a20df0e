package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// variableJobToken may hold the job's token, whatever the CI system calls it.
const variableJobToken = "DAYPASS_JOB_TOKEN" //nolint:gosec // G101: the name of a variable

// jobToken finds the job's token.
func (p *program) jobToken(ctx context.Context) (string, error) {
	token, _, err := p.findJobToken(ctx)
	return token, err
}

// findJobToken finds the job's token, and says where: what the caller names comes
// first, then what the CI system gives, then what other programs leave.
func (p *program) findJobToken(ctx context.Context) (token, from string, err error) {
	if token, err = p.givenToken("DAYPASS_TOKEN_FILE"); token != "" || err != nil {
		return token, "what --token-file, --token-env or DAYPASS_TOKEN_FILE names", err
	}
	if token = strings.TrimSpace(os.Getenv(variableJobToken)); token != "" {
		return token, variableJobToken, nil
	}
	if ci := detectCI(); ci != nil {
		if token, err = ci.token(ctx, p); token != "" || err != nil {
			return token, ci.title, err
		}
	}
	if token = strings.TrimSpace(os.Getenv(variableSigstore)); token != "" {
		return token, variableSigstore, nil
	}
	if file := os.Getenv(variableWebIdentity); file != "" {
		token, err = p.readToken(file)
		return token, variableWebIdentity, err
	}
	if ci := detectCI(); ci != nil {
		return "", ci.title, usage("%s", ci.missing)
	}
	return "", "", usage("no token given (hint: set --token-file, --token-env, DAYPASS_TOKEN_FILE or %s)", variableJobToken)
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
