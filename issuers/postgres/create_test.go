package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// crowd has users made for leases while the target lets nobody in, and then lets
// it. It returns what came of each.
func crowd(t *testing.T, tg *target, issuer *postgres.Issuer, leases []issuers.Lease) []error {
	t.Helper()
	door := tg.adminConn(t, tg.databases[0])
	run(t, door, "BEGIN; LOCK TABLE daypass.users IN ACCESS EXCLUSIVE MODE")
	errs := make([]error, len(leases))
	var making sync.WaitGroup
	for n, lease := range leases {
		making.Go(func() { _, errs[n] = issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}) })
		if n == 0 {
			hangs(t, tg)
		}
	}
	until(t, "all others wait", func() bool { return issuer.Waiting() == len(leases)-1 })
	run(t, door, "COMMIT")
	making.Wait()
	return errs
}

// hangs waits until a call of the broker waits for a lock.
func hangs(t *testing.T, tg *target) {
	t.Helper()
	conn := tg.adminConn(t, "")
	until(t, "a call waits for a lock", func() (waits bool) {
		const look = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock')"
		if err := conn.QueryRow(t.Context(), look, tg.setup.BrokerUser).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("after a minute not yet: %s", what)
		case <-tick.C:
		}
	}
}

// patient has one connection, and gives a crowd the time to gather.
func patient(c *postgres.Config) {
	c.MaxConnections = 1
	c.LockTimeout, c.StatementTimeout = time.Minute, 2*time.Minute
}

const committedIn = "SELECT count(DISTINCT xmin::text) FROM daypass.users WHERE ended_at IS NULL"

func TestUsersAreMadeTogether(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t, patient)
	leases := make([]issuers.Lease, 20)
	for n := range leases {
		leases[n] = newLease(tg)
		leases[n].Role = []string{"deployer", "reader"}[n/10]
		leases[n].IssueDeadline = time.Now().Add(time.Hour)
	}
	for n, err := range crowd(t, tg, issuer, leases) {
		if err != nil {
			t.Errorf("lease %d: %v", n, err)
		}
	}
	if commits := ask[int](t, tg, committedIn); commits != 2 {
		t.Errorf("%d commits for one user, and for those that waited for it: want 2", commits)
	}
	roles := ask[string](t, tg, "SELECT string_agg(role || ' ' || n, ', ' ORDER BY role) FROM (SELECT role, count(*) AS n FROM daypass.users JOIN pg_roles ON oid = role_oid AND rolcanlogin GROUP BY 1) AS r")
	if want := "deployer 10, reader 10"; roles != want {
		t.Errorf("users: %s, want %s", roles, want)
	}
	for _, lease := range leases {
		revoke(t, issuer, lease)
	}
}

func TestOneThatIsRefusedKeepsNobody(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t, patient)
	leases := make([]issuers.Lease, 6)
	for n := range leases {
		leases[n] = newLease(tg)
		leases[n].IssueDeadline = time.Now().Add(time.Hour)
	}
	const revoked, late = 2, 4
	revoke(t, issuer, leases[revoked])
	leases[late].IssueDeadline = time.Now().Add(-time.Second)
	for n, err := range crowd(t, tg, issuer, leases) {
		refused := n == revoked || n == late
		if refused != errors.Is(err, issuers.ErrLate) || !refused && err != nil {
			t.Errorf("lease %d: %v", n, err)
		}
	}
	if users := ask[int](t, tg, "SELECT count(*) FROM daypass.users JOIN pg_roles ON oid = role_oid"); users != len(leases)-2 {
		t.Errorf("%d users, want %d", users, len(leases)-2)
	}
}

// A target that was set up for an earlier version makes users one at a time.
func TestUsersAreMadeByAnEarlierSetUp(t *testing.T) {
	tg := newTarget(t, options{})
	tg.admin(t, tg.databases[0], "DROP FUNCTION daypass.create_users")
	issuer := tg.issuer(t, patient)
	leases := make([]issuers.Lease, 4)
	for n := range leases {
		leases[n] = newLease(tg)
		leases[n].IssueDeadline = time.Now().Add(time.Hour)
	}
	for n, err := range crowd(t, tg, issuer, leases) {
		if err != nil {
			t.Errorf("lease %d: %v", n, err)
		}
	}
	if commits := ask[int](t, tg, committedIn); commits != len(leases) {
		t.Errorf("%d commits for %d users", commits, len(leases))
	}
}

