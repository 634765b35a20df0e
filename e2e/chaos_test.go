package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/e2e/chaos"
)

// TestChaos is a fleet at work while everything around it goes wrong, by the
// schedule of a seed. At the end nothing may be lost: every credential that a
// client was given had a lease, each lease came to its end, and no user is left on
// the target. CHAOS=1h makes it long, with a synchronous standby that is promoted
// now and then and a disk that gets full, SEED chooses the schedule; `make chaos`
// runs it so.
func TestChaos(t *testing.T) {
	setup, clients := chaos.Setup{Seed: 7, Length: 15 * time.Second, Brokers: 3, Kinds: chaos.Everywhere()}, 12
	long := os.Getenv("CHAOS") != ""
	if long {
		var err error
		if setup.Length, err = time.ParseDuration(os.Getenv("CHAOS")); err != nil {
			t.Fatal(err)
		}
		setup.Seed, setup.Kinds = uint64(time.Now().UnixNano()), chaos.Kinds()
		clients = 40 // of whom many wait for what is hung
	} else {
		t.Parallel()
	}
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if setup.Seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	r := &ruin{plan: chaos.Plan(setup), brokers: setup.Brokers}
	r.fleet, r.servers = newRuinedFleet(t, long)
	t.Logf("again with: SEED=%d CHAOS=%s make chaos", setup.Seed, setup.Length)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("SEED=%d CHAOS=%s\n%s", setup.Seed, setup.Length, r.plan)
		}
	})
	r.open()
	load := newLoad(r, setup)
	var running sync.WaitGroup
	running.Go(func() { r.run() })
	for i := range clients {
		running.Go(func() { load.work(i) })
	}
	if long {
		running.Go(load.tell)
	}
	running.Wait()
	t.Logf("after %s all is to be well again", time.Since(load.began).Round(time.Second))
	r.heal()
	load.judge()
}

// newRuinedFleet is a fleet whose database has servers of its own.
func newRuinedFleet(t *testing.T, pair bool) (*fleet, *servers) {
	t.Helper()
	f := &fleet{t: t, targets: devtest.Postgres(t), dir: t.TempDir(), name: fmt.Sprintf("e2e_%d_%d", os.Getpid(), fleets.Add(1)), looking: look(t)}
	s := newServers(t, pair)
	f.server = s.primary()
	var err error
	if f.provider, err = devkit.StartProvider(t.Context(), devkit.ProviderConfig{Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.provider.Close() })
	if err := errors.Join(f.server.CreateDatabase(t.Context(), f.name), f.targets.CreateDatabase(t.Context(), f.target())); err != nil {
		t.Fatal(err)
	}
	if pair {
		if err := s.follow(); err != nil {
			t.Fatal(err)
		}
	}
	f.sql(f.target(), fmt.Sprintf(`
CREATE ROLE %[1]s_owner NOLOGIN; CREATE ROLE %[1]s_deploy NOLOGIN; GRANT %[1]s_owner TO %[1]s_deploy;
CREATE SCHEMA app AUTHORIZATION %[1]s_owner; GRANT USAGE, CREATE ON SCHEMA app TO %[1]s_deploy;`, f.name))
	return f, s
}

// ruin does what the schedule says to a fleet.
type ruin struct {
	*fleet

	servers *servers
	plan    chaos.Schedule
	brokers int
	target  *chaos.Proxy
	places  []*brokerPlace

	mu   sync.Mutex
	done map[chaos.Kind]int
	all  []*broker // that ran

	futile int // starts of a broker that came to nothing
}

// brokerPlace is one of the fleet's, whichever process runs there now.
type brokerPlace struct {
	number int
	faults string // folder
	mu     sync.Mutex
	broker *broker // nil while none runs
	why    error   // the last one didn't start
}

func (p *brokerPlace) now() *broker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broker
}

func (p *brokerPlace) set(b *broker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broker = b
}

