package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/redact"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"daypass": main,
		"dribble": dribble,
	})
}

// dribble writes the value of a variable to both streams, one byte a write.
func dribble() {
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		for _, b := range []byte(os.Getenv(os.Args[1]) + "\n") {
			if _, err := f.Write([]byte{b}); err != nil {
				panic(err)
			}
		}
	}
}

// TestScripts runs the program against a fake of the API that writes down what
// it is asked.
func TestScripts(t *testing.T) {
	// Whoever has the tests run under nohup has them ignore this one, and a script's shell couldn't undo it.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(5 * time.Minute),
		Setup: func(env *testscript.Env) error {
			log, err := newFakeLog()
			if err != nil {
				return err
			}
			if err := log.write(env.WorkDir); err != nil {
				return err
			}
			fake := &fakeBroker{auditLog: log}
			server := httptest.NewServer(fake.routes())
			env.Defer(server.Close)
			env.Values["fake"] = fake
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("SERVER", server.URL)
			env.Setenv("DAYPASS_URL", server.URL)
			env.Setenv("DAYPASS_TOKEN_FILE", filepath.Join(env.WorkDir, "token"))
			return os.WriteFile(filepath.Join(env.WorkDir, "token"), []byte(jobToken+"\n"), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await": await,
			"code":  code,
			"sent":  sent,
		},
	})
}

// code runs a command and wants an exit code: code 3 daypass …
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = failed.ExitCode()
	} else if err != nil {
		ts.Fatalf("running: %v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// sent wants a request that matches, or none: [!] sent REGEXP
func sent(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] sent regexp")
	}
	log := ts.Value("fake").(*fakeBroker).log()
	if found := regexp.MustCompile("(?m)" + args[0]).MatchString(log); found == neg {
		ts.Fatalf("%q found: %v, in the requests:\n%s", args[0], found, log)
	}
}

// await waits until a request matches: await REGEXP
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await regexp")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(10 * time.Second); !want.MatchString(ts.Value("fake").(*fakeBroker).log()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("no request matched %q", args[0])
		}
	}
}

const (
	jobToken     = "job-header.job-payload.job-signature"
	sessionToken = "dps_session-token-of-the-fake"
	revocation   = "dpr_revocation-token-of-the-fake"
	adminToken   = "dpa_admin-token-of-the-fake"
	password     = "dpp_pass'word with \"quotes\""
)

// fakeBroker answers as the API does, by the name of the first grant.
type fakeBroker struct {
	mu       sync.Mutex
	requests bytes.Buffer
	busy     int // how often it was unavailable
	// revoking is asked before a session is given back, and says that it answered; nil:
	// nobody is.
	revoking func(w http.ResponseWriter, r *http.Request) bool
	auditLog *fakeLog
}

func (f *fakeBroker) log() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests.String()
}

func (f *fakeBroker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathExchange, f.exchange)
	mux.HandleFunc("POST "+api.PathSessionRevoke, f.revokeSession)
	mux.HandleFunc("GET "+api.PathSession, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.SessionInfo{Leases: []api.Lease{lease("lse_own")}})
	})
	secretRoutes(mux)
	targetRoutes(mux)
	jobRoutes(mux)
	leakRoutes(mux)
	mux.HandleFunc("GET "+api.PathLeases, leasePages)
	mux.HandleFunc("GET "+api.PathLeases+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "lse_none" {
			refuse(w, api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "no such lease"})
			return
		}
		reply(w, 200, lease(r.PathValue("id")))
	})
	mux.HandleFunc("POST "+api.PathLeases+"/{id}/renew", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, lease(r.PathValue("id")))
	})
	mux.HandleFunc("POST "+api.PathLeases+"/{id}/revoke", func(w http.ResponseWriter, _ *http.Request) {
		until := expires.Add(time.Hour)
		reply(w, 202, api.RevokeResponse{State: "revoking", ValidElsewhereUntil: &until})
	})
	mux.HandleFunc("GET "+api.PathAudit, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.EventList{Events: []api.Event{{
			ID: "evt_1", At: issued, Type: "lease.issued", Subject: "lse_1", Count: 1, Actor: "provider:github\x1b[2J",
		}}})
	})
	redactRoutes(mux)
	policyRoutes(mux)
	switchRoutes(mux)
	doctorRoutes(mux)
	f.auditLog.routes(mux)
	mux.HandleFunc("GET /github", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer runner-token" {
			w.WriteHeader(401)
			return
		}
		reply(w, 200, map[string]any{"count": 1, "value": jobToken})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(400)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		f.mu.Lock()
		fmt.Fprintf(&f.requests, "%s %s %s %s\n", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), body)
		f.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
}

