//go:build unix

package devkit

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// openDir is a folder that the server's user can reach, which t.TempDir is not when the tests run as root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "devkit-test-*") //nolint:usetesting // t.TempDir's parent is closed to the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, cfg PostgresConfig) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

func stop(t *testing.T, p *Postgres) {
	t.Helper()
	if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// ask runs statements and returns the last one's only value.
func ask(t *testing.T, dsn string, statements ...string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	last := len(statements) - 1
	for _, sql := range statements[:last] {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var value string
	if err := conn.QueryRow(t.Context(), statements[last]).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	for !ok() {
		if pause(ctx) != nil {
			t.Fatalf("still not: %s", what)
		}
	}
}

func TestEphemeral(t *testing.T) {
	var log strings.Builder
	p := start(t, PostgresConfig{TCP: true, Ephemeral: true, Settings: map[string]string{"max_connections": "17"}, Log: &log})
	if err := p.CreateDatabase(t.Context(), `odd "name"`); err != nil {
		t.Fatal(err)
	}
	if err := p.CreateDatabase(t.Context(), `odd "name"`); err != nil {
		t.Errorf("making a database that exists: %v", err)
	}
	for _, dsn := range []string{p.DSN(`odd "name"`), p.TCPDSN(`odd "name"`)} {
		got := ask(t, dsn, "SELECT concat_ws(' ', current_database(), current_user, current_setting('max_connections'), current_setting('fsync'))")
		if want := `odd "name" postgres 17 off`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := p.DropDatabase(t.Context(), `odd "name"`); err != nil {
		t.Error(err)
	}
	if _, err := pgx.Connect(t.Context(), strings.Replace(p.TCPDSN("postgres"), p.Password(), "wrong", 1)); err == nil {
		t.Error("a wrong password was let in")
	}
	if info, err := os.Stat(p.sock); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket folder: %v, %v", info.Mode(), err)
	}
	if strings.Contains(log.String(), p.Password()) || !strings.Contains(log.String(), "answers on") {
		t.Errorf("log: %s", log.String())
	}
	if p.Bin("pg_dump") == "pg_dump" || !strings.HasSuffix(p.Bin("pg_dump"), "/pg_dump") {
		t.Errorf("pg_dump is %s", p.Bin("pg_dump"))
	}
	pid := p.server.cmd.Process.Pid
	stop(t, p)
	if isPostmaster(pid, p.home.path(dataName)) {
		t.Error("the server outlived Stop")
	}
	if _, err := os.Stat(p.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data outlived Stop: %v", err)
	}
	if err := p.Restart(t.Context()); err == nil {
		t.Error("restarted after Stop")
	}
}

func TestDataIsKept(t *testing.T) {
	cfg := PostgresConfig{Dir: filepath.Join(openDir(t), "pg"), TCP: true}
	p := start(t, cfg)
	ask(t, p.DSN("postgres"), "CREATE TABLE kept (what text)", "INSERT INTO kept VALUES ('yes')", "SELECT 'ok'")
	if _, err := StartPostgres(t.Context(), cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("a second server on one folder: %v", err)
	}
	if info, err := os.Stat(p.home.path(passwordName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}

	done := p.Done()
	p.Kill()
	<-done
	if p.Err() == nil {
		t.Error("a killed server has no error")
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, p.DSN("postgres"), "SELECT what FROM kept"); got != "yes" {
		t.Errorf("after a crash: %q", got)
	}

	stop(t, p)
	again := start(t, cfg)
	if again.Password() != p.Password() || again.Port() != p.port {
		t.Errorf("after a restart: port %d was %d, or the password changed", again.Port(), p.port)
	}
	if got := ask(t, again.TCPDSN("postgres"), "SELECT what FROM kept"); got != "yes" {
		t.Errorf("after a restart: %q", got)
	}
	if again.Err() != nil {
		t.Error(again.Err())
	}
	stop(t, again)
	if _, err := StartPostgres(t.Context(), PostgresConfig{Dir: cfg.Dir, Ephemeral: true}); err == nil {
		t.Error("an ephemeral server took over data to keep")
	}
}

// A pid file that names a living process of the server's user stops Postgres by itself; a container that starts anew often has such a one.
func TestStalePidFile(t *testing.T) {
	cfg := PostgresConfig{Dir: openDir(t)}
	p := start(t, cfg)
	stop(t, p)
	other := p.acc.command(t.Context(), "/", "sleep", "600")
	s, err := run(other)
	if err != nil {
		t.Fatal(err)
	}
	defer s.end(t.Context(), syscall.SIGKILL)
	pidFile := p.home.path(dataName + "/postmaster.pid")
	lines := []string{strconv.Itoa(other.Process.Pid), p.home.path(dataName), "1700000000", "5432", p.sock, "", "1 1", "ready"}
	if err := os.WriteFile(pidFile, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	if got := ask(t, again.DSN("postgres"), "SELECT 'ok'"); got != "ok" {
		t.Error(got)
	}
	select {
	case <-s.done:
		t.Error("the process that the stale file named was ended")
	default:
	}
}

func TestOrphanIsStopped(t *testing.T) {
	cfg := PostgresConfig{Dir: openDir(t)}
	p := start(t, cfg)
	stop(t, p)
	// As macOS leaves it: a server whose parent is gone, and a lock that nobody holds.
	cmd := p.acc.command(t.Context(), p.home.dir, p.bin.path("postgres"), p.arguments()...)
	orphan, err := run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan is ready", func() bool {
		text, err := os.ReadFile(p.home.path(dataName + "/postmaster.pid"))
		return err == nil && strings.Contains(string(text), "ready")
	})
	again := start(t, cfg)
	<-orphan.done
	if got := ask(t, again.DSN("postgres"), "SELECT 'ok'"); got != "ok" {
		t.Error(got)
	}
}

func TestLongPath(t *testing.T) {
	cfg := PostgresConfig{Dir: filepath.Join(openDir(t), strings.Repeat("long and spaced/", 8)+"pg")}
	p := start(t, cfg)
	if len(p.sock) > maxSocketPath-len("/.s.PGSQL.5432") {
		t.Errorf("socket folder %s is too long", p.sock)
	}
	stop(t, p)
	again := start(t, cfg)
	if again.sock != p.sock {
		t.Errorf("socket folder %s, was %s", again.sock, p.sock)
	}
	if got := ask(t, again.DSN("postgres"), "SELECT 'ok'"); got != "ok" {
		t.Error(got)
	}
	stop(t, again)
	if err := os.RemoveAll(again.sock); err != nil {
		t.Error(err)
	}
}

// Root's folders are often closed to the server's user: the data goes elsewhere, and begins anew when the folder was removed.
func TestFolderOutOfReach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root lends its server to another user; as anybody else the folder is in reach")
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := PostgresConfig{Dir: filepath.Join(closed, "pg")}
	p := start(t, cfg)
	if os.Geteuid() != 0 {
		if p.home.marker != "" {
			t.Errorf("data of an ordinary user went to %s", p.Dir())
		}
		return
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(p.Dir()); err != nil {
			t.Error(err)
		}
	})
	if to, err := os.Readlink(filepath.Join(cfg.Dir, movedName)); err != nil || to != p.Dir() || !strings.HasPrefix(to, movedBase) {
		t.Errorf("link to %s, %v; data in %s", to, err, p.Dir())
	}
	ask(t, p.DSN("postgres"), "CREATE TABLE kept (what text)", "SELECT 'ok'")
	stop(t, p)
	again := start(t, cfg)
	const count = "SELECT count(*)::text FROM pg_tables WHERE tablename = 'kept'"
	if got := ask(t, again.DSN("postgres"), count); got != "1" {
		t.Errorf("after a restart: %s tables", got)
	}
	stop(t, again)
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	anew := start(t, cfg)
	if got := ask(t, anew.DSN("postgres"), count); got != "0" || anew.Password() == p.Password() {
		t.Errorf("the data outlived its folder: %s tables", got)
	}
}