// open sets the target up and starts the brokers.
func (r *ruin) open() {
	r.t.Helper()
	r.done = map[chaos.Kind]int{}
	var err error
	if r.target, err = chaos.NewProxy(r.t.Context(), func() string { return "127.0.0.1:" + itoa(r.targets.Port()) }); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.target.Close() })
	r.writeConfig()
	r.daypassd("migrate", "--config", r.config)
	setup := r.daypassd("target", "setup", "postgres", "--keep-connect", "--config", r.config)
	psql := exec.CommandContext(r.t.Context(), r.targets.Bin("psql"), "-XAtq", r.targets.DSN(r.fleet.target()))
	psql.Stdin = strings.NewReader(setup)
	if out, err := psql.CombinedOutput(); err != nil {
		r.t.Fatalf("setting the target up: %v\n%s", err, out)
	}
	r.setTargetPassword("first-password-of-the-account")
	r.admin = strings.TrimSpace(r.daypassd("admin", "token", "create", "--config", r.config, "--role", "operator", "--owner", "e2e", "--ttl", "24h"))
	for i := range r.brokers {
		p := &brokerPlace{number: i, faults: filepath.Join(r.dir, "faults", itoa(i))}
		if err := os.MkdirAll(p.faults, 0o700); err != nil {
			r.t.Fatal(err)
		}
		r.places = append(r.places, p)
		r.await(p)
	}
	r.places[0].now().awaitProbe()
	r.t.Cleanup(func() {
		for _, p := range r.places {
			if b := p.now(); b != nil {
				b.signal(syscall.SIGCONT)
				b.kill()
			}
		}
	})
}

func (r *ruin) daypassd(args ...string) string {
	r.t.Helper()
	out, err := command(r.t.Context(), filepath.Join(programs, "daypassd"), args...).Output()
	if err != nil {
		r.t.Fatalf("daypassd %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func (r *ruin) writeConfig() {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Join(r.dir, "policies"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.write("pin", "a-pin-for-tests")
	r.write("target.password", "not yet")
	url := r.write("url", r.servers.url(r.name))
	r.write("policies/app.yaml", `
policy: app
owner: team@example.com
environment: production
jobs:
  - name: main
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
    condition: int(claims.run_attempt) <= 3
  - name: once
    provider: gitlab
    claims: {project_id: "20", namespace_id: "72", ref: main, ref_type: branch, ref_protected: "true", pipeline_source: push}
grants:
  - {name: db, jobs: [main, once], issuer: app-db, role: deployer, ttl: 10s, max_ttl: 30s}
  - {name: db-again, jobs: [main, once], issuer: app-db, role: deployer, ttl: 10s, max_ttl: 30s, env: {username: U, password: P, database: D, url: L, host: H, port: O}}
  - {name: jwt, jobs: [main, once], issuer: app-jwt, with: {audience: "https://api.example.com"}}
`)
	r.config = r.write("daypass.yaml", fmt.Sprintf(`
listen: 127.0.0.1:0
external_url: https://daypass.example.com
insecure_http: true
database: {url_file: %q}
allow_software_keys: true
keys:
  signing: {type: software, dir: %[2]q, pin_file: %[3]q}
  sealing: {type: software, dir: %[2]q, pin_file: %[3]q}
providers:
  - {name: github, type: github, issuer: %[4]q, audience: daypass-e2e}
  - {name: gitlab, type: gitlab, issuer: %[5]q, audience: daypass-e2e, replay: once}
issuers:
  - name: app-db
    type: postgres
    target: {host: 127.0.0.1, port: %[6]d, database: %[7]s, sslmode: disable}
    admin: {user: %[8]s, password_file: %[9]q}
    roles:
      deployer: {member_of: [%[10]s_deploy], owner: %[10]s_owner, scram_iterations: 1, used_by: [{policy: app, environment: production}]}
  - {name: app-jwt, type: jwt, used_by: [{policy: app, environment: production}]}
policies: {dir: %[11]q}
limits: {job_requests: 1000000, job_leases: 1000000}
reconcile: {every: 1m, grace: 1m}
`, url, r.dir+"/keys", r.dir+"/pin", r.provider.IssuerURL("github"), r.provider.IssuerURL("gitlab"),
		r.target.Port(), r.fleet.target(), r.account(), r.dir+"/target.password", r.name, r.dir+"/policies"))
}

// run does everything in the schedule, and returns when the last fault is over.
func (r *ruin) run() {
	began := time.Now()
	var running sync.WaitGroup
	for _, f := range r.plan {
		r.sleep(time.Until(began.Add(f.At)))
		running.Go(func() {
			r.do(f)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.done[f.Kind]++
		})
	}
	running.Wait()
}

func (r *ruin) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.t.Context().Done():
	}
}

