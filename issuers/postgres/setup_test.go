package postgres_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

func TestUnsafeSetUpsAreRefused(t *testing.T) {
	cases := []struct {
		name, sql string // {group}, {heir}, {broker}, {owner} and {db} are filled
		want      string
	}{
		{"superuser group", "ALTER ROLE {group} SUPERUSER", "more than a job may be"},
		{"createrole group", "ALTER ROLE {group} CREATEROLE", "more than a job may be"},
		{"group that runs programs", "GRANT pg_execute_server_program TO {heir}; GRANT {heir} TO {group}", "pg_execute_server_program"},
		{"group that is the owner of functions", "GRANT {owner} TO {group}", "more than a job may be"},
		{"heir that logs in", "ALTER ROLE {heir} LOGIN", "must be NOLOGIN"},
		{"heir with rights of its own", "REVOKE {heir} FROM {group}", "rights that the users lack"},
		{"missing group", "ALTER ROLE {group} RENAME TO {group}_gone", "does not exist"},
		{"powerful account", "ALTER ROLE {broker} CREATEROLE", "must have no privilege"},
		{"account in a group", "GRANT {group} TO {broker}", "in no group"},
		{"owner that logs in", "ALTER ROLE {owner} LOGIN", "is not"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tg := newTarget(t, options{})
			own := tg.setup.OwnerRole + "_" + tg.setup.Installation
			tg.admin(t, tg.databases[0], "DROP SCHEMA daypass CASCADE")
			tg.setup.OwnerRole = own
			tg.install(t)
			fill := strings.NewReplacer("{group}", tg.group, "{heir}", tg.heir, "{broker}", tg.setup.BrokerUser, "{owner}", own)
			tg.admin(t, tg.databases[0], fill.Replace(c.sql))
			out, err := tg.psql(t, tg.script(t))
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v: %s, want %q", err, out, c.want)
			}
			// What was changed after the set-up is seen at use.
			if strings.Contains(c.name, "group") && !strings.Contains(c.name, "account") {
				_, err := tg.issuer(t).Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)})
				if !errors.Is(err, issuers.ErrRejected) {
					t.Errorf("issued all the same: %v", err)
				}
			}
		})
	}
	t.Run("schema of somebody else", func(t *testing.T) {
		tg := newTarget(t, options{})
		tg.admin(t, tg.databases[0], "DROP SCHEMA daypass CASCADE; CREATE SCHEMA daypass AUTHORIZATION "+tg.heir)
		if out, err := tg.psql(t, tg.script(t)); err == nil || !strings.Contains(out, "belongs to somebody else") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("heir that became powerful", func(t *testing.T) {
		tg := newTarget(t, options{})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		run(t, dial(t, u.values["url"]), "CREATE SCHEMA made")
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE %s CREATEDB", tg.heir))
		blocked(t, issuer, u, "must be NOLOGIN")
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE %s NOCREATEDB", tg.heir))
		gone(t, tg, issuer, u)
	})
}

func TestSetUpTwiceAndWithOtherRoles(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		lease := newLease(tg)
		lease.Role = "strong"
		u := issue(t, issuer, lease)
		run(t, dial(t, u.values["url"]), "CREATE SCHEMA made")
		tg.setup.Roles = map[string]postgres.Role{"deployer": tg.setup.Roles["deployer"]}
		tg.install(t)
		tg.install(t)
		lease = newLease(tg)
		lease.Role = "strong"
		if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("a role that was taken away: %v, want ErrRejected", err)
		}
		gone(t, tg, issuer, u)
		gone(t, tg, issuer, issue(t, issuer, newLease(tg)))
	})
}

// TestSetUpBesideAnother: databases come and go, and are set up, while the set-up
// takes CONNECT from PUBLIC on each.
func TestSetUpBesideAnother(t *testing.T) {
	tg := newTarget(t, options{databases: 2})
	tg.setup.Databases = tg.databases[:1]
	script, other := tg.script(t), tg.adminConn(t, "")
	run(t, other, "GRANT CONNECT ON DATABASE "+tg.databases[1]+" TO PUBLIC")
	run(t, other, "BEGIN")
	run(t, other, "REVOKE CONNECT ON DATABASE "+tg.databases[1]+" FROM PUBLIC")
	pid := ask[int](t, tg, "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'REVOKE CONNECT ON DATABASE "+tg.databases[1]+"%'")
	ended := make(chan error, 1)
	go func() {
		out, err := tg.psql(t, script)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		ended <- err
	}()
	for len(ended) == 0 && !ask[bool](t, tg, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))", pid) {
		runtime.Gosched()
	}
	run(t, other, "COMMIT")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if ask[bool](t, tg, "SELECT has_database_privilege('public', $1, 'CONNECT')", tg.databases[1]) {
		t.Error("PUBLIC may connect")
	}
}

