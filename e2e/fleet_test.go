package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
)

var fleets atomic.Int32

// fleet is one installation: a database, a target, a provider, and any number
// of brokers.
type fleet struct {
	t        *testing.T
	server   *devkit.Postgres
	targets  *devkit.Postgres // has the target; nil: server does
	provider *devkit.Provider
	dir      string
	name     string // of its databases and, with a suffix, of its roles on the target
	config   string
	admin    string // an operator's token
	looking  *looking
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, server: devtest.Postgres(t), dir: t.TempDir(), name: fmt.Sprintf("e2e_%d_%d", os.Getpid(), fleets.Add(1)), looking: look(t)}
	var err error
	// An RSA key takes its time to make.
	if f.provider, err = devkit.StartProvider(t.Context(), devkit.ProviderConfig{Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.provider.Close() })
	devtest.MigratedAs(t, f.name)
	if err := f.server.CreateDatabase(t.Context(), f.target()); err != nil {
		t.Fatal(err)
	}
	f.sql(f.target(), fmt.Sprintf(`
CREATE ROLE %[1]s_owner NOLOGIN; CREATE ROLE %[1]s_deploy NOLOGIN; GRANT %[1]s_owner TO %[1]s_deploy;
CREATE SCHEMA app AUTHORIZATION %[1]s_owner; GRANT USAGE, CREATE ON SCHEMA app TO %[1]s_deploy;`, f.name))
	f.found()
	return f
}

// found makes the installation, and sets its target up.
func (f *fleet) found() {
	f.t.Helper()
	f.writeConfig("daypass.yaml", f.name)
	setup := f.must("target", "setup", "postgres", "--keep-connect", "--config", f.config)
	psql := exec.CommandContext(f.t.Context(), f.on(f.target()).Bin("psql"), "-XAtq", f.on(f.target()).DSN(f.target()))
	psql.Stdin = strings.NewReader(setup)
	if out, err := psql.CombinedOutput(); err != nil {
		f.t.Fatalf("setting the target up: %v\n%s", err, out)
	}
	f.setTargetPassword("first-password-of-the-account")
	f.admin = strings.TrimSpace(f.must("admin", "token", "create", "--config", f.config, "--role", "operator", "--owner", "e2e", "--ttl", "1h"))
	leaks.secret("admin token", f.admin)
}

func (f *fleet) target() string  { return f.name + "_target" }
func (f *fleet) account() string { return f.name + "_broker" }

func (f *fleet) setTargetPassword(password string) {
	f.t.Helper()
	leaks.secret("target password", password)
	f.sql(f.target(), fmt.Sprintf(`ALTER ROLE %s PASSWORD '%s'`, f.account(), password))
	f.write("target.password", password)
}