var (
	issued  = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	expires = issued.Add(10 * time.Minute)
)

func lease(id string) api.Lease {
	return api.Lease{
		ID: id, State: "active", Policy: "payments", Grant: "deploy-db", Issuer: "payments-db", Kind: "postgres",
		Revocation: "immediate", Subject: "repo:acme/pay:ref\x1b[31m", IssuedAt: issued, ExpiresAt: expires,
	}
}

// leasePages gives three leases, two a page at most.
func leasePages(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+adminToken {
		refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not for you"})
		return
	}
	switch r.URL.Query().Get("cursor") {
	case "":
		page := []api.Lease{lease("lse_1"), lease("lse_2")}
		if r.URL.Query().Get("limit") == "1" {
			page = page[:1]
		}
		reply(w, 200, api.LeaseList{Leases: page, Next: "two"})
	case "two":
		reply(w, 200, api.LeaseList{Leases: []api.Lease{lease("lse_3")}})
	}
}

func (f *fakeBroker) exchange(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+jobToken {
		refuse(w, api.Problem{Status: 401, Code: api.CodeInvalidToken, Reason: api.ReasonExpired, Detail: "it ended"})
		return
	}
	if wouldExchange(w, r) {
		return
	}
	var request api.ExchangeRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		refuse(w, api.Problem{Status: 400, Code: api.CodeInvalidRequest, Detail: err.Error()})
		return
	}
	name := request.Grants[0].Name
	expires := time.Now().Add(10 * time.Minute).UTC().Truncate(time.Second)
	values := map[string]string{"username": "dp_user", "password": password, "url": "postgres://dp_user:" + password + "@db"}
	answer := api.ExchangeResponse{
		Session: api.Session{ID: "ses_1", Token: sessionToken, RevocationToken: revocation, ExpiresAt: expires},
		Credentials: []api.Credential{{
			Grant: name, LeaseID: "lse_1", ExpiresAt: expires, Values: values, Secret: []string{"password", "url"},
			Env: map[string]string{"PGUSER": values["username"], "PGPASSWORD": password},
		}},
		Redaction: api.Redaction{Patterns: []string{`internal-[0-9]{6}`}},
	}
	switch credential := &answer.Credentials[0]; name {
	case "payments/denied":
		refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "no\n::set-env::", Claims: []string{"ref"}})
		return
	case "payments/none":
		refuse(w, api.Problem{Status: 404, Code: api.CodeNoSuchGrant, Detail: "no such grant"})
		return
	case "payments/broken":
		refuse(w, api.Problem{Status: 500, Code: api.CodeInternal, Detail: "broken"})
		return
	case "payments/proxy":
		http.Error(w, "<html>forbidden", http.StatusForbidden)
		return
	case "payments/busy":
		f.mu.Lock()
		f.busy++
		busy := f.busy <= 2
		f.mu.Unlock()
		if busy {
			refuse(w, api.Problem{Status: 503, Code: api.CodeUnavailable, Detail: "busy"})
			return
		}
	case "payments/slow":
		<-r.Context().Done()
		return
	case "payments/pin":
		credential.Values["pin"], credential.Secret = "1234", append(credential.Secret, "pin")
	case "payments/bad-pattern":
		answer.Redaction.Patterns = []string{"("}
	case "payments/bad-env":
		credential.Env["ld_preload"] = "x"
	case "payments/bound":
		if r.Header.Get("DPoP") != "" {
			answer.Session.TokenType = api.TokenTypeDPoP
		}
	case "payments/old": // from a broker of before there were any
		answer.Session.RevocationToken = ""
	case "payments/stays":
		answer.Session.Token += "-that-stays"
	}
	if format := r.URL.Query().Get("format"); format != "json" && format != "" {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "rendered as "+format) //nolint:gosec // plain text of the test's own
		return
	}
	reply(w, 200, answer)
}

