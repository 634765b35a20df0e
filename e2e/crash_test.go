package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers/postgres"
)

// TestCrashLeavesNothing kills the broker (SIGKILL, in a real process) at every
// step of an exchange and of a revocation, starts another, and looks whether
// anything is left.
func TestCrashLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, step := range []string{
		"before_reserve", "after_reserve", postgres.StepIssueBefore, postgres.StepIssueAfter, "before_activate", "after_activate",
		postgres.StepRevokeAfterBar, postgres.StepRevokeAfterCut, postgres.StepRevokeAfterHandOver, postgres.StepRevokeAfterDrop,
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			armed := filepath.Join(f.dir, "armed")
			b := f.start("DAYPASS_CHECKPOINT="+step, "DAYPASS_CHECKPOINT_ARMED="+armed)
			b.awaitProbe()
			before := f.count(f.name, `SELECT count(*) FROM leases`)
			f.write("armed", "")
			out, problem, err := b.exchange("5s", "app/db")
			if strings.HasPrefix(step, "revoke.") {
				if out == nil {
					t.Fatalf("exchange: %v %v", problem, err)
				}
			} else if err == nil {
				t.Fatalf("the broker lived through %s and answered %v %v", step, out, problem)
			}
			b.awaitExit()
			if err := os.Remove(armed); err != nil {
				t.Fatal(err)
			}
			wantLease := 1
			if step == "before_reserve" {
				wantLease = 0
			}
			if n := f.count(f.name, `SELECT count(*) FROM leases`) - before; n != wantLease {
				t.Errorf("%d leases on record after the crash, want %d", n, wantLease)
			}
			if n := f.users(); n > wantLease {
				t.Errorf("%d users on the target, and %d leases on record", n, wantLease)
			}
			f.start()
			f.nothingLeft()
		})
	}
}

// TestStoppedBetweenReserveAndIssue: a broker sleeps between Reserve and Issue
// while another revokes its lease. When it wakes up it must make nothing.
func TestStoppedBetweenReserveAndIssue(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"after_reserve", postgres.StepIssueBefore} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			sleeper := f.start("DAYPASS_CHECKPOINT="+step+":STOP", "DAYPASS_CHECKPOINT_ARMED="+filepath.Join(f.dir, "armed"))
			sleeper.awaitProbe()
			other := f.start()
			f.write("armed", "")
			var asking sync.WaitGroup
			asking.Go(func() {
				if out, _, err := sleeper.exchange("10m", "app/db"); err == nil && out != nil {
					t.Errorf("a revoked lease was handed out: %s", out.Credentials[0].LeaseID)
				}
			})
			var id string
			eventually(t, "the lease is on record", func() bool {
				return f.looking.at(t.Context(), f.server.DSN(f.name), func(conn *pgx.Conn) error {
					return conn.QueryRow(t.Context(), `SELECT id FROM leases WHERE state = 'issuing'`).Scan(&id)
				}) == nil
			})
			eventually(t, "the broker sleeps", func() bool { return processState(t, sleeper.cmd.Process.Pid) == "T" })
			status, body, err := other.call(http.MethodPost, api.PathLeases+"/"+id+"/revoke", f.admin, map[string]string{"reason": "e2e"})
			if err != nil || status != http.StatusAccepted {
				t.Fatalf("revoking: %d %s %v: it may not be called done while the create may still be on its way", status, body, err)
			}
			sleeper.signal(syscall.SIGCONT)
			asking.Wait()
			sleeper.kill()
			if n := f.users(); n != 0 {
				t.Errorf("%d users were made behind the revocation", n)
			}
			f.nothingLeft()
		})
	}
}

func processState(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fields[0]
}

// TestTwoBrokers share a database: everything is taken back, once, though one
// of them dies in the middle of it.
func TestTwoBrokers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first, second := f.start(), f.start()
	first.awaitProbe()
	var asking sync.WaitGroup
	given := make([]string, 40)
	for i := range given {
		b := first
		if i%2 == 1 {
			b = second
		}
		asking.Go(func() {
			out, problem, err := b.patient("15s", "app/db", "app/jwt") // long enough for a busy machine to hand all of them out
			if err != nil || problem != nil {
				t.Errorf("exchange: %v %v", problem, err)
				return
			}
			given[i] = out.Credentials[0].LeaseID
		})
	}
	asking.Wait()
	const back = `SELECT count(*) FROM leases WHERE state = 'revoked' AND id = ANY($1)`
	eventually(t, "the first ones are taken back", func() bool { return f.count(f.name, back, given) >= 5 })
	first.kill()
	f.nothingLeft()
	if n := f.count(f.name, back, given); n != len(given) {
		t.Errorf("%d users were taken back, want %d", n, len(given))
	}
}

