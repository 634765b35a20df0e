//go:build unix

package devtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit/devtest"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close(context.WithoutCancel(t.Context())) // the server may have ended it
	})
	return conn
}

func TestDatabase(t *testing.T) {
	var first string
	t.Run("each has its own", func(t *testing.T) {
		first = devtest.Database(t)
		second := devtest.Database(t)
		if first == second {
			t.Fatalf("two databases at %s", first)
		}
		if _, err := connect(t, first).Exec(t.Context(), "CREATE TABLE here ()"); err != nil {
			t.Fatal(err)
		}
		if _, err := connect(t, second).Exec(t.Context(), "SELECT FROM here"); err == nil {
			t.Error("the second sees the first one's table")
		}
	})
	if _, err := pgx.Connect(t.Context(), first); err == nil {
		t.Error("the database outlived its test")
	}
}

func TestShared(t *testing.T) {
	one, two := devtest.Postgres(t), devtest.Postgres(t)
	if one != two {
		t.Error("one test binary has two servers")
	}
	var in string
	if err := connect(t, one.TCPDSN("postgres")).QueryRow(t.Context(), "SELECT current_database()").Scan(&in); err != nil || in != "postgres" {
		t.Errorf("over TCP: %q, %v", in, err)
	}
}