func TestSetupSQLIsSafeText(t *testing.T) {
	good := postgres.SetupConfig{
		Installation: "abcdefghijkl", BrokerUser: "daypass", Databases: []string{"payments", "ledger"},
		Roles: map[string]postgres.Role{"deployer": {MemberOf: []string{"deploy"}, Owner: "payments_owner"}},
	}
	scripts, err := postgres.SetupSQL(good)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, s := range scripts {
		order = append(order, s.Database)
		if strings.Contains(strings.ToUpper(s.SQL), " PASSWORD '") || strings.Contains(s.SQL, "<no value>") {
			t.Errorf("database %s: a password or a hole in\n%s", s.Database, s.SQL)
		}
	}
	if !slices.Equal(order, []string{"payments", "payments", "payments", "ledger"}) {
		t.Errorf("order %v", order)
	}
	if !strings.Contains(scripts[0].SQL, "18 ms at 3,000") {
		t.Error("the figures of the two owners are not said")
	}
	for name, change := range map[string]func(*postgres.SetupConfig){
		"installation": func(c *postgres.SetupConfig) { c.Installation = "x" },
		"account":      func(c *postgres.SetupConfig) { c.BrokerUser = `day"pass` },
		"database":     func(c *postgres.SetupConfig) { c.Databases = []string{"a'b"} },
		"no database":  func(c *postgres.SetupConfig) { c.Databases = nil },
		"twice":        func(c *postgres.SetupConfig) { c.Databases = []string{"a", "a"} },
		"schema":       func(c *postgres.SetupConfig) { c.Schema = "a;b" },
		"owner":        func(c *postgres.SetupConfig) { c.Owner = "root" },
		"owner role":   func(c *postgres.SetupConfig) { c.OwnerRole = "daypass" },
		"role":         func(c *postgres.SetupConfig) { c.Roles = map[string]postgres.Role{"a b": {MemberOf: []string{"x"}}} },
		"no role":      func(c *postgres.SetupConfig) { c.Roles = nil },
		"no group":     func(c *postgres.SetupConfig) { c.Roles = map[string]postgres.Role{"a": {}} },
		"own account": func(c *postgres.SetupConfig) {
			c.Roles = map[string]postgres.Role{"a": {MemberOf: []string{"daypass"}}}
		},
		"predefined": func(c *postgres.SetupConfig) {
			c.Roles = map[string]postgres.Role{"a": {MemberOf: []string{"pg_write_server_files"}}}
		},
		"heir": func(c *postgres.SetupConfig) {
			c.Roles = map[string]postgres.Role{"a": {MemberOf: []string{"x"}, Owner: "$$"}}
		},
		"allow": func(c *postgres.SetupConfig) {
			c.Roles = map[string]postgres.Role{"a": {MemberOf: []string{"x"}, Allow: []string{"all"}}}
		},
	} {
		bad := good
		change(&bad)
		if _, err := postgres.SetupSQL(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	good := postgres.Config{
		Installation: "abcdefghijkl", Target: postgres.Target{Host: "db.internal", Database: "payments"},
		Admin: postgres.Admin{User: "daypass"}, Roles: map[string]postgres.Role{"deployer": {MemberOf: []string{"deploy"}}},
	}
	if issuer, err := postgres.New(t.Context(), good); err != nil {
		t.Fatal(err)
	} else if err := issuer.Close(); err != nil {
		t.Error(err)
	}
	role := func(r postgres.Role) func(*postgres.Config) {
		return func(c *postgres.Config) { c.Roles = map[string]postgres.Role{"a": r} }
	}
	for name, change := range map[string]func(*postgres.Config){
		"installation": func(c *postgres.Config) { c.Installation = "ABC" },
		"host":         func(c *postgres.Config) { c.Target.Host = "" },
		"two hosts":    func(c *postgres.Config) { c.Target.Host = "a,b" },
		"port":         func(c *postgres.Config) { c.Target.Port = 70000 },
		"database":     func(c *postgres.Config) { c.Target.Database = "" },
		"unlisted":     func(c *postgres.Config) { c.Target.Databases = []string{"other"} },
		"sslmode":      func(c *postgres.Config) { c.Target.SSLMode = "prefer" },
		"CA file":      func(c *postgres.Config) { c.Target.CAFile = "/no/such/file" },
		"account":      func(c *postgres.Config) { c.Admin.User = "" },
		"no roles":     func(c *postgres.Config) { c.Roles = nil },
		"timeouts":     func(c *postgres.Config) { c.LockTimeout, c.StatementTimeout = time.Minute, time.Second },
		"iterations":   role(postgres.Role{MemberOf: []string{"x"}, SCRAMIterations: -1}),
		"connections":  role(postgres.Role{MemberOf: []string{"x"}, ConnectionLimit: -1}),
		"env value":    role(postgres.Role{MemberOf: []string{"x"}, Env: map[string]string{"user": "PGUSER"}}),
		"env name":     role(postgres.Role{MemberOf: []string{"x"}, Env: map[string]string{"username": "PATH"}}),
		"env twice":    role(postgres.Role{MemberOf: []string{"x"}, Env: map[string]string{"username": "A", "password": "A"}}),
	} {
		bad := good
		change(&bad)
		if _, err := postgres.New(t.Context(), bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
