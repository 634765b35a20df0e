package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// client runs the built daypass against a broker.
func (b *broker) client(args ...string) (stdout string, err error) {
	b.f.t.Helper()
	cmd := command(b.f.t.Context(), filepath.Join(programs, "daypass"), args...)
	cmd.Env = append(os.Environ(), "DAYPASS_URL="+b.url)
	out, err := cmd.CombinedOutput()
	leaks.line(strings.ReplaceAll(string(out), "\r", ""))
	return string(out), err
}

// TestExec: a job's command with credentials in its environment, its log masked,
// and everything taken back when it ends, killed or not.
func TestExec(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	psql := f.server.Bin("psql")
	for name, end := range map[string]string{"ends": "exit 7", "is killed": "kill -9 $$"} {
		t.Run(name, func(t *testing.T) {
			token := f.write("job.token", f.jobToken())
			marker := filepath.Join(f.dir, "password "+name)
			out, err := b.client("exec", "--token-file", token, "--grant", "app/db", "--grant", "app/jwt", "--", "sh", "-c",
				`echo "password: $PGPASSWORD, jwt: $DAYPASS_JWT, session: $DAYPASS_SESSION_TOKEN"; `+psql+` -XAtqc 'SELECT session_user'; printf %s "$PGPASSWORD" > '`+marker+`'; `+end)
			if err == nil {
				t.Error("the command's failure was not passed on")
			}
			if name == "ends" && !strings.Contains(err.Error(), "7") {
				t.Errorf("its exit code was not passed on: %v", err)
			}
			password, err := os.ReadFile(marker)
			if err != nil || len(password) == 0 {
				t.Fatalf("the command had no password: %v\n%s", err, out)
			}
			leaks.secret("password in a job's log", string(password))
			if !strings.Contains(out, "\ndp_") || strings.Contains(out, string(password)) || strings.Contains(out, "eyJ") || !strings.Contains(out, "session: \n") {
				t.Errorf("the job's log:\n%s", strings.ReplaceAll(out, string(password), "THE PASSWORD"))
			}
			if n := f.users(); n != 0 {
				t.Errorf("%d users outlived the command", n)
			}
		})
	}
	execIsKilled(f, b)
	f.nothingLeft()
}

// execIsKilled: what exec can't give back any more is taken back all the same, while
// its command goes on.
func execIsKilled(f *fleet, b *broker) {
	f.t.Helper()
	token, begun, end := f.write("job.token", f.jobToken()), filepath.Join(f.dir, "begun"), filepath.Join(f.dir, "end")
	cmd := command(f.t.Context(), filepath.Join(programs, "daypass"), "exec", "--token-file", token, "--grant", "app/db", "--", "sh", "-c",
		`touch "$1"; until [ -e "$2" ]; do sleep 0.1; done; rm "$1"`, "sh", begun, end)
	cmd.Env = append(os.Environ(), "DAYPASS_URL="+b.url)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	defer func() {
		f.write("end", "")
		eventually(f.t, "the command has ended", func() bool { return !exists(begun) })
	}()
	eventually(f.t, "the command runs", func() bool { return exists(begun) })
	if n := f.users(); n != 1 {
		f.t.Errorf("%d users while the command runs", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(f.t, "the credentials are taken back", func() bool { return f.users() == 0 })
	if !exists(begun) {
		f.t.Error("the command ended with exec: nothing was shown")
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// TestAdminCommands: what an admin does with the client.
func TestAdminCommands(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	admin := f.write("admin.token", f.admin)
	id := b.mustExchange("10m", "app/db").Credentials[0].LeaseID
	run := func(args ...string) string {
		t.Helper()
		out, err := b.client(append(args, "--token-file", admin)...)
		if err != nil {
			t.Fatalf("daypass %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out := run("lease", "ls"); !strings.Contains(out, id) {
		t.Errorf("lease ls:\n%s", out)
	}
	var before, after api.Lease
	for _, step := range []struct {
		into *api.Lease
		args []string
	}{{&before, []string{"lease", "show", id}}, {&after, []string{"lease", "renew", id}}} {
		if err := json.Unmarshal([]byte(run(append(step.args, "--output", "json")...)), step.into); err != nil {
			t.Fatal(err)
		}
	}
	if before.State != "active" || after.ExpiresAt.Before(before.ExpiresAt) {
		t.Errorf("%s until %s, after a renewal until %s", before.State, before.ExpiresAt, after.ExpiresAt)
	}
	if out := run("lease", "revoke", id); !strings.Contains(out, "revoked") {
		t.Errorf("lease revoke:\n%s", out)
	}
	if out := run("audit", "ls", "--subject", id); !strings.Contains(out, "lease.revoked") || !strings.Contains(out, "e2e") {
		t.Errorf("audit ls:\n%s", out)
	}
	f.nothingLeft()
}

// TestDemo runs what `make demo` runs: it checks each of its steps itself.
func TestDemo(t *testing.T) {
	t.Parallel()
	demo := command(t.Context(), "sh", "../scripts/demo.sh")
	demo.Env = append(os.Environ(), "DAYPASS_DEMO_BIN="+programs)
	out, err := demo.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "What happened") {
		t.Fatalf("%v\n%s", err, out)
	}
}