func (f *fakeBroker) revokeSession(w http.ResponseWriter, r *http.Request) {
	if f.revoking != nil && f.revoking(w, r) {
		return
	}
	by := "Bearer "
	if r.Header.Get("DPoP") != "" {
		by = "DPoP "
	}
	if token := strings.TrimPrefix(r.Header.Get("Authorization"), by); token != sessionToken && token != revocation {
		refuse(w, api.Problem{Status: 500, Code: api.CodeInternal, Detail: "can't"})
		return
	}
	reply(w, 200, api.RevokeResponse{State: "revoked"})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, problem api.Problem) {
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(problem.Status)
	_ = json.NewEncoder(w).Encode(problem)
}

func TestExitCodeOfWrappedErrors(t *testing.T) {
	denied := fmt.Errorf("exchanging: %w", &api.Problem{Status: 403, Code: api.CodeNotAllowed})
	for _, test := range []struct {
		err  error
		want int
	}{
		{denied, exitDenied},
		{usage("wrong"), exitUsage},
		{startError(exec.ErrNotFound), exitNotFound},
		{errors.New("other"), exitFailed},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

// stuck tells of a Write and then takes nothing until it is let go.
type stuck struct {
	began chan<- struct{}
	let   <-chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	s.began <- struct{}{}
	<-s.let
	return len(p), nil
}

// Giving the session back must not wait for somebody who doesn't read.
func TestDrainDoesNotWaitForAStuckReader(t *testing.T) {
	masker, err := redact.New(redact.Config{})
	if err != nil {
		t.Fatal(err)
	}
	began, let, late := make(chan struct{}), make(chan struct{}), make(chan struct{})
	u, err := newPump(masker, stuck{began, let})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(u.to, "text"); err != nil {
		t.Fatal(err)
	}
	u.begin()
	<-began
	close(late)
	if err := u.drain(late); !errors.Is(err, errStuck) {
		t.Fatalf("got %v, want errStuck", err)
	}
	close(let)
	if err := <-u.ended; err != nil {
		t.Errorf("once it is read again: %v", err)
	}
}

func TestClean(t *testing.T) {
	if got, want := clean("a\n::set-env\x1b[2J\u202eé"), "a ::set-env [2J é"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{"PGUSER": true, "A_1": true, "": false, "1A": false, "_A": false, "pg": false, "A=B": false} {
		if validName(name) != want {
			t.Errorf("validName(%q) = %v", name, !want)
		}
	}
}

// Every command that does something shows an example, and says what it is for.
func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(path string, depth int)
	walked := 0
	walk = func(path string, depth int) {
		cmd, _, err := (&program{stdout: io.Discard, stderr: io.Discard}).root(nil).Find(strings.Fields(path))
		if err != nil {
			t.Fatal(err)
		}
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("daypass %s has no example or no description", path)
		}
		walked++
		for _, sub := range cmd.Commands() {
			walk(path+" "+sub.Name(), depth+1)
		}
	}
	walk("", 0)
	if walked < 10 {
		t.Errorf("only %d commands seen", walked)
	}
}

// TestCommandsAlone: a command that a command line begins with is made alone, and
// is the one that it names.
func TestCommandsAlone(t *testing.T) {
	p := &program{stdout: io.Discard, stderr: io.Discard}
	for _, c := range p.commands() {
		made := p.root([]string{c.name, "--help"}).Commands()
		if len(made) != 1 || made[0].Name() != c.name {
			t.Errorf("%s: made %d commands, the first %s", c.name, len(made), made[0].Name())
		}
	}
	for _, args := range [][]string{nil, {"--help"}, {"help", "exec"}, {"exe"}, {"--url", "https://daypass.example.com", "exec"}} {
		if n := len(p.root(args).Commands()); n != len(p.commands()) {
			t.Errorf("%q: made %d commands", args, n)
		}
	}
}
