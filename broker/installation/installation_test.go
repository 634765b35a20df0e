package installation_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/migrations"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// migrated is a database with the broker's schema, under its name.
func migrated(t *testing.T) *pgxpool.Config {
	t.Helper()
	config := parse(t, devtest.Database(t))
	if _, err := migrations.Up(t.Context(), config.ConnConfig.Copy()); err != nil {
		t.Fatal(err)
	}
	return config
}

func parse(t *testing.T, dsn string) *pgxpool.Config {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) }) //nolint:errcheck // the test is over
	return conn
}

// copies are the ways in which a database is copied: each makes a second one of
// the first and returns its URL.
func copies() map[string]func(t *testing.T, from string) string {
	return map[string]func(t *testing.T, from string) string{
		"template": func(t *testing.T, from string) string {
			server := devtest.Postgres(t)
			conn := connect(t, server.DSN("postgres"))
			name := from + "_copy"
			if _, err := conn.Exec(t.Context(), fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", pgx.Identifier{name}.Sanitize(), pgx.Identifier{from}.Sanitize())); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := server.DropDatabase(context.WithoutCancel(t.Context()), name); err != nil {
					t.Error(err)
				}
			})
			return server.DSN(name)
		},
		"dump and restore": func(t *testing.T, from string) string {
			server := devtest.Postgres(t)
			to := devtest.Database(t)
			dump := t.TempDir() + "/dump.sql"
			for _, command := range [][]string{
				{"pg_dump", "--no-owner", "-f", dump, libpq(t, server.TCPDSN(from))},
				{"psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, libpq(t, server.TCPDSN(parse(t, to).ConnConfig.Database))},
			} {
				program := exec.CommandContext(t.Context(), server.Bin(command[0]), command[1:]...)
				program.Env = append(os.Environ(), "PGPASSWORD="+server.Password())
				if out, err := program.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", command[0], err, out)
				}
			}
			return to
		},
	}
}

// libpq is a URL without the password, which goes by the environment.
func libpq(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(u.User.Username())
	return u.String()
}

func TestCopyIsRefused(t *testing.T) {
	t.Parallel()
	for name, duplicate := range copies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := migrated(t)
			sealer, _ := brokertest.Keys(t)
			base, err := instance.OpenBase(t.Context(), config.Copy(), sealer, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			id := base.Installation
			base.Pool.Close() // TEMPLATE wants nobody connected
			copied := parse(t, duplicate(t, config.ConnConfig.Database))

			_, err = instance.OpenBase(t.Context(), copied.Copy(), sealer, time.Now)
			if !errors.Is(err, installation.ErrCopy) || !strings.Contains(err.Error(), id) || !strings.Contains(err.Error(), "hint:") {
				t.Fatalf("a copy was opened: %v", err)
			}
			// A running broker whose database was replaced by a copy notices with its next connection.
			installation.Guard(copied)
			pool, err := pgxpool.NewWithConfig(t.Context(), copied)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			if err := pool.Ping(t.Context()); !errors.Is(err, installation.ErrCopy) {
				t.Errorf("a guarded pool connected to a copy: %v", err)
			}
			// The original goes on.
			again, err := instance.OpenBase(t.Context(), config, sealer, time.Now)
			if err != nil || again.Installation != id {
				t.Fatalf("the original: %v", err)
			}
			again.Pool.Close()
		})
	}
}

func TestGuardLetsTheOriginalThrough(t *testing.T) {
	t.Parallel()
	config := migrated(t)
	installation.Guard(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	id, err := installation.Check(t.Context(), pool)
	if err != nil || len(id) != 12 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		t.Errorf("id %q: %v", id, err)
	}
	if other, err := installation.Check(t.Context(), connect(t, migrated(t).ConnString())); err != nil || other == id {
		t.Errorf("two installations are both called %q: %v", other, err)
	}
}

func TestOneRootForAll(t *testing.T) {
	t.Parallel()
	config := migrated(t)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	sealer, _ := brokertest.Keys(t)
	const brokers = 8
	var sums [brokers][32]byte
	var running sync.WaitGroup
	for i := range brokers {
		running.Go(func() {
			root, err := installation.OpenRoot(t.Context(), pool, sealer, "0123456789ab")
			if err != nil {
				t.Error(err)
				return
			}
			sums[i] = root.Hasher(keys.SessionTokens).Sum("test", []byte("x"))
		})
	}
	running.Wait()
	for i, sum := range sums {
		if sum != sums[0] {
			t.Errorf("broker %d has another root", i)
		}
	}
	var wrapped []byte
	if err := pool.QueryRow(t.Context(), `SELECT wrapped FROM roots`).Scan(&wrapped); err != nil || len(wrapped) < 48 {
		t.Fatalf("what is stored has %d bytes: %v", len(wrapped), err)
	}

	other, _ := brokertest.Keys(t)
	_, err = installation.OpenRoot(t.Context(), pool, other, "0123456789ab")
	if err == nil || !strings.Contains(err.Error(), sealer.KeyID()) || !strings.Contains(err.Error(), other.KeyID()) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("with another sealing key: %v", err)
	}
	if _, err := installation.OpenRoot(t.Context(), pool, sealer, "ba9876543210"); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("the root of another installation opens: %v", err)
	}
	wrapped[len(wrapped)-1] ^= 1
	if _, err := pool.Exec(t.Context(), `UPDATE roots SET wrapped = $1`, wrapped); err != nil {
		t.Fatal(err)
	}
	if _, err := installation.OpenRoot(t.Context(), pool, sealer, "0123456789ab"); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("a root that was changed opens: %v", err)
	}
}
