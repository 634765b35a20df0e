package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

const (
	askTries = 3
	askPause = 500 * time.Millisecond
)

// tokenQuestion asks a CI system over HTTP for a token of this job.
type tokenQuestion struct {
	of       string // who is asked, as people write it
	variable string // which holds the URL
	bearer   string
	member   string // of the answer, which holds the token
	query    [][2]string
	accept   string
	post     bool
}

// ask asks until there is an answer.
func (q tokenQuestion) ask(ctx context.Context) (string, error) {
	u, err := url.Parse(os.Getenv(q.variable))
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !client.IsLoopback(u.Hostname())) {
		return "", fmt.Errorf("asking %s for a token: %s is no https URL", q.of, q.variable)
	}
	// What stands in the query already is theirs and stays as it is.
	for _, parameter := range q.query {
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += parameter[0] + "=" + url.QueryEscape(parameter[1])
	}
	for try := 1; ; try++ {
		token, again, err := q.once(ctx, u.String())
		if err == nil {
			return token, nil
		}
		if !again || try == askTries || ctx.Err() != nil {
			return "", fmt.Errorf("asking %s for a token: %w", q.of, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askPause << (try - 1)):
		}
	}
}

// once asks once. With an error comes whether to ask again.
func (q tokenQuestion) once(ctx context.Context, address string) (token string, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	method := http.MethodGet
	if q.post {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, address, http.NoBody) //nolint:gosec // the runner says where it gives tokens out
	if err != nil {
		return "", false, errors.New("the URL can't be used")
	}
	request.Header.Set("Authorization", "Bearer "+q.bearer)
	request.Header.Set("Accept", q.accept)
	request.Header.Set("User-Agent", "daypass/"+version)
	if q.post {
		request.Header.Set("Content-Type", "application/json")
	}
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
	var answer map[string]any
	if err := json.NewDecoder(io.LimitReader(response.Body, 4*api.MaxToken)).Decode(&answer); err != nil {
		return "", false, errors.New("the answer holds no token") // json's error may quote it
	}
	if token, _ = answer[q.member].(string); token == "" {
		return "", false, errors.New("the answer holds no token")
	}
	return token, false, nil
}

// askProgram has a program of the CI system print a token.
func askProgram(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the programs that CI systems bring
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&stdout}, &limited{&stderr}
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("asking %s for a token: %w: %.300s", name, err, lines[len(lines)-1])
	}
	token := strings.TrimSpace(stdout.String())
	if token == "" {
		return "", fmt.Errorf("asking %s for a token: it printed none", name)
	}
	return token, nil
}

// limited drops what no token needs.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(data []byte) (int, error) {
	room := max(0, 2*api.MaxToken-l.b.Len())
	l.b.Write(data[:min(room, len(data))])
	return len(data), nil
}

func jsonText(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}
