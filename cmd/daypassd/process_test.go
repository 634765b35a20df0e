package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
)

// process is a daypassd that runs.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set before
	err  error

	mu     sync.Mutex
	stdout bytes.Buffer
	lines  []string // of stderr
}

// start starts the program; the end of the test ends it, if nothing else has.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), "daypassd", args...), done: make(chan struct{})}
	p.cmd.Env = cleanEnv(env...)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for buffer := make([]byte, 4096); ; {
			n, err := stdout.Read(buffer)
			p.mu.Lock()
			p.stdout.Write(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	reading.Go(func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
	})
	go func() {
		reading.Wait()
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // an error means that it has ended
		<-p.done
		if t.Failed() {
			t.Logf("daypassd %s said:\n%s", strings.Join(args, " "), strings.Join(p.log(), "\n"))
		}
	})
	return p
}

func (p *process) log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

func (p *process) out() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to the process alone, not to those that it started.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ended waits for the process and returns how it ended.
func (p *process) ended(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(deadline):
		t.Fatalf("the process runs on after %s", deadline)
	}
	return p.cmd.ProcessState
}

// stop asks the process to end, and wants it to end well.
func (p *process) stop(t *testing.T, s os.Signal) {
	t.Helper()
	p.signal(t, s)
	if state := p.ended(t); state.ExitCode() != 0 {
		t.Errorf("after %s it ended with %s", s, state)
	}
}

// entry is one line of the log.
type entry map[string]any

// entries are the lines with that message. A line that is no JSON fails the test.
func (p *process) entries(t *testing.T, message string) []entry {
	t.Helper()
	var found []entry
	for _, line := range p.log() {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q is no line of JSON: %v", line, err)
		}
		if text, _ := e["msg"].(string); strings.HasPrefix(text, message) {
			found = append(found, e)
		}
	}
	return found
}

// await waits for a line with that message.
func (p *process) await(t *testing.T, message string) entry {
	t.Helper()
	var found []entry
	eventually(t, "a line of the log: "+message, func() bool {
		ended := !p.running()
		if found = p.entries(t, message); len(found) == 0 && ended {
			t.Fatalf("the process ended (%s) without a line of the log: %s", p.cmd.ProcessState, message)
		}
		return len(found) > 0
	})
	return found[0]
}

func (e entry) text(t *testing.T, key string) string {
	t.Helper()
	text, ok := e[key].(string)
	if !ok || text == "" {
		t.Fatalf("no %s in %v", key, e)
	}
	return text
}

// serve starts a broker and returns its base URL.
func (p place) serve(t *testing.T, env ...string) (*process, string) {
	t.Helper()
	broker := start(t, env, "serve", "--config", p.config)
	return broker, "http://" + broker.await(t, "serving").text(t, "address")
}

// newBroker makes a place where exchanges work: migrated, with a prepared target.
func newBroker(t *testing.T) (place, *devkit.Provider) {
	t.Helper()
	provider, err := devkit.StartProvider(t.Context(), devkit.ProviderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
	})
	p := newPlace(t, t.TempDir(), provider.URL())
	p.sql(t, "CREATE ROLE NAME_owner NOLOGIN", "CREATE ROLE NAME_deploy NOLOGIN", "GRANT NAME_owner TO NAME_deploy")
	setup := runProgram(t, nil, "target", "setup", "postgres", "--config", p.config, "--owner-role", p.name+"_functions", "--keep-connect")
	psql := exec.CommandContext(t.Context(), devtest.Postgres(t).Bin("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", p.target)
	psql.Stdin = strings.NewReader(setup)
	psql.Env = cleanEnv()
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	p.sql(t, "ALTER ROLE NAME_broker PASSWORD '"+targetPassword+"'")
	return p, provider
}

// sql runs statements on the target; NAME stands for its database's name.
func (p place) sql(t *testing.T, statements ...string) {
	t.Helper()
	query(t, p.target, strings.ReplaceAll(strings.Join(statements, ";\n"), "NAME", p.name))
}

// query runs statements and returns the last one's first value.
func query(t *testing.T, dsn, statements string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // what was written is committed
	results, err := conn.PgConn().Exec(t.Context(), statements).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return ""
	}
	return string(last.Rows[0][0])
}

func jobToken(t *testing.T, provider *devkit.Provider) string {
	t.Helper()
	token, err := provider.Token(devkit.ProfileGitHub, "daypass-test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// answer is what a call brought.
type answer struct {
	*http.Response
	body string
}

func (a answer) field(t *testing.T, path ...string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no %s in %s", strings.Join(path, "."), a.body)
		}
		v = m[key]
	}
	return v
}

// send does one call and reads the answer.
func send(client *http.Client, method, url, token string) (answer, error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(response.Body)
	return answer{response, string(body)}, err
}

// call does one call on a connection of its own.
func call(t *testing.T, method, url, token string) answer {
	t.Helper()
	client := newClient(t)
	a, err := send(client, method, url, token)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// exchange asks for credentials, and asks again where it is told to.
func exchange(t *testing.T, url, token string) answer {
	t.Helper()
	a, err := patient(newClient(t), url, token)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// patient asks again while the broker says so, as clients do: a loaded machine may
// make a database seem away.
func patient(client *http.Client, url, token string) (a answer, err error) {
	for range 10 {
		if a, err = send(client, http.MethodPost, url, token); err != nil || a.StatusCode != http.StatusServiceUnavailable {
			break
		}
	}
	return a, err
}

// newClient has connections of its own, kept alive until the end of the test.
func newClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: deadline}
}

const deployDB = "/v1/exchange?grant=payments/deploy-db"

// hasEndedBy says whether a signal ended the process.
func hasEndedBy(state *os.ProcessState, s syscall.Signal) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == s
}
