package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
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
	f.sql("postgres", `CREATE DATABASE `+copied+` TEMPLATE `+f.name)
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
	if r := second.ready(); f.count(copied, compared) == 0 && (r.Ready || !strings.Contains(r.Checks["restore"], "app-db") || strings.Contains(r.Checks["restore"], "app-jwt")) {
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
		got, _, err := second.exchange("10m", "app/db")
		return err == nil && got != nil
	})

	// The original knows of nothing, and does no harm.
	f.config = original
	first := f.start()
	users := f.users()
	got, problem, err := first.exchange("10m", "app/db")
	if err != nil || got != nil || problem.Code != api.CodeIssuerFailed {
		t.Fatalf("the original issues: %+v %v", problem, err)
	}
	if n := f.users(); n != users {
		t.Errorf("the original changed the %d users of the target: %d", users, n)
	}
	eventually(t, "it says why", func() bool { return strings.Contains(strings.Join(first.lines(), "\n"), "later epoch") })
	first.kill()
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
	f.sql("postgres", `CREATE DATABASE `+copied+` TEMPLATE `+f.name)
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
