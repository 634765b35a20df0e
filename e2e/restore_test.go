package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/devkit"
)

// ready is what /readyz says.
type ready struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"`
}

func (b *broker) ready() (r ready) {
	b.f.t.Helper()
	_, body, err := b.call(http.MethodGet, api.PathReady, "", nil)
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err != nil {
		b.f.t.Fatalf("/readyz: %v: %s", err, body)
	}
	return r
}

// TestRestore: a copy is promoted; what was given out before is void, what lived is
// taken back, and the original is refused by the target from then on.
func TestRestore(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	out := b.mustExchange("10m", "app/db", "app/jwt")
	unused := f.jobToken()
	b.kill()
	original, copied := f.config, f.name+"_promoted"
	f.clone(copied)
	promoted := f.writeConfig("promoted.yaml", copied)
	f.write("target.password", "first-password-of-the-account")

	plan := f.must("restore", "--config", promoted, "--promote", "--dry-run")
	if !strings.Contains(plan, "Nothing was done") || !strings.Contains(plan, "app-db") || f.count(copied, `SELECT epoch FROM installation`) != 0 {
		t.Fatalf("a dry run says and does: %s", plan)
	}
	if started, err := f.tryStart(promoted); err == nil {
		started.kill()
		t.Fatal("a copy works before it is promoted")
	} else if !strings.Contains(err.Error(), "--promote") || !strings.Contains(err.Error(), "--new-installation") {
		t.Errorf("what to do isn't said: %v", err)
	}
	done := f.must("restore", "--config", promoted, "--promote")
	if !strings.Contains(done, "keeps it") {
		t.Errorf("it doesn't say that the target keeps the epoch: %s", done)
	}
	if n := f.count(copied, `SELECT count(*) FROM audit_events WHERE type = 'installation.promoted'`); n != 1 {
		t.Errorf("%d events of the promotion", n)
	}
	f.config = promoted
	second := f.start()

	// The schedule compares it at once, unless it has already.
	const compared = `SELECT count(*) FROM reconciliations WHERE epoch > 0 AND ended_at IS NOT NULL`
	var r ready
	eventually(t, "the database answers", func() bool { r = second.ready(); return r.Checks["database"] == "ok" })
	if f.count(copied, compared) == 0 && (r.Ready || !strings.Contains(r.Checks["restore"], "app-db") || strings.Contains(r.Checks["restore"], "app-jwt")) {
		t.Errorf("ready before the target was compared: %+v", r)
	}
	for name, try := range map[string]struct{ method, path, token string }{
		"admin token":   {http.MethodGet, api.PathAudit, f.admin},
		"session token": {http.MethodGet, api.PathSession, out.Session.Token},
		"job token":     {http.MethodPost, api.PathExchange + "?grant=app/jwt", unused},
	} {
		status, body, err := second.call(try.method, try.path, try.token, nil)
		if err != nil || status != http.StatusUnauthorized || !strings.Contains(string(body), `"expired"`) {
			t.Errorf("the %s of before: %d %s %v", name, status, body, err)
		}
	}
	eventually(t, "what lived is taken back", func() bool { return f.users() == 0 })
	eventually(t, "it is ready once the target was compared", func() bool { return second.ready().Ready })
	eventually(t, "new job tokens work", func() bool { // one of the second of the promotion doesn't
		got, _, err := second.exchange("10m", "app/db", "app/jwt")
		return err == nil && got != nil
	})

	// The original knows of nothing, and does no harm.
	f.config = original
	first := f.start()
	users := f.users()
	var got *api.ExchangeResponse
	var problem *api.Problem
	eventually(t, "the original answers", func() bool { // the same request may be sent again
		var err error
		got, problem, err = first.exchange("10m", "app/db")
		return err == nil && (problem == nil || problem.Code != api.CodeUnavailable)
	})
	if got != nil || problem.Code != api.CodeIssuerFailed {
		t.Fatalf("the original issues: %+v", problem)
	}
	if n := f.users(); n != users {
		t.Errorf("the original changed the %d users of the target: %d", users, n)
	}
	eventually(t, "it says why", func() bool { return strings.Contains(strings.Join(first.lines(), "\n"), "later epoch") })
	first.kill()

	// What was signed after a backup is on record nowhere: with its key revoked it
	// verifies no more, and another key signs.
	second.kill()
	keys := f.count(copied, `SELECT count(*) FROM signing_keys WHERE ended_at IS NULL`)
	done = f.must("restore", "--config", promoted, "--promote", "--revoke-signing-keys")
	if n := f.count(copied, `SELECT count(*) FROM signing_keys WHERE state = 'revoked'`); n != keys || keys == 0 {
		t.Errorf("%d signing keys are revoked, want %d: %s", n, keys, done)
	}
	f.config = promoted
	third := f.start()
	eventually(t, "another key signs", func() bool {
		got, _, err := third.exchange("10m", "app/jwt")
		return err == nil && got != nil
	})
}

