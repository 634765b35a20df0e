package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// keepBroker is a broker whose credentials live for seconds. It keeps book of what
// lives, and of how much of it there was at most.
type keepBroker struct {
	t *testing.T
	// Set before it is used: how long credentials and sessions live, and which grants
	// can be renewed, how often; zero: for ever, none.
	ttl, session time.Duration
	renewals     map[string]int
	refuse       func(n int, token string) *api.Problem // of the n-th exchange, from 1
	hold         map[int]chan struct{}                  // exchanges that wait

	mu        sync.Mutex
	exchanges int
	asked     []string // tokens of exchanges
	jobs      int      // tokens that the runner gave
	sessions  map[string]time.Time
	live      map[string]string // lease → session token
	most      map[string]int    // live leases of a grant at once
	events    []string
}

func (k *keepBroker) start() (url string) {
	k.sessions, k.live, k.most = map[string]time.Time{}, map[string]string{}, map[string]int{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathExchange, k.exchange)
	mux.HandleFunc("POST "+api.PathSessionRevoke, k.revokeSession)
	mux.HandleFunc("POST "+api.PathLeases+"/{id}/revoke", k.revoke)
	mux.HandleFunc("POST "+api.PathLeases+"/{id}/renew", k.renew)
	mux.HandleFunc("GET /runner", func(w http.ResponseWriter, _ *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.jobs++
		reply(w, 200, map[string]any{"value": fmt.Sprintf("job-token-%d-of-the-runner", k.jobs)})
	})
	server := httptest.NewServer(mux)
	k.t.Cleanup(server.Close)
	return server.URL
}

func bearerOf(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func (k *keepBroker) note(format string, args ...any) {
	k.events = append(k.events, fmt.Sprintf(format, args...))
}

func (k *keepBroker) exchange(w http.ResponseWriter, r *http.Request) {
	var request api.ExchangeRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		refuse(w, api.Problem{Status: 400, Code: api.CodeInvalidRequest, Detail: err.Error()})
		return
	}
	k.mu.Lock()
	k.exchanges++
	n, token := k.exchanges, bearerOf(r)
	k.asked = append(k.asked, token)
	k.note("exchange %d", n)
	k.mu.Unlock()
	if wait := k.hold[n]; wait != nil {
		<-wait
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		if problem := k.refuse(n, token); problem != nil {
			refuse(w, *problem)
			return
		}
	}
	// A session token is "dps_session-token-N-of-SESSION".
	_, session, joined := strings.Cut(token, "-of-ses_")
	if session = "ses_" + session; !joined {
		session = fmt.Sprintf("ses_%d", n)
		k.sessions[session] = time.Now().Add(max(k.session, time.Hour)).UTC().Truncate(time.Second)
		if k.session > 0 {
			k.sessions[session] = time.Now().Add(k.session).UTC()
		}
	}
	answer := api.ExchangeResponse{Session: api.Session{ID: session, Token: fmt.Sprintf("dps_session-token-%d-of-%s", n, session), ExpiresAt: k.sessions[session]}}
	for _, grant := range request.Grants {
		end := time.Now().Add(k.ttl).UTC()
		if end.After(k.sessions[session]) {
			end = k.sessions[session]
		}
		name := strings.TrimPrefix(grant.Name, "ci/")
		lease := fmt.Sprintf("lse_%s_%d", name, n)
		secret := fmt.Sprintf("secret-%s-%d-that-is-long", name, n)
		answer.Credentials = append(answer.Credentials, api.Credential{
			Grant: grant.Name, LeaseID: lease, ExpiresAt: end, Renewable: k.renewals[grant.Name] > 0, Secret: []string{"token"},
			Values: map[string]string{"user": fmt.Sprintf("user-%d", n), "token": secret},
			Env:    map[string]string{strings.ToUpper(name) + "_TOKEN": secret, strings.ToUpper(name) + "_USER": fmt.Sprintf("user-%d", n)},
		})
		k.live[lease] = answer.Session.Token
		k.most[grant.Name] = max(k.most[grant.Name], k.count("lse_"+name+"_"))
	}
	reply(w, 200, answer)
}