// TestTargetDown: nothing is left of what could not be issued, and what came to
// its end meanwhile is taken back when the target is there again.
func TestTargetDown(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	out := b.mustExchange("15s", "app/db") // lives until the target is away, on a slow machine too
	f.closeDatabase(f.target())
	if out, problem, err := b.exchange("10m", "app/jwt", "app/db"); err != nil || problem == nil || problem.Code != api.CodeIssuerFailed || problem.Grant != "app/db" {
		t.Errorf("exchange without a target: %v %v %v", out, problem, err)
	}
	eventually(t, "a try to take it back fails", func() bool {
		return f.count(f.name, `SELECT attempts FROM leases WHERE id = $1`, out.Credentials[0].LeaseID) > 0
	})
	if n := f.count(f.name, `SELECT count(*) FROM leases WHERE state = 'active'`); n != 0 {
		t.Errorf("%d leases are alive", n)
	}
	f.openDatabase(f.target())
	f.nothingLeft()
}

// TestTargetPasswordChanged behind our back: it is read again, and said.
func TestTargetPasswordChanged(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	f.setTargetPassword("second-password-of-the-account")
	f.sql("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '`+f.account()+`'`)
	eventually(t, "an exchange works again", func() bool {
		out, _, err := b.exchange("1s", "app/db")
		return err == nil && out != nil
	})
	if !strings.Contains(strings.Join(b.lines(), "\n"), "password") {
		t.Error("nothing in the log speaks of the password")
	}
	f.nothingLeft()
}

// TestDatabaseDown: no credential without a record of it.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	f.closeDatabase(f.name)
	for _, grant := range []string{"app/db", "app/jwt"} {
		if out, problem, err := b.exchange("10m", grant); err != nil || problem == nil || problem.Code != api.CodeUnavailable || problem.Status != http.StatusServiceUnavailable {
			t.Errorf("%s without a database: %v %v %v", grant, out, problem, err)
		}
	}
	if status, body, err := b.call(http.MethodGet, api.PathReady, "", nil); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %s %v", status, body, err)
	}
	if status, _, err := b.call(http.MethodGet, api.PathLive, "", nil); err != nil || status != http.StatusOK {
		t.Errorf("/livez: %d %v: a broker that is restarted for its database's sake helps nobody", status, err)
	}
	if n := f.users(); n != 0 {
		t.Errorf("%d users were made without a record", n)
	}
	f.openDatabase(f.name)
	eventually(t, "it works again", func() bool {
		out, _, err := b.exchange("1s", "app/db")
		return err == nil && out != nil
	})
	f.nothingLeft()
}

// TestCopyOfTheDatabase beside the original, on the same target: it says that it
// is one, and touches nothing.
func TestCopyOfTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	out := b.mustExchange("15s", "app/db") // lives until the broker is dead, on a slow machine too
	b.kill()
	original := f.config
	dump := f.run(f.server.Bin("pg_dump"), "-Fc", "-f", f.dir+"/dump", f.server.DSN(f.name))
	restored, cloned := f.name+"_restored", f.name+"_cloned"
	if err := f.server.CreateDatabase(t.Context(), restored); err != nil {
		t.Fatal(err)
	}
	dump += f.run(f.server.Bin("pg_restore"), "--no-owner", "-d", f.server.DSN(restored), f.dir+"/dump")
	f.clone(cloned)
	eventually(t, "the lease has come to its end", func() bool { return time.Now().After(out.Credentials[0].ExpiresAt) })
	for _, database := range []string{restored, cloned} {
		copied := f.writeConfig(database+".yaml", database)
		f.write("target.password", "first-password-of-the-account")
		started, err := f.tryStart(copied)
		if err == nil {
			started.kill()
			t.Fatalf("a broker started on %s", database)
		}
		if !strings.Contains(err.Error(), "copy") || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: what it says is no help: %v", database, err)
		}
		if f.users() != 1 {
			t.Fatalf("the copy took the original's user away\n%s", dump)
		}
	}
	f.config = original
	f.start()
	f.nothingLeft()
}

func (f *fleet) run(program string, args ...string) string {
	f.t.Helper()
	out, err := command(f.t.Context(), program, args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

// TestSessionGivenBackWhileAnotherBrokerHoldsIt: what one broker issued, the
// other takes back.
func TestSessionGivenBackAtTheOtherBroker(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first, second := f.start(), f.start()
	first.awaitProbe()
	out := first.mustExchange("10m", "app/db", "app/jwt")
	status, body, err := second.call(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil)
	if err != nil || status != http.StatusOK || !strings.Contains(string(body), `"state":"`+string(leases.Revoked)+`"`) {
		t.Fatalf("revoking at the other broker: %d %s %v", status, body, err)
	}
	f.nothingLeft()
}
