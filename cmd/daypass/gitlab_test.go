package main

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// runnerScript is how GitLab's runner has a shell run a job's lines (shells/bash.go of
// gitlab-org/gitlab-runner, re-stated): all of before_script and script in one eval,
// at the end of a pipe.
func runnerScript(lines ...string) string {
	script := "export CI=true\n" + strings.Join(lines, "\n") + "\n"
	return `trap exit 1 TERM
if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit
set +o noclobber
: | eval '` + strings.ReplaceAll(script, "'", `'"'"'`) + `'
exit 0
`
}

// What a job prints is masked in each shell that runners use, its exit code stays,
// and the session is given back.
func TestGitLabWrapper(t *testing.T) {
	wrapper, err := filepath.Abs("../../clients/gitlab/daypass.sh")
	if err != nil {
		t.Fatal(err)
	}
	log, err := newFakeLog()
	if err != nil {
		t.Fatal(err)
	}
	for name, shell := range map[string][]string{"sh": {"sh"}, "bash": {"bash"}, "busybox": {"busybox", "sh"}} {
		path, err := exec.LookPath(shell[0])
		if err != nil {
			continue // sh is everywhere
		}
		for _, test := range []struct {
			name, grants string
			lines        []string
			code         int
			want         string // printed after what the wrapper printed; with masks
		}{
			{
				"all is masked", "payments/deploy-db payments/other",
				[]string{
					`echo "user $PGUSER"`, `echo "out $PGPASSWORD"; echo "err $PGPASSWORD" >&2`, `printf %s "$PGPASSWORD" | base64`,
					`sh -c 'echo "child $PGPASSWORD"'`, `echo "token ${DAYPASS_JOB_TOKEN:-gone}"`, `set -x; : "$PGPASSWORD"; set +x 2>/dev/null`, `printf 'no line end'`,
				},
				0, "user dp_user\nout [daypass:redacted]\nerr [daypass:redacted]\n[daypass:redacted]\nchild [daypass:redacted]\ntoken gone\n",
			},
			{"a line that fails ends the job", "payments/deploy-db", []string{`echo one`, `(exit 7)`, `echo two`}, 7, "one\n"},
			{"so does exit", "payments/deploy-db", []string{`echo one; exit 0`, `echo two`}, 0, "one\n"},
			{"what is left running is not waited for long", "payments/deploy-db", []string{`(sleep 60 & echo $! >pid); echo done`}, 0, "done\n"},
			{"without credentials nothing runs", "payments/denied", []string{`echo one`}, 3, ""},
			{"without grants neither", "", []string{`echo one`}, 1, ""},
		} {
			if name != "sh" && test.code == 0 && test.name != "all is masked" || name == "busybox" && test.code != 0 {
				continue // one shell is enough for what doesn't depend on it
			}
			t.Run(name+" "+test.name, func(t *testing.T) {
				t.Parallel()
				fake := &fakeBroker{auditLog: log}
				server := httptest.NewServer(fake.routes())
				defer server.Close()
				cmd := exec.CommandContext(t.Context(), path, shell[1:]...)
				cmd.Dir = t.TempDir()
				cmd.Stdin = strings.NewReader(runnerScript(append([]string{`echo before; . "$WRAPPER"`}, test.lines...)...))
				cmd.Env = append(os.Environ(), "DAYPASS_URL="+server.URL, "DAYPASS_JOB_TOKEN="+jobToken, "DAYPASS_GRANTS="+test.grants,
					"WRAPPER="+wrapper, "TMPDIR="+cmd.Dir, "DAYPASS_DRAIN_SECONDS=1")
				var out, said lockedBuffer
				cmd.Stdout, cmd.Stderr = &out, &said
				_ = cmd.Run()
				if pid, err := os.ReadFile(filepath.Join(cmd.Dir, "pid")); err == nil {
					_ = exec.CommandContext(t.Context(), "kill", strings.TrimSpace(string(pid))).Run()
				}
				want := test.code
				if want == 7 { // bash makes 1 of it in the runner's script, with or without the wrapper
					bare := exec.CommandContext(t.Context(), path, shell[1:]...)
					bare.Stdin = strings.NewReader(runnerScript(test.lines...))
					_ = bare.Run()
					want = bare.ProcessState.ExitCode()
				}
				if got := cmd.ProcessState.ExitCode(); got != want {
					t.Errorf("exit code %d, want %d", got, want)
				}
				if got := out.String(); !strings.HasPrefix(got, "before\n"+test.want) || strings.Contains(got, "two\n") || strings.Contains(got+said.String(), "quotes") {
					t.Errorf("printed:\n%s\non standard error:\n%s", got, said.String())
				}
				if strings.HasPrefix(test.name, "all") && !strings.HasSuffix(out.String(), "no line end") {
					t.Errorf("the end is lost:\n%s", out.String())
				}
				if granted := test.want != ""; granted != strings.Contains(fake.log(), "POST /v1/session/revoke") {
					t.Errorf("given back: want %v, in\n%s", granted, fake.log())
				}
				if left, _ := filepath.Glob(filepath.Join(cmd.Dir, "tmp.*")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// The template for `include` says what the script says.
func TestGitLabTemplate(t *testing.T) {
	script, err := os.ReadFile("../../clients/gitlab/daypass.sh")
	if err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile("../../clients/gitlab/daypass.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var jobs map[string]struct {
		Extends string
		Before  []string `yaml:"before_script"`
	}
	if err := yaml.Unmarshal(template, &jobs); err != nil {
		t.Fatal(err)
	}
	job := jobs[".daypass-script"]
	if len(job.Before) != 1 || job.Before[0] != string(script) || job.Extends != ".daypass" {
		t.Errorf("daypass.gitlab-ci.yml and daypass.sh differ; before_script is %q", job.Before)
	}
}