func (k *keepBroker) count(prefix string) (n int) {
	for lease := range k.live {
		if strings.HasPrefix(lease, prefix) {
			n++
		}
	}
	return n
}

func (k *keepBroker) revokeSession(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	token := bearerOf(r)
	for lease, holder := range k.live {
		if holder == token {
			delete(k.live, lease)
		}
	}
	k.note("session revoked %s", token)
	reply(w, 200, api.RevokeResponse{State: "revoked"})
}

func (k *keepBroker) revoke(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.live[r.PathValue("id")] != bearerOf(r) {
		refuse(w, api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "no lease of yours"})
		return
	}
	delete(k.live, r.PathValue("id"))
	k.note("revoked %s", r.PathValue("id"))
	reply(w, 200, api.RevokeResponse{State: "revoked"})
}

func (k *keepBroker) renew(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := r.PathValue("id")
	grant := "ci/" + strings.Split(id, "_")[1]
	k.note("renewed %s", id)
	if k.renewals[grant] <= 0 {
		refuse(w, api.Problem{Status: 503, Code: api.CodeUnavailable, Detail: "away"})
		return
	}
	k.renewals[grant]--
	reply(w, 200, api.Lease{ID: id, ExpiresAt: time.Now().Add(k.ttl).UTC(), Renewable: k.renewals[grant] > 0})
}

func (k *keepBroker) did(event string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.events, func(e string) bool { return strings.HasPrefix(e, event) })
}

// order wants events in this order.
func (k *keepBroker) order(events ...string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	at := 0
	for _, want := range events {
		i := slices.IndexFunc(k.events[at:], func(e string) bool { return strings.HasPrefix(e, want) })
		if i < 0 {
			k.t.Fatalf("no %q in its place in %q", want, k.events)
		}
		at += i + 1
	}
}

// nothingLives wants that all was given back, and never more than two of a kind lived.
func (k *keepBroker) nothingLives() {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.live) > 0 {
		k.t.Errorf("still alive: %v", k.live)
	}
	for grant, n := range k.most {
		if n > 2 {
			k.t.Errorf("%d credentials of %s lived at once", n, grant)
		}
	}
}

// keptJob is a run of daypass in a folder of its own, on a runner of GitHub's.
type keptJob struct {
	*keepBroker
	cmd      *exec.Cmd
	dir      string
	out, err lockedBuffer
	ended    chan struct{}
}

func (k *keepBroker) job(change func(*exec.Cmd), args ...string) *keptJob {
	k.t.Helper()
	url := k.start()
	j := &keptJob{keepBroker: k, dir: k.t.TempDir(), ended: make(chan struct{})}
	j.cmd = exec.Command("daypass", append([]string{"exec"}, args...)...)
	j.cmd.Dir = j.dir
	j.cmd.Env = append(os.Environ(), "DAYPASS_URL="+url, "DAYPASS_AUDIENCE=a", "DAYPASS_TOKEN_FILE=", "XDG_RUNTIME_DIR="+j.dir,
		"GITHUB_ACTIONS=true", "ACTIONS_ID_TOKEN_REQUEST_URL="+url+"/runner?a=b", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=runner-token")
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.err
	if change != nil {
		change(j.cmd)
	}
	if err := j.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	go func() {
		_ = j.cmd.Wait()
		close(j.ended)
	}()
	k.t.Cleanup(func() {
		_ = j.cmd.Process.Kill()
		<-j.ended
		j.touch("done") // for a command that was left alone
	})
	return j
}

func (j *keptJob) touch(name string) {
	if err := os.WriteFile(filepath.Join(j.dir, name), nil, 0o600); err != nil {
		j.t.Error(err)
	}
}

func (j *keptJob) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(j.dir, name))
	return string(text)
}

