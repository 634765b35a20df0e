package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/postgres"
)

// inBothModes runs a test with functions owned by a superuser, and by a role with CREATEROLE.
func inBothModes(t *testing.T, test func(t *testing.T, mode postgres.OwnerMode)) {
	t.Helper()
	for _, mode := range []postgres.OwnerMode{postgres.OwnerSuperuser, postgres.OwnerCreateRole} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

func TestConformance(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return tg.issuer(t) }, issuertest.Options{
			Installation: tg.setup.Installation, Role: "deployer",
			Works: func(t *testing.T, values map[string]string, want bool) {
				t.Helper()
				if err := login(t.Context(), values["url"]); (err == nil) != want {
					t.Errorf("login: %v, want it to work: %t", err, want)
				}
			},
		})
	})
}

func login(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// blocked says that a revocation waits for a person, and that the login is closed already.
func blocked(t *testing.T, issuer issuers.Issuer, u user, want ...string) {
	t.Helper()
	_, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: u.lease})
	if !errors.Is(err, issuers.ErrBlocked) {
		t.Fatalf("%v, want ErrBlocked", err)
	}
	for _, s := range want {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v doesn't name %q", err, s)
		}
	}
	if login(t.Context(), u.values["url"]) == nil {
		t.Error("a blocked revocation left the login open")
	}
}

func gone(t *testing.T, tg *target, issuer issuers.Issuer, u user) {
	t.Helper()
	if !revoke(t, issuer, u.lease).Found {
		t.Error("nothing was found to take back")
	}
	if exists(t, tg, u.name()) {
		t.Error("the user still exists")
	}
}

func TestSetRoleSessionIsCut(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode, databases: 2})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		sessions := []*pgx.Conn{dial(t, u.values["url"]), dial(t, u.in(t, tg.databases[1])), dial(t, u.values["url"])}
		run(t, sessions[0], "SET ROLE "+tg.group)
		run(t, sessions[1], "SET ROLE "+tg.heir)
		run(t, sessions[2], "BEGIN")
		gone(t, tg, issuer, u)
		for n, session := range sessions {
			if _, err := session.Exec(t.Context(), "SELECT 1"); err == nil {
				t.Errorf("session %d survived", n)
			}
		}
	})
}

func TestRowsSurviveWithTheHeir(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode, databases: 2})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		for _, database := range tg.databases {
			conn := dial(t, u.in(t, database))
			run(t, conn, "CREATE SCHEMA made; CREATE TABLE made.ledger AS SELECT generate_series(1, 100) AS n; CREATE VIEW made.v AS SELECT * FROM made.ledger")
			run(t, conn, "CREATE FUNCTION made.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; CREATE TEMP TABLE t (n int)")
			tg.admin(t, database, fmt.Sprintf("SET ROLE "+tg.heir+"; CREATE TABLE app.given (n int); GRANT SELECT ON app.given TO %s", u.name()))
		}
		gone(t, tg, issuer, u)
		for _, database := range tg.databases {
			conn := tg.adminConn(t, database)
			var rows int
			var owners string
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM made.ledger").Scan(&rows); err != nil || rows != 100 {
				t.Errorf("%s: %d rows, %v", database, rows, err)
			}
			err := conn.QueryRow(t.Context(), `SELECT string_agg(DISTINCT relowner::regrole::text, ',') FROM pg_class WHERE relnamespace = 'made'::regnamespace`).Scan(&owners)
			if err != nil || owners != tg.heir {
				t.Errorf("%s: owned by %s, %v", database, owners, err)
			}
		}
	})
}

func TestLoginBetweenTheStepsFails(t *testing.T) {
	tg := newTarget(t, options{})
	var u user
	var tried []string
	issuer := tg.issuer(t, func(c *postgres.Config) {
		c.Checkpoint = func(step string) {
			if strings.HasPrefix(step, "revoke.") {
				tried = append(tried, step)
				if login(t.Context(), u.values["url"]) == nil {
					t.Errorf("a login worked at %s", step)
				}
			}
		}
	})
	u = issue(t, issuer, newLease(tg))
	gone(t, tg, issuer, u)
	if want := []string{postgres.StepRevokeAfterBar, postgres.StepRevokeAfterCut, postgres.StepRevokeAfterHandOver, postgres.StepRevokeAfterDrop}; !slices.Equal(tried, want) {
		t.Errorf("steps %v, want %v", tried, want)
	}
}