func (r *ruin) do(f chaos.Fault) {
	if strings.Contains(string(f.Kind), "target") {
		r.doTarget(f)
		return
	}
	if strings.Contains(string(f.Kind), "database") {
		r.doDatabase(f)
		return
	}
	p := r.places[f.Broker]
	fault := func(name, text string) {
		path := filepath.Join(p.faults, name)
		r.try(os.WriteFile(path, []byte(text), 0o600))
		r.sleep(f.For)
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) { // on a slow machine the next one of its kind began meanwhile
			r.try(err)
		}
	}
	switch f.Kind {
	case chaos.StepClock:
		fault("clock", f.By.String())
		return
	case chaos.HangIssuer:
		fault("issuer", "hang")
		return
	case chaos.LyingIssuer:
		fault("issuer", "lie")
		return
	case chaos.PanickingIssuer:
		fault("issuer", "panic")
		return
	case chaos.ForgetfulIssuer:
		fault("issuer", "forget")
		return
	default: // a signal to its process
	}
	b := p.now()
	if b == nil {
		return // it can't be started yet
	}
	r.mustRun(p, b)
	switch f.Kind {
	case chaos.KillBroker:
		p.set(nil)
		b.kill()
		r.sleep(f.For)
		r.supervise(p)
	case chaos.StopBroker:
		b.signal(syscall.SIGSTOP)
		r.sleep(f.For)
		b.signal(syscall.SIGCONT)
	case chaos.DeployBroker:
		b.told.Store(true) // what goes wrong at the same time may still find it in its place
		b.signal(syscall.SIGTERM)
		r.supervise(p)
		<-b.exited
	default:
		r.t.Errorf("nobody knows how to %s", f.Kind)
	}
}

// supervise starts a broker again as often as it can't.
func (r *ruin) supervise(p *brokerPlace) {
	for r.revive(p); p.now() == nil && r.t.Context().Err() == nil; r.revive(p) {
		r.mu.Lock()
		r.futile++
		r.mu.Unlock()
		r.sleep(200 * time.Millisecond)
	}
}

// revive starts a broker in a place, if its database lets it.
func (r *ruin) revive(p *brokerPlace) {
	b, err := r.tryStart(r.config, "DAYPASS_FAULTS="+p.faults)
	if err != nil {
		b, p.why = nil, err
	} else {
		r.mu.Lock()
		r.all = append(r.all, b)
		r.mu.Unlock()
	}
	p.set(b)
}

// mustRun says whether a broker runs: one that nobody ended has to.
func (r *ruin) mustRun(p *brokerPlace, b *broker) bool {
	select {
	case <-b.exited:
		if !b.told.Load() {
			r.t.Errorf("broker %d ended by itself (%s):\n%s", p.number, b.cmd.ProcessState, tail(b.lines()))
		}
		return false
	default:
		return true
	}
}

// await revives until it works.
func (r *ruin) await(p *brokerPlace) {
	r.t.Helper()
	eventually(r.t, "a broker starts", func() bool {
		if r.revive(p); p.now() == nil {
			r.t.Logf("a broker did not start: %v", p.why)
		}
		return p.now() != nil
	})
}

func (r *ruin) doDatabase(f chaos.Fault) {
	switch f.Kind {
	case chaos.CutDatabase:
		r.servers.network((*chaos.Proxy).Cut)
	case chaos.SlowDatabase:
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.Slow, f.By) })
		r.sleep(f.For)
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.Pass, 0) })
	case chaos.SilentDatabase:
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.Silent, 0) })
		r.sleep(f.For)
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.Pass, 0) })
	case chaos.DeafDatabase:
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.LoseAnswers, 0) })
		r.sleep(f.For)
		r.servers.network(func(p *chaos.Proxy) { p.Set(chaos.Pass, 0) })
	default:
		r.servers.ruining.Lock()
		defer r.servers.ruining.Unlock()
		r.doServer(f, r.servers.primary())
	}
}

