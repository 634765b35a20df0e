// Package clients runs what stands in other people's pipelines against a whole
// broker: the GitHub Action as a runner starts it, the GitLab component's scripts,
// the shell function, and every example of the pages about CI systems, word by
// word. What a machine lacks (node, dash) skips its test, and says so.
package clients

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
)

const root = "../.."

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// lookFor skips a test on a machine without a program.
func lookFor(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("this machine has no %s, which this test runs (hint: make deps)", program)
	}
	return path
}

var builtClient = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "daypass-clients-")
	if err != nil {
		return "", err
	}
	build := exec.Command("sh", root+"/scripts/pack.sh", dir+"/daypass") // as it is released
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building daypass: %w\n%s", err, out)
	}
	return dir, nil
})

// programs is a folder with the built daypass, for a job's PATH.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := builtClient()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// job is a CI job that the broker of a test knows: a folder of its own, and
// nothing in its environment but what a runner gives it.
type job struct {
	t   *testing.T
	b   *brokertest.Broker
	dir string
	env map[string]string
}

func newJob(t *testing.T, b *brokertest.Broker) *job {
	t.Helper()
	dir := t.TempDir()
	return &job{t: t, b: b, dir: dir, env: map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": dir, "TMPDIR": dir, "DAYPASS_URL": b.URL, "DAYPASS_AUDIENCE": brokertest.Audience,
	}}
}

// onGitHub gives the job what GitHub's runner gives one that may ask for a token
// of these claims.
func (j *job) onGitHub(claims string) *job {
	j.t.Helper()
	j.env["GITHUB_ACTIONS"] = "true"
	j.env["ACTIONS_ID_TOKEN_REQUEST_URL"] = j.b.Provider.URL() + "/token?profile=" + devkit.ProfileGitHub + claims
	j.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "runner-token"
	j.env["RUNNER_TEMP"] = j.path("temp")
	if err := os.Mkdir(j.path("temp"), 0o700); err != nil {
		j.t.Fatal(err)
	}
	for _, name := range []string{"OUTPUT", "ENV", "STATE", "STEP_SUMMARY"} {
		j.env["GITHUB_"+name] = j.write(name, "")
	}
	return j
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

func (j *job) write(name, text string) string {
	j.t.Helper()
	if err := os.WriteFile(j.path(name), []byte(text), 0o600); err != nil {
		j.t.Fatal(err)
	}
	return j.path(name)
}

func (j *job) read(name string) string {
	j.t.Helper()
	text, err := os.ReadFile(j.path(name))
	if err != nil {
		j.t.Fatal(err)
	}
	return string(text)
}

// run runs a program to its end, and gives what it printed and its exit code.
func (j *job) run(program string, args ...string) (out string, code int) {
	j.t.Helper()
	ctx, cancel := context.WithTimeout(j.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = j.dir
	cmd.Env = []string{}
	for name, value := range j.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		j.t.Fatalf("running %s: %v\n%s", program, err, text.String())
	}
	return text.String(), cmd.ProcessState.ExitCode()
}

// mustRun is a run that has to succeed.
func (j *job) mustRun(program string, args ...string) string {
	j.t.Helper()
	out, code := j.run(program, args...)
	if code != 0 {
		j.t.Fatalf("%s %s: exit code %d\n%s", program, strings.Join(args, " "), code, out)
	}
	return out
}

// nothingLives waits until no credential lives on the broker's targets.
func nothingLives(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	live := func() []string { return append(b.DB.Live(), b.Other.Live()...) }
	for end := time.Now().Add(time.Minute); len(live()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still alive on the targets: %v", live())
		}
	}
}