func (j *keptJob) until(what string, so func() bool) {
	j.t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			j.t.Fatalf("%s: not within a minute; printed:\n%s%s\nevents %q", what, j.out.String(), j.err.String(), j.events)
		}
	}
}

// exits wants the program to end with a code, with all given back and no file left.
func (j *keptJob) exits(code int) {
	j.t.Helper()
	j.until("ending", func() bool {
		select {
		case <-j.ended:
			return true
		default:
			return false
		}
	})
	if got := j.cmd.ProcessState.ExitCode(); got != code {
		j.t.Errorf("exit code %d, want %d; printed:\n%s%s", got, code, j.out.String(), j.err.String())
	}
	if text := j.out.String() + j.err.String(); strings.Contains(text, "that-is-long") || strings.Contains(text, "job-token") {
		j.t.Errorf("a secret was printed:\n%s", text)
	}
	if left, err := filepath.Glob(filepath.Join(j.dir, "daypass-*")); err != nil || len(left) > 0 {
		j.t.Errorf("left behind: %q, %v", left, err)
	}
	j.nothingLives()
}

// waits is a command that goes on until the test lets it end, with a code.
const waits = `until [ -e done ]; do sleep 0.1; done; exit 6`

// What can be renewed is, as long as the command runs, and nothing is said about it.
func TestExecRenews(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second, renewals: map[string]int{"ci/db": 100}}
	j := k.job(nil, "--grant", "ci/db", "--", "sh", "-c", waits)
	j.until("two renewals", func() bool { return strings.Count(strings.Join(j.log(), "\n"), "renewed") >= 2 })
	j.touch("done")
	j.exits(6)
	if text := j.err.String(); text != "" {
		t.Errorf("it was said: %s", text)
	}
}

func (k *keepBroker) log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.events)
}

// By default the command goes on, and whoever reads its log is told in time.
func TestExecWarns(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--", "sh", "-c", waits)
	j.until("two warnings", func() bool { return strings.Count(j.err.String(), "\n") >= 2 })
	j.touch("done")
	j.exits(6)
	for _, grant := range []string{"ci/db", "ci/aws"} {
		if text := j.err.String(); strings.Count(text, "warning: the credential of "+grant+" ends at ") != 1 || !strings.Contains(text, "hint: --on-expiry") {
			t.Errorf("want one warning for %s:\n%s", grant, text)
		}
	}
}

// A command that is to be stopped gets SIGTERM, and SIGKILL when that doesn't help.
func TestExecStops(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, out string }{
		"by SIGTERM": {`trap 'echo tidied up; exit 5' TERM; echo begun; while :; do sleep 0.1; done`, "begun\ntidied up\n"},
		"by SIGKILL": {`trap '' TERM; echo begun; while :; do sleep 0.1; done`, "begun\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &keepBroker{t: t, ttl: 8 * time.Second}
			j := k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "1s", "--", "sh", "-c", test.script)
			j.exits(exitFailed)
			if j.out.String() != test.out || !strings.Contains(j.err.String(), "daypass: stopped the command: the credential of ci/db ends at 20") {
				t.Errorf("printed %q and %q", j.out.String(), j.err.String())
			}
		})
	}
	t.Run("when renewals fail", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: 10 * time.Second, renewals: map[string]int{"ci/db": 1}, refuse: func(int, string) *api.Problem { return nil }}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "0s", "--", "sh", "-c", waits)
		j.exits(exitFailed)
		if !strings.Contains(j.err.String(), "stopped the command") {
			t.Errorf("printed %q", j.err.String())
		}
	})
	t.Run("a command that ends before has its own code", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Minute}
		k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--", "sh", "-c", "exit 6").exits(6)
	})
}

// restarts is a command that says with which credentials it runs, each time.
const restarts = `echo "$DB_USER" >>users; echo "token $DB_TOKEN"; trap 'echo stopped; exit 0' TERM; until [ -e done ]; do sleep 0.1; done; exit 6`