func (r *ruin) doServer(f chaos.Fault, primary *devkit.Postgres) {
	kind := f.Kind
	if kind == chaos.FillDisk && r.servers.disk == nil {
		kind = chaos.FreezeDatabase
	}
	switch kind {
	case chaos.KillDatabase:
		primary.Kill()
		r.sleep(f.For)
		r.try(primary.Restart(r.t.Context()))
	case chaos.RestartDatabase:
		r.try(primary.Restart(r.t.Context()))
	case chaos.FailOver:
		r.try(r.servers.failOver(f.For))
	case chaos.FillDisk:
		r.try(r.servers.fill(2 * f.For))
	case chaos.CloseDatabase:
		r.alter(primary, r.name, `ALLOW_CONNECTIONS false`)
		r.sleep(f.For)
		r.alter(primary, r.name, `ALLOW_CONNECTIONS true`)
	case chaos.FreezeDatabase:
		r.alter(primary, r.name, `SET default_transaction_read_only = on`)
		r.sleep(f.For)
		r.alter(primary, r.name, `RESET default_transaction_read_only`)
	default:
		r.t.Errorf("nobody knows how to %s", f.Kind)
	}
}

func (r *ruin) doTarget(f chaos.Fault) {
	switch f.Kind {
	case chaos.CloseTarget:
		r.alter(r.targets, r.fleet.target(), `ALLOW_CONNECTIONS false`)
		r.sleep(f.For)
		r.alter(r.targets, r.fleet.target(), `ALLOW_CONNECTIONS true`)
	case chaos.CutTarget:
		r.target.Cut()
	case chaos.SlowTarget:
		r.during(r.target, chaos.Slow, f)
	case chaos.SilentTarget:
		r.during(r.target, chaos.Silent, f)
	case chaos.DeafTarget:
		r.during(r.target, chaos.LoseAnswers, f)
	case chaos.RefuseTarget:
		r.target.Cut()
		r.during(r.target, chaos.Refuse, f)
	default:
		r.t.Errorf("nobody knows how to %s", f.Kind)
	}
}

func (r *ruin) during(p *chaos.Proxy, mode chaos.Mode, f chaos.Fault) {
	p.Set(mode, f.By)
	r.sleep(f.For)
	p.Set(chaos.Pass, 0)
}

// alter changes a database, and ends all connections to it, so that it counts.
func (r *ruin) alter(server *devkit.Postgres, database, how string) {
	conn, err := pgx.Connect(r.t.Context(), server.DSN("postgres"))
	if err != nil {
		r.t.Errorf("%s: %v", how, err)
		return
	}
	defer conn.Close(r.t.Context())                                     //nolint:errcheck // its work is done
	_, err = conn.Exec(r.t.Context(), `SET synchronous_commit = local`) // whatever its standby does
	r.try(err)
	_, err = conn.Exec(r.t.Context(), `ALTER DATABASE `+database+` `+how)
	r.try(err)
	_, err = conn.Exec(r.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, database)
	r.try(err)
}

func (r *ruin) try(err error) {
	if err != nil {
		r.t.Errorf("making chaos: %v", err)
	}
}

// heal starts what doesn't run, and waits until the fleet is well.
func (r *ruin) heal() {
	r.t.Helper()
	r.server = r.servers.primary()
	for _, p := range r.places {
		if b := p.now(); b == nil || !r.mustRun(p, b) {
			r.await(p)
		}
	}
	for _, p := range r.places {
		p.now().awaitProbe()
	}
	for _, k := range chaos.Kinds() {
		if planned := slices.ContainsFunc(r.plan, func(f chaos.Fault) bool { return f.Kind == k }); planned && r.done[k] == 0 {
			r.t.Errorf("it did not %s", k)
		}
	}
}

func tail(lines []string) string { return strings.Join(lines[max(0, len(lines)-10):], "\n") }
