package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// What the broker's own account can do with what the set-up gave it, and can't.
func TestTheBrokersAccountIsLimited(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		stranger := newLease(tg)
		// Named as ours are, by somebody else.
		fake := "dp_" + tg.setup.Installation + "_" + strings.ToLower(strings.TrimPrefix(stranger.ID, "lse_")) + "_12345678"
		tg.admin(t, "", fmt.Sprintf("CREATE ROLE %s NOLOGIN; CREATE ROLE bystander_%s NOLOGIN", fake, tg.setup.Installation))
		conn := tg.brokerConn(t, tg.databases[0])
		cases := []struct{ sql, want string }{
			{"CREATE ROLE mine", "42501"},
			{"DROP ROLE " + u.name(), "42501"},
			{"ALTER ROLE " + u.name() + " SUPERUSER", "42501"},
			{"GRANT " + tg.group + " TO CURRENT_USER", "42501"},
			{"SET ROLE " + tg.setup.OwnerRole, "42501"},
			{"SET ROLE " + u.name(), "42501"},
			{"CREATE TABLE daypass.x (n int)", "42501"},
			{"INSERT INTO daypass.roles SELECT * FROM daypass.roles", "42501"},
			{"UPDATE daypass.roles SET member_of = '{postgres}'", "42501"},
			{"INSERT INTO daypass.brokers VALUES (current_user, 'otherotherot')", "42501"},
			{"SELECT * FROM daypass.users", "42501"},
			{"DELETE FROM daypass.users", "42501"},
			{"SELECT daypass.group_problem('{}')", "42501"},
			{"SELECT daypass.live_user('x', 'y', true)", "42501"},
			{"CREATE OR REPLACE FUNCTION daypass.check_broker(p_installation text) RETURNS void LANGUAGE sql AS 'SELECT'", "42501"},
			// Roles that create_user didn't make.
			{fmt.Sprintf("SELECT daypass.hand_over_user('%s', '%s', 'bystander_%s')", stranger.ID, stranger.Installation, stranger.Installation), "DP004"},
			{fmt.Sprintf("SELECT daypass.hand_over_user('%s', '%s', '%s')", stranger.ID, stranger.Installation, fake), "DP004"},
			{fmt.Sprintf("SELECT daypass.hand_over_user('%s', '%s', 'postgres')", u.lease.ID, u.lease.Installation), "DP004"},
			{fmt.Sprintf("SELECT daypass.hand_over_user('%s', '%s', '%s')", stranger.ID, stranger.Installation, u.name()), "DP004"},
			// Steps out of order.
			{fmt.Sprintf("SELECT daypass.drop_user('%s', '%s')", u.lease.ID, u.lease.Installation), "DP008"},
			{fmt.Sprintf("SELECT daypass.hand_over_user('%s', '%s', '%s')", u.lease.ID, u.lease.Installation, u.name()), "DP004"}, // not cut yet: nothing marks it
			// Another installation's.
			{fmt.Sprintf("SELECT daypass.bar_user('%s', 'otherotherot')", u.lease.ID), "DP004"},
			{"SELECT daypass.list_users('otherotherot')", "DP004"},
			{"SELECT daypass.list_page('otherotherot', '', 10)", "DP004"},
			{fmt.Sprintf("SELECT daypass.list_page('%s', '', 0)", u.lease.Installation), "DP005"},
			{fmt.Sprintf("SELECT daypass.list_page('%s', 'x', 10)", u.lease.Installation), "DP005"},
			{fmt.Sprintf("SELECT daypass.end_strays('%s')", u.lease.Installation), "42501"},
			// Malformed.
			{fmt.Sprintf("SELECT daypass.create_user('lse_x', '%s', 'deployer', '%s', now(), now() + '1m')", u.lease.Installation, benchVerifier), "DP005"},
			{fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'deployer', '%s', 'infinity', now() + '1m')", stranger.ID, u.lease.Installation, benchVerifier), "DP005"},
			{fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'deployer', '%s', now(), now() + '2 days')", stranger.ID, u.lease.Installation, benchVerifier), "DP005"},
			{fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'deployer', '%s', now(), now() - '1s'::interval)", stranger.ID, u.lease.Installation, benchVerifier), "DP001"},
			{fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'unknown', '%s', now(), now() + '1m')", stranger.ID, u.lease.Installation, benchVerifier), "DP004"},
		}
		for _, c := range cases {
			if _, err := conn.Exec(t.Context(), c.sql); code(err) != c.want {
				t.Errorf("%s: %s, want %s", c.sql, code(err), c.want)
			}
		}
		for _, bad := range []string{
			"secret", "", "md5" + strings.Repeat("0", 32), strings.Replace(benchVerifier, "$1:", "$0:", 1), strings.Replace(benchVerifier, "$1:", "$1234567:", 1),
			strings.Replace(benchVerifier, "==$", "=$", 1), benchVerifier + "A", benchVerifier[:len(benchVerifier)-2] + "=", benchVerifier + "\n",
			" " + benchVerifier, strings.Replace(benchVerifier, "AAAA", "AA''", 1), strings.ToLower(benchVerifier[:5]) + benchVerifier[5:],
			strings.Replace(benchVerifier, ":AAAA", ":AAA", 1), strings.Replace(benchVerifier, ":AAAA", ":AAAAAAAA", 1),
		} {
			sql := fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'deployer', '%s', now() + '1m', now() + '1m')", stranger.ID, u.lease.Installation, bad)
			if _, err := conn.Exec(t.Context(), sql); code(err) != "DP005" {
				t.Errorf("verifier %q: %s", bad, code(err))
			}
		}
		noArguments := fmt.Sprintf("SELECT daypass.create_user(NULL, '%s', 'deployer', NULL, NULL, NULL) IS NULL", u.lease.Installation)
		var nothing bool
		if err := conn.QueryRow(t.Context(), noArguments).Scan(&nothing); err != nil || !nothing {
			t.Errorf("NULL arguments: %t, %v", nothing, err)
		}
		noSuch := dial(t, u.values["url"])
		if _, err := noSuch.Exec(t.Context(), fmt.Sprintf("SELECT daypass.bar_user('%s', '%s')", u.lease.ID, u.lease.Installation)); code(err) != "42501" {
			t.Errorf("a job called the broker's functions: %s", code(err))
		}
		if !exists(t, tg, fake) {
			t.Error("a role that isn't ours was dropped")
		}
		gone(t, tg, issuer, u)
	})
}