// Logins keep coming while the user is taken away: none may be left with a role that outlives it.
func TestLoginsDuringARevocation(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t)
	for range 5 {
		u := issue(t, issuer, newLease(tg))
		oid := ask[uint32](t, tg, "SELECT oid FROM pg_roles WHERE rolname = $1", u.name())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var opened atomic.Int64
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					conn, err := pgx.Connect(ctx, u.values["url"])
					if err != nil {
						continue
					}
					opened.Add(1)
					_, _ = conn.Exec(ctx, "SET ROLE "+tg.heir) // cut on the way, or not
					t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
					if opened.Load() > 8 {
						return
					}
				}
			})
		}
		poll(t, "a login", func() bool { return opened.Load() > 0 })
		gone(t, tg, issuer, u)
		cancel()
		wg.Wait()
		list(t, tg, issuer) // what the reconciler asks: it sweeps up too
		poll(t, "all sessions to end", func() bool {
			return ask[int](t, tg, "SELECT count(*) FROM pg_stat_activity WHERE usesysid = $1", oid) == 0
		})
	}
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestWhatActsWithItsOwnersRightsBlocks(t *testing.T) {
	allowed := []string{postgres.AllowSecurityDefiner, postgres.AllowPublication, postgres.AllowForeignServer, postgres.AllowUserMapping}
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode, databases: 2, roles: func(tg *target) map[string]postgres.Role {
			return map[string]postgres.Role{
				"deployer": {MemberOf: []string{tg.group}, Owner: tg.heir, SCRAMIterations: 1},
				"reader":   {MemberOf: []string{tg.group}, SCRAMIterations: 1},
				"trusted":  {MemberOf: []string{tg.group}, Owner: tg.heir, SCRAMIterations: 1, Allow: allowed},
			}
		}})
		issuer := tg.issuer(t)
		other := tg.databases[1]
		tg.admin(t, other, fmt.Sprintf("CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER theirs FOREIGN DATA WRAPPER fdw; GRANT USAGE ON FOREIGN DATA WRAPPER fdw TO %[1]s; GRANT USAGE ON FOREIGN SERVER theirs TO %[1]s", tg.heir))
		cases := []struct{ name, role, make, drop, want string }{
			{"function", "deployer", "CREATE SCHEMA s1; CREATE FUNCTION s1.planted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "DROP FUNCTION s1.planted", "s1.planted() (SECURITY DEFINER)"},
			{"procedure", "deployer", "CREATE SCHEMA s2; CREATE PROCEDURE s2.planted() LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "DROP PROCEDURE s2.planted", "s2.planted() (SECURITY DEFINER)"},
			{"publication", "deployer", "CREATE PUBLICATION leak", "DROP PUBLICATION leak", "publication leak"},
			{"server", "deployer", "CREATE SERVER mine FOREIGN DATA WRAPPER fdw", "DROP SERVER mine", "server mine"},
			{"mapping", "deployer", "CREATE USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (password 'x')", "DROP USER MAPPING FOR {user} SERVER theirs", "user mapping"},
			{"nobody inherits", "reader", "CREATE SCHEMA s3", "DROP SCHEMA s3", "schema s3"},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				lease := newLease(tg)
				lease.Role = c.role
				u := issue(t, issuer, lease)
				run(t, dial(t, u.in(t, other)), c.make)
				blocked(t, issuer, u, c.want, other)
				blocked(t, issuer, u, c.want) // again, with nothing new
				tg.admin(t, other, strings.ReplaceAll(c.drop, "{user}", u.name()))
				gone(t, tg, issuer, u)

				if c.role != "reader" {
					lease = newLease(tg)
					lease.Role = "trusted"
					u = issue(t, issuer, lease)
					run(t, dial(t, u.in(t, other)), strings.NewReplacer("s1", "t1", "s2", "t2").Replace(c.make))
					gone(t, tg, issuer, u)
				}
			})
		}
	})
}

func TestHeldLockIsNamed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		run(t, dial(t, u.values["url"]), "CREATE SCHEMA made; CREATE TABLE made.busy (n int)")
		holder := tg.adminConn(t, tg.databases[0])
		run(t, holder, "BEGIN; LOCK TABLE made.busy IN ACCESS SHARE MODE")
		blocked(t, issuer, u, "made.busy", fmt.Sprintf("process %d", holder.PgConn().PID()))
		run(t, holder, "ROLLBACK")
		gone(t, tg, issuer, u)
	})
}