// A call that hangs keeps those behind it no longer than its patience.
func TestUsersDontWaitForACallThatHangs(t *testing.T) {
	tg := newTarget(t, options{})
	issuer := tg.issuer(t, patient, func(c *postgres.Config) { c.MaxConnections = 2 })
	held, other := newLease(tg), newLease(tg)
	held.IssueDeadline, other.IssueDeadline = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
	door := tg.brokerConn(t, tg.databases[0])
	run(t, door, fmt.Sprintf("BEGIN; SELECT daypass.bar_user('%s', '%s')", held.ID, held.Installation))
	var making sync.WaitGroup
	var heldErr error
	making.Go(func() { _, heldErr = issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: held}) })
	hangs(t, tg)
	u := issue(t, issuer, other)
	if !exists(t, tg, u.name()) {
		t.Error("the other one's user is missing")
	}
	run(t, door, "COMMIT")
	making.Wait()
	if !errors.Is(heldErr, issuers.ErrLate) {
		t.Errorf("a create that met its revocation: %v, want %v", heldErr, issuers.ErrLate)
	}
}

func TestCreateUsersTakesOneOfEach(t *testing.T) {
	tg := newTarget(t, options{})
	conn := tg.brokerConn(t, tg.databases[0])
	one, two := newLease(tg), newLease(tg)
	call := func(leases, roles, verifiers, ends, deadlines string) string {
		return fmt.Sprintf("SELECT daypass.create_users(%s, '%s', %s, %s, %s, %s)", leases, one.Installation, roles, verifiers, ends, deadlines)
	}
	both := fmt.Sprintf("ARRAY['%s', '%s']", one.ID, two.ID)
	const roles, ends, deadlines = "ARRAY['deployer', 'deployer']", "ARRAY[now() + '1h', now() + '1h']", "ARRAY[now() + '1m', now() + '1m']"
	verifiers := fmt.Sprintf("ARRAY['%[1]s', '%[1]s']", benchVerifier)
	for sql, want := range map[string]string{
		call("'{}'", "'{}'", "'{}'", "'{}'", "'{}'"):                                                             "DP005",
		call(both, "ARRAY['deployer']", verifiers, ends, deadlines):                                              "DP005",
		call(both, roles, fmt.Sprintf("ARRAY['%s', NULL]", benchVerifier), ends, deadlines):                      "DP005",
		call(both, "ARRAY[NULL, 'deployer']", verifiers, ends, deadlines):                                        "DP005",
		call(both, roles, verifiers, ends, "ARRAY[now() + '1m', NULL]"):                                          "DP005",
		call(both, roles, verifiers, "'{NULL,NULL}'", deadlines):                                                 "DP005",
		call(fmt.Sprintf("'[0:1]={%s,%s}'", one.ID, two.ID), roles, verifiers, ends, deadlines):                  "DP005",
		call(fmt.Sprintf("ARRAY[[%s],[%s]]", quoted(one.ID), quoted(two.ID)), roles, verifiers, ends, deadlines): "DP005",
		call(both, roles, verifiers, ends, "ARRAY[now() + '1m', now() - interval '1s']"):                         "DP001",
		call(both, "ARRAY['deployer', 'unknown']", verifiers, ends, deadlines):                                   "DP004",
		call(fmt.Sprintf("ARRAY['%[1]s', '%[1]s']", one.ID), roles, verifiers, ends, deadlines):                  "DP003",
	} {
		if _, err := conn.Exec(t.Context(), sql); code(err) != want {
			t.Errorf("%s: %v, want %s", sql, err, want)
		}
	}
	if made := ask[int](t, tg, "SELECT count(*) FROM daypass.users"); made != 0 {
		t.Errorf("%d users were made by calls that were refused", made)
	}
	for _, inner := range []string{"make_user", "check_user", "usable_role"} {
		if ask[bool](t, tg, "SELECT bool_or(has_function_privilege($1, oid, 'EXECUTE')) FROM pg_proc WHERE proname = $2 AND pronamespace = 'daypass'::regnamespace", tg.setup.BrokerUser, inner) {
			t.Errorf("the broker's account may call %s by itself", inner)
		}
	}
}

func quoted(text string) string { return "'" + text + "'" }