func TestStartErrors(t *testing.T) {
	t.Run("server refuses", func(t *testing.T) {
		_, err := StartPostgres(t.Context(), PostgresConfig{Ephemeral: true, Settings: map[string]string{"wal_level": "nonsense"}})
		if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "wal_level"`) {
			t.Errorf("its log is missing: %v", err)
		}
	})
	t.Run("no folder", func(t *testing.T) {
		if _, err := StartPostgres(t.Context(), PostgresConfig{}); err == nil {
			t.Error("data to keep without a place to keep it")
		}
	})
	t.Run("no programs", func(t *testing.T) {
		t.Setenv(BinEnv, t.TempDir())
		_, err := StartPostgres(t.Context(), PostgresConfig{Ephemeral: true})
		if !errors.Is(err, ErrNoPrograms) || !strings.Contains(err.Error(), "apt-get install postgresql") {
			t.Error(err)
		}
	})
	t.Run("data of another version", func(t *testing.T) {
		dir := openDir(t)
		if err := os.MkdirAll(filepath.Join(dir, dataName), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, dataName, "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
		if !errors.Is(err, ErrNoPrograms) || !strings.Contains(err.Error(), "version 9") {
			t.Error(err)
		}
	})
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string][2]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": {15, 18},
		"postgres (PostgreSQL) 18beta1\n":                        {18, 0},
		"postgres (PostgreSQL) 9.6.24":                           {9, 6},
	} {
		major, minor, err := parseVersion(text)
		if err != nil || [2]int{major, minor} != want {
			t.Errorf("%q: %d.%d, %v", text, major, minor, err)
		}
	}
	if _, _, err := parseVersion("initdb 15"); err == nil {
		t.Error("a version was read where there is none")
	}
}

// helperEnv makes the test binary a program that starts a server, says where, and waits to be killed.
const helperEnv = "DEVKIT_TEST_HELPER"

type helperConfig struct {
	Dir       string
	Ephemeral bool
}

type helperAnswer struct {
	PID  int
	DSN  string
	Home string
	Err  string
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(helperEnv); ok {
		os.Exit(helper(text))
	}
	os.Exit(m.Run())
}

func helper(text string) int {
	var cfg helperConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return 2
	}
	var answer helperAnswer
	p, err := StartPostgres(context.Background(), PostgresConfig{Dir: cfg.Dir, Ephemeral: cfg.Ephemeral})
	if err != nil {
		answer.Err = err.Error()
	} else {
		answer = helperAnswer{PID: p.server.cmd.Process.Pid, DSN: p.DSN("postgres"), Home: p.Dir()}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil || p == nil {
		return 1
	}
	<-p.Done() // the test kills one of the two
	return 0
}