func TestExecRestarts(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--file", "AWS=ci/aws:token", "--on-expiry", "restart", "--", "sh", "-c", `cat "$AWS" >>files; `+restarts)
	j.until("the third start", func() bool { return strings.Count(j.read("users"), "\n") >= 3 })
	j.touch("done")
	j.exits(6)
	if got := j.read("users"); !strings.HasPrefix(got, "user-1\nuser-2\nuser-3\n") {
		t.Errorf("it ran with %q", got)
	}
	if got := j.read("files"); !strings.HasPrefix(got, "secret-aws-1-that-is-longsecret-aws-2-that-is-longsecret-aws-3-that-is-long") {
		t.Errorf("its files held %q", got)
	}
	if got := j.out.String(); !strings.HasPrefix(got, "token [daypass:redacted]\nstopped\ntoken [daypass:redacted]\nstopped\n") {
		t.Errorf("printed %q", got)
	}
	// The session goes on, so that only leases are given back before the end.
	j.order("exchange 1", "exchange 2", "revoked lse_db_1", "revoked lse_aws_1", "exchange 3", "revoked lse_db_2", "session revoked dps_session-token-3")
	if k.jobs != 1 || k.asked[1] != "dps_session-token-1-of-ses_1" || k.asked[2] != "dps_session-token-2-of-ses_1" {
		t.Errorf("asked with %q", k.asked)
	}
}

// What is refused is tried again; what was got and can't be used is given back.
func TestExecTriesAgain(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 30 * time.Second, refuse: func(n int, _ string) *api.Problem {
		if n == 2 || n == 3 {
			return &api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not now"}
		}
		return nil
	}}
	j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", restarts)
	j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
	j.touch("done")
	j.exits(6)
	if text := j.err.String(); strings.Count(text, "others can't be had") != 1 || !strings.Contains(text, "not_allowed") || j.read("users") != "user-1\nuser-4\n" {
		t.Errorf("printed %q, ran as %q", text, j.read("users"))
	}
}

// When there are no others to be had, the command is stopped.
func TestExecGivesUp(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 3 * time.Second, refuse: func(n int, _ string) *api.Problem {
		if n > 1 {
			return &api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not any more"}
		}
		return nil
	}}
	j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", waits)
	j.exits(exitFailed)
	if text := j.err.String(); !strings.Contains(text, "stopped the command: the credential of ci/db ends at") || !strings.Contains(text, "others could not be had") {
		t.Errorf("printed %q", text)
	}
}

// Where the session leads no further, the CI system is asked for another job token,
// if it has one.
func TestExecOpensAnotherSession(t *testing.T) {
	t.Parallel()
	t.Run("the session is refused", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: 3 * time.Second, refuse: func(_ int, token string) *api.Problem {
			if strings.HasPrefix(token, "dps_") {
				return &api.Problem{Status: 401, Code: api.CodeInvalidToken, Reason: api.ReasonExpired, Detail: "over"}
			}
			return nil
		}}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c", restarts)
		j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
		j.until("giving the first session back", func() bool { return j.did("session revoked dps_session-token-1-of-ses_1") })
		j.touch("done")
		j.exits(6)
		if k.asked[2] != "job-token-2-of-the-runner" {
			t.Errorf("asked with %q", k.asked)
		}
	})
	t.Run("the session ends first", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Hour, session: 3 * time.Second}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c", restarts)
		j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
		j.touch("done")
		j.exits(6)
		if k.asked[1] != "job-token-2-of-the-runner" {
			t.Errorf("asked with %q", k.asked)
		}
	})
	t.Run("there is one token alone", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Hour, session: 3 * time.Second}
		j := k.job(func(c *exec.Cmd) {
			c.Env = append(c.Env, "GITHUB_ACTIONS=", "ACTIONS_ID_TOKEN_REQUEST_URL=", "GITLAB_CI=true", "DAYPASS_JOB_TOKEN=job-token-of-gitlab")
		}, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", waits)
		j.exits(exitFailed)
		if text := j.err.String(); !strings.Contains(text, "their session ends at ") || !strings.Contains(text, "this job has no token but the one that it began with (hint: a longer session_ttl") {
			t.Errorf("printed %q", text)
		}
	})
}