func (f *fleet) write(name, content string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f *fleet) writeConfig(name, database string) string {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Join(f.dir, "policies"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	f.write("pin", "a-pin-for-tests")
	f.write("target.password", "not yet")
	url := f.write(name+".url", f.server.DSN(database))
	f.write("policies/app.yaml", `
policy: app
owner: team@example.com
environment: production
jobs:
  - name: main
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
    condition: int(claims.run_attempt) <= 3
grants:
  - {name: db, jobs: [main], issuer: app-db, role: deployer, ttl: 10m, max_ttl: 30m}
  - {name: jwt, jobs: [main], issuer: app-jwt, with: {audience: "https://api.example.com"}}
`)
	f.config = f.write(name, fmt.Sprintf(`
listen: 127.0.0.1:0
external_url: https://daypass.example.com
insecure_http: true
database: {url_file: %q, max_connections: 8}
allow_software_keys: true
keys:
  signing: {type: software, dir: %q, pin_file: %q}
  sealing: {type: software, dir: %q, pin_file: %q}
providers:
  - {name: github, type: github, issuer: %q, audience: daypass-e2e}
issuers:
  - name: app-db
    type: postgres
    target: {host: 127.0.0.1, port: %d, database: %s, sslmode: disable}
    admin: {user: %s, password_file: %q}
    roles:
      deployer: {member_of: [%s_deploy], owner: %s_owner, scram_iterations: 1, used_by: [{policy: app, environment: production}]}
  - {name: app-jwt, type: jwt, used_by: [{policy: app, environment: production}]}
policies: {dir: %q}
limits: {job_requests: 1000000, job_leases: 1000000}
`, url, f.dir+"/keys", f.dir+"/pin", f.dir+"/keys", f.dir+"/pin", f.provider.IssuerURL("github"),
		f.on(f.target()).Port(), f.target(), f.account(), f.dir+"/target.password", f.name, f.name, f.dir+"/policies"))
	return f.config
}

// must runs daypassd to its end and returns what it printed.
func (f *fleet) must(args ...string) string {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), filepath.Join(programs, "daypassd"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	leaks.line(stderr.String())
	if err != nil {
		f.t.Fatalf("daypassd %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (f *fleet) sql(database, sql string) {
	f.t.Helper()
	conn := f.connect(database)
	defer conn.Close(context.Background()) //nolint:errcheck // its work is done
	if _, err := conn.PgConn().Exec(f.t.Context(), sql).ReadAll(); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// closeDatabase is an outage: nobody can connect, and nobody stays connected.
func (f *fleet) closeDatabase(name string) {
	f.t.Helper()
	f.sql("postgres", `ALTER DATABASE `+name+` ALLOW_CONNECTIONS false`)
	f.sql("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+name+`'`)
}

func (f *fleet) openDatabase(name string) {
	f.t.Helper()
	f.sql("postgres", `ALTER DATABASE `+name+` ALLOW_CONNECTIONS true`)
}

func (f *fleet) connect(database string) *pgx.Conn {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.on(database).DSN(database))
	if err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// on is the server that has a database.
func (f *fleet) on(database string) *devkit.Postgres {
	if f.targets != nil && database == f.target() {
		return f.targets
	}
	return f.server
}

// count runs a query that gives one number.
func (f *fleet) count(database, query string, args ...any) (n int) {
	f.t.Helper()
	if err := f.looking.at(f.t.Context(), f.on(database).DSN(database), func(conn *pgx.Conn) error {
		return conn.QueryRow(f.t.Context(), query, args...).Scan(&n)
	}); err != nil {
		f.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// clone copies the fleet's database, which nobody may be connected to.
func (f *fleet) clone(name string) {
	f.t.Helper()
	f.looking.close()
	f.sql("postgres", `CREATE DATABASE `+name+` TEMPLATE `+f.name)
}

// users counts what brokers of this fleet have made on the target.
func (f *fleet) users() int {
	f.t.Helper()
	return f.count(f.target(), `SELECT count(*) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
WHERE g.rolname = $1 AND u.rolname LIKE 'dp\_%'`, f.name+"_deploy")
}

// broker is one running daypassd.
type broker struct {
	f      *fleet
	cmd    *exec.Cmd
	url    string
	exited chan struct{}
	told   atomic.Bool // to end

	mu  sync.Mutex
	log []string
}

// start runs a broker and waits until it answers and has tried its target.
func (f *fleet) start(env ...string) *broker {
	f.t.Helper()
	return f.startProgram("daypassd", env...)
}

// startProgram is the same for the daypassd of another version.
func (f *fleet) startProgram(program string, env ...string) *broker {
	f.t.Helper()
	b, err := f.tryProgram(program, f.config, env...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { b.signal(syscall.SIGCONT); b.kill() })
	return b
}

func (f *fleet) tryStart(config string, env ...string) (*broker, error) {
	f.t.Helper()
	return f.tryProgram("daypassd", config, env...)
}

func (f *fleet) tryProgram(program, config string, env ...string) (*broker, error) {
	f.t.Helper()
	b := &broker{f: f, exited: make(chan struct{})}
	b.cmd = exec.Command(filepath.Join(programs, program), "serve", "--config", config)
	b.cmd.Env = append(os.Environ(), env...)
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	address := make(chan string, 1)
	go b.read(stderr, address)
	select {
	case b.url = <-address:
		return b, nil
	case <-b.exited:
		return nil, fmt.Errorf("daypassd ended: %s", strings.Join(b.lines(), "\n"))
	case <-time.After(30 * time.Second):
		b.kill()
		return nil, errors.New("daypassd did not start")
	}
}

func (b *broker) read(stderr io.Reader, address chan<- string) {
	scanner := bufio.NewScanner(stderr)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Text()
		leaks.line(line)
		b.mu.Lock()
		b.log = append(b.log, line)
		b.mu.Unlock()
		var entry struct{ Msg, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
			address <- "http://" + entry.Address
		}
	}
	_ = b.cmd.Wait()
	close(b.exited)
}

func (b *broker) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.log...)
}

func (b *broker) signal(s syscall.Signal) { _ = b.cmd.Process.Signal(s) }

func (b *broker) kill() {
	b.signal(syscall.SIGKILL)
	<-b.exited
}

func (b *broker) awaitExit() {
	b.f.t.Helper()
	select {
	case <-b.exited:
	case <-time.After(20 * time.Second):
		b.f.t.Fatal("the broker went on")
	}
}

// awaitProbe waits until the fleet has tried its target, so that what is made
// for that doesn't get in a test's way.
func (b *broker) awaitProbe() {
	b.f.t.Helper()
	eventually(b.f.t, "the target is tried", func() bool {
		status, body, err := b.call(http.MethodGet, api.PathReady, "", nil)
		return err == nil && status == http.StatusOK && strings.Contains(string(body), `"app-db":"ok"`)
	})
}

// call sends one request. The error is of the connection.
func (b *broker) call(method, path, token string, body any) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(encoded)
	}
	ctx, cancel := context.WithTimeout(b.f.t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, b.url+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

func (f *fleet) jobToken() string {
	f.t.Helper()
	token, err := f.provider.Token("github", "daypass-e2e", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	leaks.secret("job token", token)
	return token
}

// exchange asks for grants with a token of its own.
func (b *broker) exchange(ttl string, grants ...string) (*api.ExchangeResponse, *api.Problem, error) {
	b.f.t.Helper()
	request := api.ExchangeRequest{}
	for _, g := range grants {
		request.Grants = append(request.Grants, api.GrantRequest{Name: g, TTL: ttl})
	}
	status, body, err := b.call(http.MethodPost, api.PathExchange, b.f.jobToken(), request)
	if err != nil {
		return nil, nil, err
	}
	if status != http.StatusOK {
		problem := &api.Problem{}
		if err := json.Unmarshal(body, problem); err != nil {
			return nil, nil, fmt.Errorf("status %d: %s", status, body)
		}
		return nil, problem, nil
	}
	out := &api.ExchangeResponse{}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, nil, err
	}
	leaks.secret("session token", out.Session.Token)
	for _, c := range out.Credentials {
		for _, name := range c.Secret {
			leaks.secret(c.Kind+" "+name, c.Values[name])
		}
	}
	return out, nil, nil
}

func (b *broker) mustExchange(ttl string, grants ...string) *api.ExchangeResponse {
	b.f.t.Helper()
	out, problem, err := b.patient(ttl, grants...)
	if err != nil || problem != nil {
		b.f.t.Fatalf("exchange: %v %v", problem, err)
	}
	return out
}

// patient asks again where it is told to, as clients do: a loaded machine may make
// a database seem away.
func (b *broker) patient(ttl string, grants ...string) (out *api.ExchangeResponse, problem *api.Problem, err error) {
	b.f.t.Helper()
	for range 10 {
		out, problem, err = b.exchange(ttl, grants...)
		if err != nil || problem == nil || problem.Code != api.CodeUnavailable {
			break
		}
	}
	return out, problem, err
}

// eventually polls until it holds; a loaded machine gets its time.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

// nothingLeft is what every test ends with: no user on the target, every lease
// at its end, and of each exactly one event that says so.
func (f *fleet) nothingLeft() {
	f.t.Helper()
	eventually(f.t, "no live lease", func() bool {
		return f.count(f.name, `SELECT count(*) FROM leases WHERE due_at IS NOT NULL`) == 0
	})
	if n := f.users(); n != 0 {
		f.t.Errorf("%d users are left on the target", n)
	}
	if n := f.count(f.name, `
SELECT count(*) FROM leases l WHERE 1 <> (
    SELECT count(*) FROM audit_events e WHERE e.subject = l.id AND e.type IN ('lease.revoked', 'lease.expired', 'lease.forgotten') OR e.type = 'leases.expired' AND (e.body::jsonb #> '{data,leases}') ? l.id)`); n != 0 {
		f.t.Errorf("%d leases don't have exactly one event of their end", n)
	}
	if n := f.count(f.name, `SELECT count(*) FROM leases l WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = l.id)`); n != 0 {
		f.t.Errorf("%d leases miss an event", n)
	}
}