func TestPreparedTransactions(t *testing.T) {
	server := private(t, map[string]string{"max_prepared_transactions": "5"})
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{server: server, owner: mode})
		issuer := tg.issuer(t)
		u := issue(t, issuer, newLease(tg))
		conn := dial(t, u.values["url"])
		run(t, conn, `CREATE SCHEMA one; CREATE TABLE one.t (n int)`)
		run(t, conn, `BEGIN; INSERT INTO one.t VALUES (1); PREPARE TRANSACTION 'it''s \mine'`)
		blocked(t, issuer, u, `it''s \\mine`, tg.databases[0], "ROLLBACK PREPARED")
		// An admin may give the broker's account what it takes.
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE %s SUPERUSER", tg.setup.BrokerUser))
		gone(t, tg, issuer, u)
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE %s NOSUPERUSER", tg.setup.BrokerUser))

		// One that was prepared under another role isn't the user's any more: its lock is what is seen.
		u = issue(t, issuer, newLease(tg))
		conn = dial(t, u.values["url"])
		run(t, conn, `CREATE SCHEMA two; CREATE TABLE two.t (n int); GRANT ALL ON SCHEMA two TO PUBLIC; GRANT ALL ON two.t TO PUBLIC`)
		run(t, conn, fmt.Sprintf(`SET ROLE %s; BEGIN; INSERT INTO two.t VALUES (1); PREPARE TRANSACTION 'disguised_%s'`, tg.group, mode))
		blocked(t, issuer, u, "two.t", "disguised_"+string(mode))
		tg.admin(t, tg.databases[0], fmt.Sprintf("ROLLBACK PREPARED 'disguised_%s'", mode))
		gone(t, tg, issuer, u)
	})
}

func TestThingsInAnUnlistedDatabaseBlock(t *testing.T) {
	tg := newTarget(t, options{databases: 2})
	issuer := tg.issuer(t, func(c *postgres.Config) { c.Target.Databases = tg.databases[:1] })
	u := issue(t, issuer, newLease(tg))
	run(t, dial(t, u.in(t, tg.databases[1])), "CREATE SCHEMA left_behind")
	blocked(t, issuer, u, tg.databases[1], "not listed")
	gone(t, tg, tg.issuer(t), u)
}

// A process that dies between any two steps leaves what another one can finish.
func TestAnotherProcessFinishes(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		second := tg.issuer(t)
		for _, step := range []string{
			postgres.StepIssueBefore, postgres.StepIssueAfter, postgres.StepRevokeAfterBar, postgres.StepRevokeAfterCut,
			postgres.StepRevokeAfterHandOver, postgres.StepRevokeAfterDrop,
		} {
			t.Run(step, func(t *testing.T) {
				first := tg.issuer(t, func(c *postgres.Config) {
					c.Checkpoint = func(s string) {
						if s == step {
							panic(step)
						}
					}
				})
				lease := newLease(tg)
				died := dies(func() {
					u := issue(t, first, lease)
					run(t, dial(t, u.values["url"]), "CREATE SCHEMA IF NOT EXISTS \""+step+"\"")
					revoke(t, first, lease)
				})
				if died != step {
					t.Fatalf("died at %v, want %s", died, step)
				}
				if found := revoke(t, second, lease).Found; found != (step != postgres.StepIssueBefore) {
					t.Errorf("found: %t", found)
				}
				if n := ask[int](t, tg, "SELECT count(*) FROM pg_roles WHERE rolname LIKE $1", "dp\\_%"+strings.ToLower(strings.TrimPrefix(lease.ID, "lse_"))+"%"); n != 0 {
					t.Error("the user still exists")
				}
				// What was on its way doesn't land any more.
				if _, err := second.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); !errors.Is(err, issuers.ErrLate) {
					t.Errorf("%v, want ErrLate", err)
				}
			})
		}
	})
}

func dies(f func()) (reason any) {
	defer func() { reason = recover() }()
	f()
	return nil
}