// Files are replaced while the command runs, which is told by a signal; what stands
// in its environment stays alive.
func TestExecReissues(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second, renewals: map[string]int{"ci/db": 100}}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--file", "TOKEN_FILE=ci/aws:token", "--file", "USER_FILE=ci/aws:user", "--on-expiry", "reissue", "--reissue-signal", "HUP", "--",
		"sh", "-c", `echo "$DB_TOKEN $AWS_TOKEN"; ls -lL "$TOKEN_FILE" >mode; ls -ld "${TOKEN_FILE%/now/*}" >>mode
			show() { cat "$USER_FILE" >>users; echo >>users; cat "$TOKEN_FILE"; echo; cat "$TOKEN_FILE" >&2; echo >&2; }; show; trap show HUP; `+waits)
	j.until("three re-issues", func() bool { return strings.Count(j.read("users"), "\n") >= 4 })
	if k.did("revoked lse_db_1") || k.did("session revoked") {
		t.Error("what stands in the environment was given back")
	}
	j.touch("done")
	j.exits(6)
	if got := j.read("users"); !strings.HasPrefix(got, "user-1\nuser-2\nuser-3\nuser-4\n") {
		t.Errorf("files held %q", got)
	}
	if got := j.read("mode"); !strings.HasPrefix(got, "-rw-------") || !strings.Contains(got, "\ndrwx------") {
		t.Errorf("modes:\n%s", got)
	}
	j.order("exchange 1", "exchange 2", "revoked lse_aws_1", "exchange 3", "revoked lse_aws_2", "exchange 4", "session revoked")
	if n := strings.Count(j.out.String(), "[daypass:redacted]"); n < 6 {
		t.Errorf("%d masks in %q", n, j.out.String())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.most["ci/db"] != 1 {
		t.Errorf("%d credentials of a grant that stands in no file", j.most["ci/db"])
	}
}

// However a command ends while others are being got, all is given back.
func TestExecEndsWhileItReissues(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(j *keptJob)
		code int
	}{
		"by itself":          {func(j *keptJob) { j.touch("done") }, 6},
		"by a signal":        {func(j *keptJob) { _ = j.cmd.Process.Signal(syscall.SIGTERM) }, exitSignal + int(syscall.SIGTERM)},
		"by its own SIGKILL": {func(j *keptJob) { j.touch("die") }, exitSignal + int(syscall.SIGKILL)},
	} {
		for _, mode := range []string{onExpiryRestart, onExpiryReissue} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				let := make(chan struct{})
				k := &keepBroker{t: t, ttl: 3 * time.Second, hold: map[int]chan struct{}{2: let}}
				j := k.job(nil, "--grant", "ci/db", "--file", "DB_FILE=ci/db:token", "--on-expiry", mode, "--", "sh", "-c",
					`echo run >>runs; until [ -e done ]; do [ ! -e die ] || kill -9 $$; sleep 0.1; done; exit 6`)
				j.until("asking anew", func() bool { return j.did("exchange 2") })
				test.end(j)
				j.until("the command's end", func() bool {
					return exec.Command("pgrep", "-P", fmt.Sprint(j.cmd.Process.Pid)).Run() != nil
				})
				close(let) // the answer comes when nobody needs it any more
				j.exits(test.code)
				if j.read("runs") != "run\n" {
					t.Errorf("it ran more than once: %q", j.read("runs"))
				}
			})
		}
	}
}

