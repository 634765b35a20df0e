package httpapi_test

import (
	"os"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// wantProblem checks all that every error has in common, and its code.
func wantProblem(t *testing.T, a *brokertest.Answer, status int, code api.Code) {
	t.Helper()
	p := a.Problem
	if a.Status != status || p.Code != code {
		t.Fatalf("answered %d %q, want %d %q\n%s", a.Status, p.Code, status, code, a.Body)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type is %q", got)
	}
	if p.Type != "about:blank" || p.Title == "" || p.Status != status || p.Detail == "" || p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("a member of the problem is missing or wrong: %s (X-Request-Id %q)", a.Body, a.Header.Get("X-Request-Id"))
	}
	if got, want := a.Header.Get("WWW-Authenticate"), map[bool]string{true: `Bearer error="invalid_token"`}[status == 401]; got != want {
		t.Errorf("WWW-Authenticate is %q, want %q", got, want)
	}
	if (p.Reason != "") != (status == 401) {
		t.Errorf("reason %q with status %d", p.Reason, status)
	}
	if retry := a.Header.Get("Retry-After"); (retry != "") != (status == 429 || status == 503) {
		t.Errorf("Retry-After %q with status %d", retry, status)
	}
	if len(a.Body) > 2048 {
		t.Errorf("a problem of %d bytes", len(a.Body))
	}
}

func wantReason(t *testing.T, a *brokertest.Answer, reason api.Reason) {
	t.Helper()
	wantProblem(t, a, 401, api.CodeInvalidToken)
	if a.Problem.Reason != reason {
		t.Errorf("reason %q, want %q: %s", a.Problem.Reason, reason, a.Problem.Detail)
	}
}
