package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit/devtest"
)

// startPooler starts a PgBouncer that gives each transaction another session of
// the database, and returns the URL that leads through it.
func startPooler(t *testing.T, database, ignored string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("PgBouncer isn't installed; `make deps` installs it on Debian and Ubuntu")
		}
	}
	config, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	server := devtest.Postgres(t)
	for range 10 { // somebody else may be quicker to take the port
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := listener.Addr().(*net.TCPAddr).Port
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		ini := write(t, filepath.Join(t.TempDir(), "pgbouncer.ini"), fmt.Sprintf(`[databases]
%[1]s = host=127.0.0.1 port=%[2]d dbname=%[1]s user=postgres password=%[3]s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[4]d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 6
ignore_startup_parameters = %[5]s
`, config.Database, server.Port(), server.Password(), port, ignored))
		args := []string{"-q", ini}
		if os.Geteuid() == 0 {
			args = append([]string{"-u", "nobody"}, args...)
		}
		cmd := exec.CommandContext(t.Context(), program, args...)
		var log lockedBuffer
		cmd.Stderr, cmd.Stdout = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		url := fmt.Sprintf("postgres://nobody@127.0.0.1:%d/%s?sslmode=disable", port, config.Database)
		listens := false
		eventually(t, "PgBouncer listens, or ends", func() bool {
			select {
			case <-ended:
				return true
			default:
			}
			conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				listens = true
				_ = conn.Close()
			}
			return err == nil
		})
		if listens {
			return url
		}
		t.Logf("PgBouncer ended:\n%s", log.String())
	}
	t.Fatal("PgBouncer doesn't start")
	return ""
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// refused starts a broker that must not start, and returns what it said.
func (p place) refused(t *testing.T) string {
	t.Helper()
	broker := start(t, nil, "serve", "--config", p.config)
	if state := broker.ended(t); state.ExitCode() != exitFailed {
		t.Fatalf("it ended with %s:\n%s", state, strings.Join(broker.log(), "\n"))
	}
	return strings.Join(broker.log(), "\n")
}

// TestPooler: behind a PgBouncer whose sessions aren't those of the server, a
// broker doesn't start, and says what to do; with a direct URL and the settings
// that it asks for, exchanges go on through it.
func TestPooler(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	const settings = "extra_float_digits, statement_timeout, lock_timeout, idle_in_transaction_session_timeout, plan_cache_mode, enable_seqscan, max_parallel_workers_per_gather, jit"
	lenient := startPooler(t, p.database, settings)
	for name, url := range map[string]string{"strict": startPooler(t, p.database, "extra_float_digits"), "lenient": lenient} {
		write(t, filepath.Join(p.dir, "db"), url)
		if said := p.refused(t); !strings.Contains(said, "hint:") || !strings.Contains(said, "database.direct_url_file") {
			t.Errorf("behind a %s pooler it said:\n%s", name, said)
		}
	}
	write(t, filepath.Join(p.dir, "direct"), p.database)
	edited, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, strings.Replace(string(edited), "database: {url_file: "+p.dir+"/db", "database: {url_file: "+p.dir+"/db, direct_url_file: "+p.dir+"/direct", 1))

	said := p.refused(t)
	var mend []string
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "ALTER ROLE ") {
			mend = append(mend, line)
		}
	}
	if len(mend) < 5 {
		t.Fatalf("without the settings it said:\n%s", said)
	}
	query(t, p.database, strings.Join(mend, "")+`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)

	broker, base := p.serve(t)
	var asking sync.WaitGroup
	for range 24 {
		token := jobToken(t, provider)
		asking.Go(func() {
			a, err := patient(newClient(t), base+deployDB, token)
			if err != nil || a.StatusCode != http.StatusOK {
				t.Errorf("%v %s", err, a.body)
			}
		})
	}
	asking.Wait()
	a := exchange(t, base+deployDB, jobToken(t, provider))
	session := a.field(t, "session", "token").(string)
	if a := call(t, http.MethodPost, base+"/v1/session/revoke", session); a.StatusCode != http.StatusOK {
		t.Errorf("giving back: %s", a.body)
	}
	if n := query(t, p.database, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'daypassd' AND client_addr IS NULL`); n == "0" {
		t.Error("no connection leads to the server itself")
	}
	if errors := broker.entries(t, "the connection to the fleet was lost; what runs once in the fleet doesn't run here until it is back"); len(errors) > 0 {
		t.Errorf("%v", errors)
	}
	if log := strings.Join(broker.log(), "\n"); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("it was not at ease:\n%s", log)
	}
}
