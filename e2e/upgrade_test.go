package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// previous builds the daypassd of the commit that testdata/previous names, once
// for a run of the tests, or says why it can't.
var previous = sync.OnceValues(func() (program, missing string) {
	named, err := os.ReadFile("testdata/previous")
	if err != nil {
		return "", err.Error()
	}
	commit, _, _ := strings.Cut(string(named), "\n")
	commit = strings.TrimSpace(commit)
	if out, err := exec.Command("git", "cat-file", "-e", commit+"^{commit}").CombinedOutput(); err != nil {
		return "", "this copy of the project has no history with commit " + commit + " in it: " + strings.TrimSpace(string(out))
	}
	source := filepath.Join(programs, "previous")
	if err := os.Mkdir(source, 0o700); err != nil {
		return "", err.Error()
	}
	archive := exec.Command("git", "archive", "--format=tar", commit)
	archive.Dir = ".."
	unpack := exec.Command("tar", "-x", "-C", source)
	if unpack.Stdin, err = archive.StdoutPipe(); err != nil {
		return "", err.Error()
	}
	var said, unpacking bytes.Buffer
	archive.Stderr, unpack.Stderr = &said, &unpacking
	if err := unpack.Start(); err != nil {
		return "", err.Error()
	}
	if err := archive.Run(); err != nil {
		return "", "git archive: " + err.Error() + said.String()
	}
	if err := unpack.Wait(); err != nil {
		return "", "tar: " + err.Error() + unpacking.String()
	}
	// Without its place in it, what was built once is built never again.
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(programs, "daypassd-previous"), "./cmd/daypassd")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return "", "building: " + string(out)
	}
	return "daypassd-previous", ""
})

// TestRollingUpgrade: a broker of the version before works on beside one of this
// version, on the schema of this one. Each renews, and takes back, what the other
// made, and this one takes over what that one leaves when it is killed.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	program, missing := previous()
	if program == "" {
		if strings.Contains(missing, "has no history") {
			t.Skip(missing)
		}
		t.Fatal(missing)
	}
	f := newFleet(t)
	now := f.config
	text, err := os.ReadFile(now)
	if err != nil {
		t.Fatal(err)
	}
	f.config = f.write("previous.yaml", strings.Replace(string(text), ", max_connections: 8", "", 1)) // a key that it doesn't know
	before := f.startProgram(program)
	f.config = now
	before.awaitProbe()
	early := before.mustExchange("10m", "app/db", "app/jwt") // on record before this version ever ran
	after := f.start()
	for _, c := range []struct {
		name        string
		made, other *broker
		out         *api.ExchangeResponse
	}{
		{"of before, on record before the upgrade", before, after, early},
		{"of before", before, after, before.mustExchange("10m", "app/db", "app/jwt")},
		{"of after", after, before, after.mustExchange("10m", "app/db", "app/jwt")},
	} {
		id := c.out.Credentials[0].LeaseID
		if status, body, err := c.other.call(http.MethodPost, api.PathLeases+"/"+id+"/renew", c.out.Session.Token, nil); err != nil || status != http.StatusOK {
			t.Errorf("%s: renewed by the other: %d %s %v", c.name, status, body, err)
		}
		// More of the same session, by the token that the other one gave.
		status, body, err := c.other.call(http.MethodPost, api.PathExchange, c.out.Session.Token, map[string]any{"grants": []string{"app/db"}})
		var more api.ExchangeResponse
		if err != nil || status != http.StatusOK || json.Unmarshal(body, &more) != nil {
			t.Fatalf("%s: the session at the other: %d %s %v", c.name, status, body, err)
		}
		leaks.secret("session token", more.Session.Token)
		for _, m := range more.Credentials {
			for _, name := range m.Secret {
				leaks.secret(m.Kind+" "+name, m.Values[name])
			}
		}
		if status, body, err := c.made.call(http.MethodPost, api.PathSessionRevoke, more.Session.Token, nil); err != nil || status != http.StatusOK {
			t.Errorf("%s: given back where the session began: %d %s %v", c.name, status, body, err)
		}
		if status, body, err := c.other.call(http.MethodPost, api.PathLeases+"/"+id+"/revoke", f.admin, nil); err != nil || status != http.StatusOK || !strings.Contains(string(body), `"revoked"`) {
			t.Errorf("%s: revoked by the other: %d %s %v", c.name, status, body, err)
		}
	}
	// At once, through both; and what the former leaves behind when it is killed.
	var asking sync.WaitGroup
	for i := range 16 {
		b := before
		if i%2 == 1 {
			b = after
		}
		asking.Go(func() {
			if _, problem, err := b.patient("15s", "app/db", "app/jwt"); err != nil || problem != nil {
				t.Errorf("exchange: %v %v", problem, err)
			}
		})
	}
	asking.Wait()
	before.mustExchange("15s", "app/db")
	before.kill()
	after.mustExchange("15s", "app/db")
	// What lives for ten minutes is given back; the rest comes to its end.
	conn := f.connect(f.name)
	defer conn.Close(t.Context()) //nolint:errcheck // its work is done
	if _, err := conn.Exec(t.Context(), `UPDATE leases SET expires_at = now() + interval '1 second', max_expires_at = now() + interval '1 second', due_at = now() WHERE state = 'active' AND kind = 'jwt'`); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
}
