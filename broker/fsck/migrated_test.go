package fsck_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/fsck"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/migrations"
)

// unpartitioned is the last schema in which leases and audit events were one table
// each.
const unpartitioned = 7

// takeBack makes a database one of an earlier schema, with all its rows, as if the
// program of then had written them.
func takeBack(t *testing.T, config *pgx.ConnConfig, version int64) {
	t.Helper()
	old := config.Copy()
	old.RuntimeParams["search_path"] = "earlier"
	conn, err := pgx.ConnectConfig(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // its work is done
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA earlier`); err != nil {
		t.Fatal(err)
	}
	upTo(t, stdlib.OpenDB(*old), version)
	const copyAll = `
DO $$
DECLARE
    name text;
    common text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'earlier' AND tablename <> 'goose_db_version' LOOP
        EXECUTE format('DELETE FROM earlier.%I', name);
        SELECT string_agg(quote_ident(o.column_name), ', ') INTO common FROM information_schema.columns o
        JOIN information_schema.columns n ON n.table_schema = 'public' AND n.table_name = o.table_name AND n.column_name = o.column_name
        WHERE o.table_schema = 'earlier' AND o.table_name = name;
        EXECUTE format('INSERT INTO earlier.%I (%s) SELECT %s FROM public.%I', name, common, common, name);
    END LOOP;
    DROP SCHEMA public CASCADE;
    ALTER SCHEMA earlier RENAME TO public;
END $$`
	if _, err := conn.Exec(t.Context(), copyAll); err != nil {
		t.Fatal(err)
	}
}

func upTo(t *testing.T, db *sql.DB, version int64) {
	t.Helper()
	defer db.Close() //nolint:errcheck // its work is done
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("../../migrations/sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
}

// rows are all rows of a table, by their ids; of the columns that it has at first.
func rows(t *testing.T, conn *pgx.Conn, table, columns string) map[string]string {
	t.Helper()
	found := map[string]string{}
	all, err := conn.Query(t.Context(), `SELECT id, row(`+columns+`)::text FROM `+table)
	if err != nil {
		t.Fatal(err)
	}
	var id, row string
	if _, err := pgx.ForEachRow(all, []any{&id, &row}, func() error {
		found[id] = row
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func columnsOf(t *testing.T, conn *pgx.Conn, table string) (names string) {
	t.Helper()
	const columns = `SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = $1`
	if err := conn.QueryRow(t.Context(), columns, table).Scan(&names); err != nil {
		t.Fatal(err)
	}
	return names
}

// aged is a broker that left leases in every state, on the schema of before.
type aged struct {
	*brokertest.Broker
	operator, used   string // tokens
	renewed, givenUp *api.ExchangeResponse
	ids              map[string]string // of leases, by state
}

func newAged(t *testing.T) *aged {
	t.Helper()
	b := brokertest.New(t, brokertest.Options{})
	a := &aged{Broker: b, operator: b.Admin(admin.Operator), used: b.Job(), ids: map[string]string{}}
	act := func(id, verb string) *brokertest.Answer {
		return b.Do(http.MethodPost, api.PathLeases+"/"+id+"/"+verb, a.operator, map[string]string{"reason": "a test"})
	}
	lease := func() string { return b.Exchange(b.Job(), "payments/deploy-db").Credentials[0].LeaseID }
	gone := b.Exchange(a.used, "payments/deploy-db", "payments/sign")
	if answer := b.Do(http.MethodPost, api.PathSessionRevoke, gone.Session.Token, nil); answer.Status != http.StatusOK {
		t.Fatalf("giving a session back: %d", answer.Status)
	}
	a.ids["revoked"], a.ids["expired"] = gone.Credentials[0].LeaseID, gone.Credentials[1].LeaseID
	a.renewed, a.givenUp = b.Exchange(b.Job(), "payments/deploy-db", "payments/sign"), b.Exchange(b.Job(), "payments/deploy-db")
	a.ids["active"] = a.renewed.Credentials[0].LeaseID
	a.ids["revoking"], a.ids["forgotten"], a.ids["issuing"] = lease(), lease(), lease()
	b.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		return fmt.Errorf("%w: it owns a table", issuers.ErrBlocked)
	}})
	for _, state := range []string{"revoking", "forgotten"} {
		act(a.ids[state], "revoke") // it says how far it came
		brokertest.Poll(t, "it waits for a person", func() bool { return b.Count(`SELECT count(*) FROM leases WHERE id = $1 AND stuck`, a.ids[state]) == 1 })
	}
	if answer := act(a.ids["forgotten"], "forget"); answer.Status != http.StatusOK {
		t.Fatalf("forgetting: %d %s", answer.Status, answer.Body)
	}
	b.StopWork()
	b.DB.Set(brokertest.Hooks{})
	if _, err := b.DB.Revoke(t.Context(), &issuers.RevokeRequest{Lease: issuers.Lease{ID: a.ids["forgotten"]}}); err != nil { // by hand
		t.Fatal(err)
	}
	// A broker that was killed while it issued.
	b.Exec(`UPDATE leases SET state = 'issuing', events = 1, handle = NULL, due_at = settled_at WHERE id = $1`, a.ids["issuing"])
	b.Exec(`DELETE FROM audit_events WHERE subject = $1 AND count = 2`, a.ids["issuing"])
	b.Exec(`DELETE FROM fingerprints WHERE lease_id = $1`, a.ids["issuing"])
	return a
}

// TestFilledDatabaseIsMigrated: all that a broker of before left, in every state, is
// there after the upgrade, nothing of it is broken, and it goes on: sessions obtain
// more, leases are renewed and taken back, a used token stays used.
func TestFilledDatabaseIsMigrated(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	config := a.Base.Pool.Config().ConnConfig
	takeBack(t, config, unpartitioned)
	conn, err := pgx.ConnectConfig(t.Context(), config.Copy()) // which asks for no installation
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) }) //nolint:errcheck // its work is done
	count := func(sql string, args ...any) (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(`SELECT count(*) FROM pg_class WHERE relkind = 'p'`); n != 0 {
		t.Fatalf("%d tables are partitioned already", n)
	}
	for state, id := range a.ids {
		if n := count(`SELECT count(*) FROM leases WHERE id = $1 AND state = $2`, id, state); n != 1 {
			t.Fatalf("no lease is %s", state)
		}
	}
	kept, columns := map[string]map[string]string{}, map[string]string{}
	for _, table := range []string{"sessions", "leases", "audit_events"} {
		columns[table] = columnsOf(t, conn, table)
		kept[table] = rows(t, conn, table, columns[table])
	}
	if applied, err := migrations.Up(t.Context(), config.Copy()); err != nil || len(applied) != int(migrations.Latest)-unpartitioned {
		t.Fatalf("applied %v: %v", applied, err)
	}
	for table, before := range kept {
		if after := rows(t, conn, table, columns[table]); len(before) == 0 || !maps.Equal(before, after) {
			t.Errorf("%s: %d rows became %d", table, len(before), len(after))
		}
	}
	a.Base.Pool.Reset()
	b := brokertest.New(t, brokertest.Options{Join: a.Broker, Idle: true})
	if report := look(t, settings(b, b.Base.Pool)); len(report.Findings) != 1 || report.Findings[0].Check != fsck.CheckStuck {
		t.Errorf("after the migration, but for the one that is stuck: %+v", report.Findings)
	}
	b.Start()
	a.goesOn(t, b)
	if report := look(t, settings(b, b.Base.Pool)); len(report.Findings) != 0 {
		t.Errorf("in the end: %+v", report.Findings)
	}
}

func (a *aged) goesOn(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	do := func(what string, status int, answer *brokertest.Answer) {
		t.Helper()
		if answer.Status != status {
			t.Errorf("%s: %d %s", what, answer.Status, answer.Body)
		}
	}
	for state, id := range a.ids {
		do("a lease that was "+state, http.StatusOK, b.Do(http.MethodGet, api.PathLeases+"/"+id, a.operator, nil))
	}
	do("more of a session", http.StatusOK, b.TryExchange(a.renewed.Session.Token, "payments/sign"))
	do("renewing", http.StatusOK, b.Do(http.MethodPost, api.PathLeases+"/"+a.ids["active"]+"/renew", a.renewed.Session.Token, map[string]string{"ttl": "20m"}))
	do("giving back", http.StatusOK, b.Do(http.MethodPost, api.PathSessionRevoke, a.givenUp.Session.Token, nil))
	do("a token that was used up", http.StatusUnauthorized, b.TryExchange(a.used, "payments/sign"))
	do("a new job", http.StatusOK, b.TryExchange(b.Job(), "payments/deploy-db"))
	b.Exec(`UPDATE leases SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL AND revocation = 'immediate'`)
	brokertest.Poll(t, "all that lived is taken back", func() bool { return len(b.DB.Live()) == 0 })
	brokertest.Poll(t, "and on record", func() bool {
		return b.Count(`SELECT count(*) FROM leases WHERE due_at IS NOT NULL AND revocation = 'immediate'`) == 0
	})
	for _, state := range []string{"revoking", "issuing", "active"} {
		if n := b.Count(`SELECT count(*) FROM leases WHERE id = $1 AND state = 'revoked'`, a.ids[state]); n != 1 {
			t.Errorf("the one that was %s was not revoked", state)
		}
	}
}