// A command that is told to end while it is stopped isn't started again.
func TestExecIsToldToEndBetweenTwoCommands(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			k := &keepBroker{t: t, ttl: 2 * time.Second}
			j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "1m", "--", "sh", "-c",
				`echo run >>runs; trap '' INT; trap 'touch stopping; until [ -e done ]; do sleep 0.1; done; exit 4' TERM; touch begun; while :; do sleep 0.1; done`)
			j.until("being stopped", func() bool { _, err := os.Stat(filepath.Join(j.dir, "stopping")); return err == nil })
			if err := j.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(200*time.Millisecond, func() { j.touch("done") })
			j.exits(4)
			if j.read("runs") != "run\n" {
				t.Errorf("it ran more than once: %q", j.read("runs"))
			}
		})
	}
	signals := make(chan os.Signal, 4)
	for _, s := range []os.Signal{syscall.SIGWINCH, syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGTERM} {
		signals <- s
	}
	if got := pending(signals); got != syscall.SIGHUP {
		t.Errorf("pending: %v", got)
	}
}

// A terminal is no obstacle: the command's tree is stopped, the next one gets one too.
func TestExecInATerminalIsStartedAgain(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	dir, url := t.TempDir(), k.start()
	env := func(c *exec.Cmd) {
		c.Dir = dir
		c.Env = append(c.Env, "DAYPASS_URL="+url)
	}
	s := newScreen(t, env, "daypass", "exec", "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c",
		`[ -t 0 ] && [ -t 1 ] && echo "on $(stty size) as $DB_USER $DB_TOKEN."; sleep 60`)
	s.expect("on 41 107 as user-1 [daypass:redacted].")
	s.expect("on 41 107 as user-2 [daypass:redacted].")
	s.typed("\x03")
	s.exits(exitSignal + int(syscall.SIGINT))
	k.nothingLives()

	k = &keepBroker{t: t, ttl: 8 * time.Second}
	url = k.start()
	s = newScreen(t, env, "daypass", "exec", "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "1s", "--", "sh", "-c", `echo ready; sleep 60; echo no`)
	s.expect("daypass: stopped the command: ")
	s.exits(exitFailed)
	k.nothingLives()
	if strings.Contains(s.text(), "holds its output open") || !strings.Contains(s.text(), "\r\ndaypass: ") {
		t.Errorf("on the screen:\n%s", s.text())
	}
}

// What was typed wrong is said before anything is asked for.
func TestExecFlagsThatCannotBe(t *testing.T) {
	ok := []string{"--grant", "ci/db"}
	for want, args := range map[string][]string{
		`--on-expiry "never"`:      {"--on-expiry", "never"},
		"--on-expiry reissue":      {"--on-expiry", "reissue"},
		"--reissue-signal goes":    {"--reissue-signal", "HUP"},
		`--reissue-signal "KILL"`:  {"--reissue-signal", "KILL", "--on-expiry", "reissue", "--file", "A=ci/db:token"},
		"--stop-grace":             {"--stop-grace", "1h"},
		"want VARIABLE=":           {"--file", "A=ci/db"},
		"LD_PRELOAD":               {"--file", "LD_PRELOAD=ci/db:token"},
		"PATH":                     {"--file", "PATH=ci/db:token"},
		`"a" is not the name`:      {"--file", "a=ci/db:token"},
		"sets A twice":             {"--file", "A=ci/db:token", "--file", "A=ci/db:user"},
		"ci/aws is not asked for":  {"--file", "A=ci/aws:token"},
		"33 times --file, want 32": slices.Repeat([]string{"--file", "A=ci/db:token"}, 33),
	} {
		var errs bytes.Buffer
		p := &program{stdout: &errs, stderr: &errs}
		if code := p.main(t.Context(), slices.Concat([]string{"exec"}, ok, args, []string{"--", "true"})); code != exitUsage || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: exit code %d, %s", args, code, errs.String())
		}
	}
}

// A field that isn't there is named with those that are, and nothing is run.
func TestExecHasNoSuchField(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: time.Minute}
	j := k.job(nil, "--grant", "ci/db", "--file", "A=ci/db:password", "--", "touch", "begun")
	j.exits(exitFailed)
	if text := j.err.String(); !strings.Contains(text, `--file A: ci/db has no field "password" (hint: it has token, user)`) {
		t.Errorf("printed %q", text)
	}
	if _, err := os.Stat(filepath.Join(j.dir, "begun")); err == nil {
		t.Error("the command was run")
	}
}