func TestUserHasNoMoreThanItsGroups(t *testing.T) {
	tg := newTarget(t, options{})
	u := issue(t, tg.issuer(t), newLease(tg))
	if bad := ask[bool](t, tg, `SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR NOT rolinherit OR rolconnlimit <> 20 FROM pg_roles WHERE rolname = $1`, u.name()); bad {
		t.Error("the user has attributes that it shouldn't")
	}
	if got := ask[time.Time](t, tg, "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1", u.name()); !got.Equal(u.lease.ExpiresAt.Truncate(time.Microsecond)) {
		t.Errorf("valid until %s, want %s", got, u.lease.ExpiresAt)
	}
	if got := ask[string](t, tg, "SELECT string_agg(roleid::regrole::text, ',') FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE rolname = $1", u.name()); got != tg.group {
		t.Errorf("member of %s, want %s", got, tg.group)
	}
	want := "dp_" + tg.setup.Installation + "_" + strings.ToLower(strings.TrimPrefix(u.lease.ID, "lse_")) + "_"
	if !strings.HasPrefix(u.name(), want) || len(u.name()) != 51 {
		t.Errorf("name %s, want %s and 8 random characters", u.name(), want)
	}
	// Databases that the set-up doesn't list are closed.
	if err := login(t.Context(), u.in(t, "template1")); err == nil {
		t.Error("a login to a database that isn't listed worked")
	}
}

// Functions and operators that a job or the broker puts in the way are never called.
func TestSearchPathAttacks(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		lease := newLease(tg)
		lease.Role = "deployer"
		attacker := issue(t, issuer, lease)
		run(t, dial(t, attacker.values["url"]), `CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO PUBLIC;
			CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
			CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
			CREATE FUNCTION evil.pg_terminate_backend(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
			CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
			CREATE FUNCTION evil.regex(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
			CREATE OPERATOR evil.!~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.regex);
			CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.regex);
			CREATE TABLE evil.pg_roles (oid oid, rolname name, rolcanlogin boolean);
			CREATE TABLE evil.pg_shdepend (n int)`)
		tg.admin(t, tg.databases[0], "GRANT TEMPORARY ON DATABASE "+tg.databases[0]+" TO "+tg.setup.BrokerUser)
		conn := tg.brokerConn(t, tg.databases[0])
		run(t, conn, "CREATE TEMP TABLE pg_roles (oid oid, rolname name, rolcanlogin boolean); CREATE TEMP TABLE users (n int)")
		run(t, conn, "SET search_path = evil, pg_temp, public, pg_catalog")
		next := newLease(tg)
		for _, call := range []string{
			fmt.Sprintf("daypass.create_user('%s', '%s', 'deployer', '%s', pg_catalog.now() + '1m', pg_catalog.now() + '1m')", next.ID, next.Installation, benchVerifier),
			fmt.Sprintf("daypass.renew_user('%s', '%s', pg_catalog.now() + '2m')", next.ID, next.Installation),
			fmt.Sprintf("daypass.bar_user('%s', '%s')", next.ID, next.Installation),
			fmt.Sprintf("daypass.cut_user('%s', '%s')", next.ID, next.Installation),
			fmt.Sprintf("daypass.drop_user('%s', '%s')", next.ID, next.Installation),
			fmt.Sprintf("daypass.list_users('%s')", next.Installation),
			fmt.Sprintf("daypass.list_page('%s', '', 10)", next.Installation),
		} {
			if _, err := conn.Exec(t.Context(), "SELECT "+call); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
		noUser(t, tg, next)
		gone(t, tg, issuer, attacker)
	})
}

