//go:build unix

package devkit

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestStandby: what was committed is there when the primary is gone.
func TestStandby(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stop := func(p *Postgres) {
		if err := p.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}
	primary, err := StartPostgres(ctx, PostgresConfig{TCP: true, Ephemeral: true, Settings: map[string]string{"synchronous_commit": "on"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(primary) })
	standby, err := primary.StartStandby(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(standby) })
	if err := primary.AwaitStandby(ctx); err != nil {
		t.Fatal(err)
	}
	if err := primary.exec(ctx, `CREATE TABLE kept ()`); err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	conn, err := pgx.Connect(ctx, standby.TCPDSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(ctx)) }) //nolint:errcheck // the test is over
	pg := &pgconn.PgError{}
	if _, err := conn.Exec(ctx, `INSERT INTO kept DEFAULT VALUES`); !errors.As(err, &pg) || pg.Code != "25006" {
		t.Errorf("a standby took a write: %v", err)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `INSERT INTO kept DEFAULT VALUES`); err != nil {
		t.Errorf("after its promotion: %v", err)
	}
}
