package secrets_test

import (
	"context"
	"encoding/hex"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/sealed"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

const (
	installation = "0123456789ab"
	name         = "payments/stripe-key"
	actor        = "admin adm_1 test@example.com"
)

// fixture is a store on a database of its own.
type fixture struct {
	*secrets.Store
	t        *testing.T
	pool     *pgxpool.Pool
	recorder *audit.Recorder
	config   secrets.Config
}

func newFixture(t *testing.T, change ...func(*secrets.Config)) *fixture {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 8
	maps.Copy(config.ConnConfig.RuntimeParams, leases.PlannerSettings())
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, pool: pool}
	if f.recorder, err = audit.New(audit.Config{Installation: installation, Tenant: "main", MAC: root.Hasher(keys.AuditMACs)}); err != nil {
		t.Fatal(err)
	}
	f.config = secrets.Config{
		Pool: pool, Audit: f.recorder, Sealer: root.RowSealer(), Installation: installation, Tenant: "main",
		Now: func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) },
	}
	for _, c := range change {
		c(&f.config)
	}
	if f.Store, err = secrets.New(f.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.checkEvents)
	return f
}

// checkEvents is what holds at the end of every test.
func (f *fixture) checkEvents() {
	if n := f.count(`SELECT count(*) FROM secrets s WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = s.id)`); n != 0 {
		f.t.Errorf("%d secrets miss events", n)
	}
	events, err := audit.List(context.WithoutCancel(f.t.Context()), f.pool, audit.Page{Tenant: "main", Limit: 10_000})
	if err != nil {
		f.t.Error(err)
	}
	for _, e := range events {
		if err := f.recorder.Verify(e); err != nil {
			f.t.Error(err)
		}
	}
}

func (f *fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	if err := f.pool.QueryRow(context.WithoutCancel(f.t.Context()), sql, args...).Scan(&n); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

func value(text string) secrets.Values {
	return secrets.Values{sealed.DefaultField: {Secret: issuers.NewSecret(text)}}
}

// put makes a pending version.
func (f *fixture) put(values secrets.Values) *secrets.Secret {
	f.t.Helper()
	secret, err := f.Put(f.t.Context(), secrets.PutRequest{Name: name, Settings: secrets.Settings{Owner: new("payments@example.com")}, Values: values, Actor: actor})
	if err != nil {
		f.t.Fatal(err)
	}
	return secret
}

func change(version int) secrets.Change {
	return secrets.Change{Name: name, Version: version, Actor: actor}
}

// promote makes a version current that was put.
func (f *fixture) promote(version int) {
	f.t.Helper()
	if _, err := f.Verify(f.t.Context(), change(version)); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.Promote(f.t.Context(), change(version)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) states() string {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `SELECT state FROM secret_versions ORDER BY version`)
	if err != nil {
		f.t.Fatal(err)
	}
	states, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Join(states, " ")
}

// anywhere says in which tables a text stands, as it is or in hex.
func (f *fixture) anywhere(text string) string {
	f.t.Helper()
	var found []string
	for _, table := range []string{"secrets", "secret_versions", "secret_reads", "audit_events"} {
		n := f.count(`SELECT count(*) FROM `+table+` t WHERE row_to_json(t)::text LIKE '%' || $1 || '%' OR row_to_json(t)::text LIKE '%' || $2 || '%'`, text, hex.EncodeToString([]byte(text)))
		if n > 0 {
			found = append(found, table)
		}
	}
	return strings.Join(found, " ")
}

func newLease() issuers.Lease { return issuertest.NewLease(installation, "key", time.Now()) }