func TestTwoInstallationsOnOneTarget(t *testing.T) {
	tg := newTarget(t, options{})
	second := *tg
	second.setup.Installation, second.setup.BrokerUser = "second"+tg.setup.Installation[6:], tg.setup.BrokerUser+"_second"
	second.install(t)
	second.admin(t, "", fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", second.setup.BrokerUser, second.password))
	one, two := tg.issuer(t), second.issuer(t)

	lease := newLease(tg)
	cloned := lease // as after a clone of the broker's database, given a new id
	cloned.Installation = second.setup.Installation
	a, b := issue(t, one, lease), issue(t, two, cloned)
	if a.name() == b.name() {
		t.Fatal("two installations share a user")
	}
	if _, err := two.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); !errors.Is(err, issuers.ErrBlocked) {
		t.Errorf("another installation's lease: %v", err)
	}
	if _, err := two.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("another installation's lease: %v", err)
	}
	gone(t, &second, two, b)
	if err := login(t.Context(), a.values["url"]); err != nil {
		t.Errorf("one installation took away what the other made: %v", err)
	}
	if found := list(t, &second, two); len(found) != 0 {
		t.Errorf("%v", found)
	}
	if found := list(t, tg, one); len(found) != 1 || found[0].LeaseID != lease.ID {
		t.Errorf("%v", found)
	}
	if _, err := two.List(t.Context(), &issuers.ListRequest{Installation: lease.Installation, Limit: 10}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("listing another installation's: %v", err)
	}
	// Its account can't act for the other, whatever it says.
	if _, err := second.brokerConn(t, tg.databases[0]).Exec(t.Context(), fmt.Sprintf("SELECT daypass.bar_user('%s', '%s')", lease.ID, lease.Installation)); code(err) != "DP004" {
		t.Errorf("%s, want DP004", code(err))
	}
	gone(t, tg, one, a)
}

func TestIterationsLogIn(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t)
	for role, want := range map[string]string{"deployer": "SCRAM-SHA-256$1:", "strong": "SCRAM-SHA-256$4096:"} {
		lease := newLease(tg)
		lease.Role = role
		u := issue(t, issuer, lease)
		if err := login(t.Context(), u.values["url"]); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		if !ask[bool](t, tg, "SELECT starts_with(rolpassword, $2) FROM pg_authid WHERE rolname = $1", u.name(), want) {
			t.Errorf("%s: the verifier doesn't begin with %s", role, want)
		}
		gone(t, tg, issuer, u)
	}
}

func TestNoPasswordInTheServersLogOrInErrors(t *testing.T) {
	server := private(t, map[string]string{"log_statement": "all", "log_min_error_statement": "debug5", "log_min_messages": "debug1", "log_parameter_max_length_on_error": "-1", "log_error_verbosity": "verbose", "log_connections": "on"})
	tg := newTarget(t, options{server: server})
	issuer := tg.issuer(t)
	u := issue(t, issuer, newLease(tg))
	if err := login(t.Context(), u.values["url"]); err != nil {
		t.Fatal(err)
	}
	_, again := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: u.lease})
	tg.admin(t, tg.databases[0], "REVOKE ALL ON SCHEMA daypass FROM "+tg.setup.BrokerUser)
	_, denied := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)})
	tg.admin(t, tg.databases[0], "GRANT USAGE ON SCHEMA daypass TO "+tg.setup.BrokerUser)
	wrong := tg.issuer(t, func(c *postgres.Config) { c.Admin.Password = issuers.NewSecret("wrong-secret") })
	_, login := wrong.Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)})
	for _, err := range []error{again, denied, login} {
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		for _, secret := range []string{"SCRAM-SHA-256$", tg.password, "wrong-secret", "dpp_"} {
			if err == nil || strings.Contains(text, secret) {
				t.Errorf("error %v holds %q", err, secret)
			}
		}
	}
	if !errors.Is(denied, issuers.ErrRejected) || !strings.Contains(denied.Error(), "target setup postgres") {
		t.Errorf("%v: a hint at the set-up is missing", denied)
	}
	gone(t, tg, issuer, u)
	text := serverLog(t, server)
	if !strings.Contains(text, "create_user") || !strings.Contains(text, u.name()) {
		t.Fatal("the log holds no calls: this test sees nothing")
	}
	// The account's own was set by this test in plain SQL; a job's never may be there.
	if strings.Contains(text, u.values["password"]) {
		t.Error("the server's log holds the password")
	}
}