// TestNewInstallation: a clone gets an id of its own, beside the original.
func TestNewInstallation(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	b.mustExchange("10m", "app/db")
	b.kill()
	copied := f.name + "_staging"
	f.clone(copied)
	clone := f.writeConfig("staging.yaml", copied)
	f.write("target.password", "first-password-of-the-account")
	users := f.users()
	done := f.must("restore", "--config", clone, "--new-installation")
	if !strings.Contains(done, "1 are forgotten") {
		t.Errorf("it says: %s", done)
	}
	if n := f.count(copied, `SELECT count(*) FROM leases WHERE due_at IS NOT NULL`); n != 0 {
		t.Errorf("%d leases of the original are the clone's", n)
	}
	second := f.start()
	eventually(t, "what needs no target works", func() bool {
		got, _, err := second.exchange("5m", "app/jwt")
		return err == nil && got != nil
	})
	// The target wasn't set up for it.
	if got, _, err := second.exchange("5m", "app/db"); err != nil || got != nil {
		t.Errorf("it issues under another one's account: %v", err)
	}
	if n := f.users(); n != users {
		t.Errorf("the original had %d users, and has %d", users, n)
	}
}

// TestCopyOfTheFiles: a copy of the database server's files has the original's
// identity, and can't be told from it. When one of the two is promoted, the targets
// tell the other, which does no harm from then on.
func TestCopyOfTheFiles(t *testing.T) {
	t.Parallel()
	f, _ := newRuinedFleet(t, false)
	f.writeConfig("daypass.yaml", f.name)
	f.must("migrate", "--config", f.config)
	f.found()
	b := f.start()
	b.awaitProbe()
	b.mustExchange("10m", "app/db")
	b.kill()
	var data string
	conn := f.connect(f.name)
	err := conn.QueryRow(t.Context(), `SHOW data_directory`).Scan(&data)
	conn.Close(t.Context()) //nolint:errcheck // its work is done
	if err != nil {
		t.Fatal(err)
	}
	if err := f.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	home := filepath.Dir(data)
	copied := home + "-copy"
	t.Cleanup(func() {
		if err := os.RemoveAll(copied); err != nil {
			t.Error(err)
		}
	})
	f.run("cp", "-a", home, copied)
	again := func(dir string) *devkit.Postgres {
		server, err := devkit.StartPostgres(t.Context(), devkit.PostgresConfig{Dir: dir, TCP: true, Settings: map[string]string{"fsync": "off"}})
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	f.server = again(home) // which newRuinedFleet stops
	twin := *f
	twin.server = again(copied)
	t.Cleanup(func() {
		if err := twin.server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	twin.writeConfig("twin.yaml", f.name)
	f.write("target.password", "first-password-of-the-account")
	const same = `SELECT count(*) FROM installation WHERE system_identifier = (SELECT system_identifier::text FROM pg_control_system())
AND database_oid = (SELECT oid::text FROM pg_database WHERE datname = current_database())`
	if twin.count(f.name, same) != 1 || f.count(f.name, same) != 1 {
		t.Fatal("the copy can be told from the original, and this test shows nothing")
	}
	if done := twin.must("restore", "--config", twin.config, "--promote"); !strings.Contains(done, "keeps it") {
		t.Errorf("it doesn't say that the target keeps the epoch: %s", done)
	}
	second := twin.start()
	eventually(t, "what lived is taken back by the copy", func() bool { return f.users() == 0 })
	eventually(t, "the copy works", func() bool {
		got, _, err := second.exchange("10m", "app/db")
		return err == nil && got != nil
	})
	first := f.start()
	users := f.users()
	got, problem, err := first.exchange("10m", "app/db")
	if err != nil || got != nil || problem.Code != api.CodeIssuerFailed {
		t.Fatalf("the original issues: %+v %v", problem, err)
	}
	eventually(t, "it says why", func() bool { return strings.Contains(strings.Join(first.lines(), "\n"), "later epoch") })
	if n := f.users(); n != users || n == 0 {
		t.Errorf("the original changed the %d users of the target: %d", users, n)
	}
	first.kill()
	second.kill()
}
