package main

import (
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