// A create and a revocation that are on their way together meet at one key: the first wins, and nothing stays.
func TestCreateAndRevokeAtOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		create := func(lease issuers.Lease) string {
			return fmt.Sprintf("SELECT daypass.create_user('%s', '%s', 'deployer', '%s', now() + '10m', now() + '1m')", lease.ID, lease.Installation, benchVerifier)
		}
		cases := []struct {
			name  string
			first func(issuers.Lease) string // in a transaction that is held open
			end   string
			found bool // by the revocation that comes second
		}{
			{"the create commits first", create, "COMMIT", true},
			{"the create fails", create, "ROLLBACK", false},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				lease := newLease(tg)
				conn := tg.brokerConn(t, tg.databases[0])
				run(t, conn, "BEGIN")
				run(t, conn, c.first(lease))
				done := make(chan *issuers.RevokeResponse, 1)
				go func() {
					res, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease})
					if err != nil {
						t.Error(err)
					}
					done <- res
				}()
				waiting(t, tg, tg.setup.BrokerUser)
				run(t, conn, c.end)
				if res := <-done; res == nil || res.Found != c.found {
					t.Errorf("%+v, want found: %t", res, c.found)
				}
				noUser(t, tg, lease)
			})
		}
		t.Run("the revocation comes first", func(t *testing.T) {
			lease := newLease(tg)
			conn := tg.brokerConn(t, tg.databases[0])
			run(t, conn, "BEGIN")
			run(t, conn, fmt.Sprintf("SELECT daypass.bar_user('%s', '%s')", lease.ID, lease.Installation))
			done := make(chan error, 1)
			go func() {
				_, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease})
				done <- err
			}()
			waiting(t, tg, tg.setup.BrokerUser)
			run(t, conn, "COMMIT")
			if err := <-done; !errors.Is(err, issuers.ErrLate) {
				t.Errorf("%v, want ErrLate", err)
			}
			noUser(t, tg, lease)
		})
	})
}

func waiting(t *testing.T, tg *target, account string) {
	t.Helper()
	poll(t, "a session that waits for a lock", func() bool {
		return ask[int](t, tg, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", account) > 0
	})
}

func noUser(t *testing.T, tg *target, lease issuers.Lease) {
	t.Helper()
	if ask[bool](t, tg, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname LIKE '%' || $1 || '%')", strings.ToLower(strings.TrimPrefix(lease.ID, "lse_"))) {
		t.Error("a user stands")
	}
}

func TestManyAtOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode postgres.OwnerMode) {
		tg := newTarget(t, options{owner: mode})
		issuer := tg.issuer(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					lease := newLease(tg)
					if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); err != nil {
						t.Error(err)
						return
					}
					if _, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if n := ask[int](t, tg, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dp\\_' || $1 || '%'", tg.setup.Installation); n != 0 {
			t.Errorf("%d users are left", n)
		}
	})
}

func TestHandOfAnAdmin(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t)
	t.Run("dropped the user", func(t *testing.T) {
		u := issue(t, issuer, newLease(tg))
		session := dial(t, u.values["url"])
		run(t, session, "SET ROLE "+tg.heir)
		tg.admin(t, "", "DROP ROLE "+u.name())
		gone(t, tg, issuer, u)
		if _, err := session.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("its session survived")
		}
	})
	t.Run("renamed the user", func(t *testing.T) {
		u := issue(t, issuer, newLease(tg))
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE %s RENAME TO kept_%s", u.name(), u.name()[3:20]))
		_, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: u.lease})
		if !errors.Is(err, issuers.ErrUnavailable) || !strings.Contains(err.Error(), "Rename it back") {
			t.Errorf("%v", err)
		}
		tg.admin(t, "", fmt.Sprintf("ALTER ROLE kept_%s RENAME TO %s", u.name()[3:20], u.name()))
		gone(t, tg, issuer, u)
	})
}

func TestRenewMovesTheEnd(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t)
	u := issue(t, issuer, newLease(tg))
	end := time.Now().Add(2 * time.Hour).Truncate(time.Microsecond)
	if err := issuer.Renew(t.Context(), &issuers.RenewRequest{Lease: u.lease, ExpiresAt: end}); err != nil {
		t.Fatal(err)
	}
	if got := ask[time.Time](t, tg, "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1", u.name()); !got.Equal(end) {
		t.Errorf("%s, want %s", got, end)
	}
	// Between bar and drop a renewal must not open the login again.
	run(t, tg.brokerConn(t, tg.databases[0]), fmt.Sprintf("SELECT daypass.bar_user('%s', '%s')", u.lease.ID, u.lease.Installation))
	if err := issuer.Renew(t.Context(), &issuers.RenewRequest{Lease: u.lease, ExpiresAt: end}); !errors.Is(err, issuers.ErrLate) {
		t.Errorf("%v, want ErrLate", err)
	}
	if err := login(t.Context(), u.values["url"]); err == nil {
		t.Error("the login is open")
	}
	gone(t, tg, issuer, u)
}

func code(err error) string {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return answer.Code
	}
	return fmt.Sprint(err)
}
