package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// target is a server prepared as an admin would prepare it, with names of its own.
type target struct {
	server    *devkit.Postgres
	databases []string
	group     string // of role deployer, and a member of heir
	heir      string
	setup     postgres.SetupConfig
	password  string // of the broker's account
}

var counter atomic.Int64 // roles belong to the whole server: every test needs names of its own

// options vary a target; the zero value is one database and a superuser's functions on the shared server.
type options struct {
	server    *devkit.Postgres
	owner     postgres.OwnerMode
	databases int
	roles     func(t *target) map[string]postgres.Role
}

func newTarget(tb testing.TB, o options) *target {
	tb.Helper()
	if o.server == nil {
		o.server = devtest.Postgres(tb)
	}
	n := counter.Add(1)
	tg := &target{
		server: o.server, group: fmt.Sprintf("deploy_%d", n), heir: fmt.Sprintf("heir_%d", n),
		password: issuers.Generate(issuers.Password).Reveal(),
	}
	for i := range max(1, o.databases) {
		name := fmt.Sprintf("target_%d_%d", n, i)
		if err := o.server.CreateDatabase(tb.Context(), name); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			ctx := context.WithoutCancel(tb.Context())
			if err := o.server.DropDatabase(ctx, name); err != nil && ctx.Err() == nil {
				tb.Log(err) // a test may have stopped its server
			}
		})
		tg.databases = append(tg.databases, name)
	}
	tg.admin(tb, "", fmt.Sprintf("CREATE ROLE %s NOLOGIN; CREATE ROLE %s NOLOGIN; GRANT %s TO %s", tg.heir, tg.group, tg.heir, tg.group))
	for _, database := range tg.databases {
		tg.admin(tb, database, fmt.Sprintf("CREATE SCHEMA app AUTHORIZATION %[1]s; GRANT CREATE ON DATABASE %[2]s TO %[1]s", tg.heir, database))
	}
	roles := map[string]postgres.Role{
		"deployer": {MemberOf: []string{tg.group}, Owner: tg.heir, SCRAMIterations: 1},
		"strong":   {MemberOf: []string{tg.group}, Owner: tg.heir},
		"reader":   {MemberOf: []string{tg.group}, SCRAMIterations: 1},
	}
	if o.roles != nil {
		roles = o.roles(tg)
	}
	tg.setup = postgres.SetupConfig{
		Installation: installation(n), BrokerUser: fmt.Sprintf("broker_%d", n), Databases: tg.databases,
		Roles: roles, Owner: o.owner, OwnerRole: "daypass_owner_" + string(o.owner),
	}
	tg.install(tb)
	tg.admin(tb, "", fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", tg.setup.BrokerUser, tg.password))
	return tg
}

func installation(n int64) string { return fmt.Sprintf("%012d", n) }

// install runs what `daypassd target setup postgres` prints through psql.
func (tg *target) install(tb testing.TB) {
	tb.Helper()
	if out, err := tg.psql(tb, tg.script(tb)); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
}

func (tg *target) script(tb testing.TB) string {
	tb.Helper()
	script, err := postgres.SetupScript(tg.setup)
	if err != nil {
		tb.Fatal(err)
	}
	return script
}

func (tg *target) psql(tb testing.TB, script string) (string, error) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), tg.server.Bin("psql"), "-X", "-q", tg.server.TCPDSN("postgres"))
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// admin runs SQL as the superuser.
func (tg *target) admin(tb testing.TB, database, sql string) {
	tb.Helper()
	if _, err := tg.adminConn(tb, database).Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func (tg *target) adminConn(tb testing.TB, database string) *pgx.Conn {
	tb.Helper()
	if database == "" {
		database = "postgres"
	}
	return dial(tb, tg.server.TCPDSN(database))
}

// ask returns one value that the superuser sees.
func ask[T any](tb testing.TB, tg *target, sql string, args ...any) T {
	tb.Helper()
	var v T
	if err := tg.adminConn(tb, tg.databases[0]).QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

func dial(tb testing.TB, dsn string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.WithoutCancel(tb.Context())) })
	return conn
}

func run(tb testing.TB, conn *pgx.Conn, sql string) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func (tg *target) config() postgres.Config {
	return postgres.Config{
		Installation: tg.setup.Installation,
		Target:       postgres.Target{Host: "127.0.0.1", Port: tg.server.Port(), Database: tg.databases[0], SSLMode: "disable", Databases: tg.databases},
		Admin:        postgres.Admin{User: tg.setup.BrokerUser, Password: issuers.NewSecret(tg.password)},
		Roles:        tg.setup.Roles,
		LockTimeout:  300 * time.Millisecond,
	}
}

func (tg *target) issuer(tb testing.TB, change ...func(*postgres.Config)) *postgres.Issuer {
	tb.Helper()
	config := tg.config()
	for _, f := range change {
		f(&config)
	}
	issuer, err := postgres.New(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := issuer.Close(); err != nil {
			tb.Error(err)
		}
	})
	return issuer
}

// brokerConn logs in as the broker's account.
func (tg *target) brokerConn(tb testing.TB, database string) *pgx.Conn {
	tb.Helper()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(tg.setup.BrokerUser, tg.password), Host: fmt.Sprintf("127.0.0.1:%d", tg.server.Port()), Path: "/" + database, RawQuery: "sslmode=disable"}
	return dial(tb, u.String())
}

func newLease(tg *target) issuers.Lease {
	now := time.Now()
	return issuers.Lease{
		Installation: tg.setup.Installation, Tenant: "main", ID: "lse_" + ulid.Make().String(), Policy: "payments", Grant: "deploy-db", Role: "deployer",
		IssuedAt: now, ExpiresAt: now.Add(10 * time.Minute), IssueDeadline: now.Add(time.Minute),
	}
}

// user is one issued credential.
type user struct {
	lease  issuers.Lease
	values map[string]string
	handle []byte
}

func issue(tb testing.TB, issuer issuers.Issuer, lease issuers.Lease) user {
	tb.Helper()
	res, err := issuer.Issue(tb.Context(), &issuers.IssueRequest{Lease: lease})
	if err != nil {
		tb.Fatal(err)
	}
	u := user{lease: lease, values: map[string]string{}, handle: res.Handle}
	for _, v := range res.Values {
		u.values[v.Name] = v.Value.Reveal()
	}
	return u
}

func (u user) name() string { return u.values["username"] }

// in is the user's URL for another database.
func (u user) in(tb testing.TB, database string) string {
	tb.Helper()
	parsed, err := url.Parse(u.values["url"])
	if err != nil {
		tb.Fatal(err)
	}
	parsed.Path = "/" + database
	return parsed.String()
}

func revoke(tb testing.TB, issuer issuers.Issuer, lease issuers.Lease) *issuers.RevokeResponse {
	tb.Helper()
	res, err := issuer.Revoke(tb.Context(), &issuers.RevokeRequest{Lease: lease})
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

func exists(tb testing.TB, tg *target, name string) bool {
	tb.Helper()
	return ask[bool](tb, tg, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name)
}

// private starts a server of its own, for settings that the shared one lacks.
func private(tb testing.TB, settings map[string]string) *devkit.Postgres {
	tb.Helper()
	server, err := devkit.StartPostgres(tb.Context(), devkit.PostgresConfig{TCP: true, Ephemeral: true, Settings: settings})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(tb.Context())); err != nil {
			tb.Error(err)
		}
	})
	return server
}

func serverLog(tb testing.TB, server *devkit.Postgres) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(server.Dir(), "log"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}
