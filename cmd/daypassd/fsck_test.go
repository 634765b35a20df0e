package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/fsck"
)

// TestFsck: it says that all is well, and what isn't, and where, and what to do.
func TestFsck(t *testing.T) {
	t.Parallel()
	p := newPlace(t, t.TempDir(), "https://provider.example")
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, regexp.MustCompile(`(?s)  - name: payments-db.*?(  - name: release-jwt)`).ReplaceAllString(string(text), "$1"))
	// As for several hosts, of which the one that takes writes is wanted.
	write(t, filepath.Join(p.dir, "db"), p.database+"&target_session_attrs=read-write\n")
	runProgram(t, nil, "admin", "token", "create", "--config", p.config, "--role", "viewer", "--owner", "somebody", "--ttl", "1h")
	if out := runProgram(t, nil, "fsck", "--config", p.config); !strings.Contains(out, "admin tokens: looked at 1\n") || strings.Contains(out, "hint") {
		t.Errorf("all is well, and it said:\n%s", out)
	}
	conn, err := pgx.Connect(t.Context(), p.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	if _, err := conn.Exec(t.Context(), `UPDATE audit_events SET body = replace(body, 'viewer', 'operator')`); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"text", "json"} {
		cmd := exec.CommandContext(t.Context(), "daypassd", "fsck", "--config", p.config, "--output", output)
		cmd.Env = cleanEnv()
		out, err := cmd.Output()
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok || failed.ExitCode() != 1 || string(failed.Stderr) != "daypassd: 1 findings\n" {
			t.Errorf("%s: %v", output, err)
		}
		if output == "text" {
			if !regexp.MustCompile(`(?m)^event-forged: audit event evt_\w+: .* its body was changed\n  hint: `).Match(out) {
				t.Errorf("it said:\n%s", out)
			}
			continue
		}
		report := &fsck.Report{}
		if err := json.Unmarshal(out, report); err != nil || len(report.Findings) != 1 || report.Findings[0].Check != fsck.CheckEvent {
			t.Errorf("%v %+v", err, report)
		}
	}
}