func TestTargetIsDown(t *testing.T) {
	server := private(t, nil)
	tg := newTarget(t, options{server: server})
	issuer := tg.issuer(t)
	lease := newLease(tg)
	issue(t, issuer, lease)
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := tg.issuer(t) // a dead target keeps nobody from starting
	for name, i := range map[string]*postgres.Issuer{"open connections": issuer, "none": late} {
		_, issued := i.Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)})
		_, revoked := i.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease})
		_, listed := i.List(t.Context(), &issuers.ListRequest{Installation: lease.Installation, Limit: 10})
		renewed := i.Renew(t.Context(), &issuers.RenewRequest{Lease: lease, ExpiresAt: time.Now().Add(time.Hour)})
		for _, err := range []error{issued, revoked, listed, renewed} {
			if !errors.Is(err, issuers.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrUnavailable", name, err)
			}
		}
	}
}

func TestAdminPasswordChangedBehindOurBack(t *testing.T) {
	tg := newTarget(t, options{})
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(tg.password)
	var log bytes.Buffer
	issuer := tg.issuer(t, func(c *postgres.Config) {
		c.Admin = postgres.Admin{User: tg.setup.BrokerUser, PasswordFile: file}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	issue(t, issuer, newLease(tg))
	rotated := issuers.Generate(issuers.Password).Reveal()
	tg.admin(t, "", fmt.Sprintf("ALTER ROLE %[1]s PASSWORD '%[2]s'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%[1]s'", tg.setup.BrokerUser, rotated))
	poll(t, "the login to be refused", func() bool {
		_, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)})
		if !errors.Is(err, issuers.ErrUnavailable) {
			t.Fatalf("%v, want ErrUnavailable", err)
		}
		return strings.Contains(err.Error(), "28P01") && strings.Contains(err.Error(), "password file")
	})
	if log.Len() != 0 {
		t.Errorf("said too early: %s", &log)
	}
	write(rotated)
	issue(t, issuer, newLease(tg))
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "read again") || strings.Contains(text, rotated) {
		t.Errorf("the log says: %s", text)
	}
}

func TestWhatTheJobIsTold(t *testing.T) {
	tg := newTarget(t, options{})
	public := issue(t, tg.issuer(t, func(c *postgres.Config) { c.PublicHost, c.PublicPort = "db.example.com", 6432 }), newLease(tg)).values
	if public["host"] != "db.example.com" || public["port"] != "6432" || !strings.Contains(public["url"], "@db.example.com:6432/"+tg.databases[0]+"?sslmode=disable") {
		t.Errorf("%v", public)
	}
	socket := issue(t, tg.issuer(t, func(c *postgres.Config) {
		c.PublicHost = strings.Split(strings.Split(tg.server.DSN("x"), "host=")[1], "&")[0]
		c.PublicHost = strings.ReplaceAll(c.PublicHost, "%2F", "/")
	}), newLease(tg))
	if err := login(t.Context(), socket.values["url"]); err != nil {
		t.Errorf("over the socket: %v", err)
	}
}

// A create that stood still past its deadline is refused by the target's clock, not the broker's.
func TestDeadlineIsTheTargets(t *testing.T) {
	tg := newTarget(t, options{})
	lease := newLease(tg)
	lease.IssueDeadline = time.Now().Add(150 * time.Millisecond)
	issuer := tg.issuer(t, func(c *postgres.Config) {
		c.Now = func() time.Time { return time.Unix(0, 0) } // of no account
		c.Checkpoint = func(step string) {
			if step == postgres.StepIssueBefore {
				<-time.After(time.Until(lease.IssueDeadline))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := issuer.Issue(ctx, &issuers.IssueRequest{Lease: lease}); !errors.Is(err, issuers.ErrLate) {
		t.Errorf("%v, want ErrLate", err)
	}
	noUser(t, tg, lease)
}
