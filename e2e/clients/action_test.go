package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

const actionDir = root + "/.github/actions/daypass"

// blocks reads what a runner reads from its files.
func blocks(t *testing.T, text string) map[string]string {
	t.Helper()
	found := map[string]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		name, delimiter, ok := strings.Cut(lines[i], "<<")
		if !ok {
			if lines[i] != "" {
				t.Fatalf("not a block: %q", lines[i])
			}
			continue
		}
		from := i + 1
		for i++; i < len(lines) && lines[i] != delimiter; i++ {
		}
		found[name] = strings.Join(lines[from:i], "\n")
	}
	return found
}

var addMask = regexp.MustCompile(`(?m)^::add-mask::(.*)$`)

// action runs the built action as a runner does: with the inputs for the step, or
// with a state for what follows the job.
func (j *job) action(inputs, state map[string]string) (string, int) {
	j.t.Helper()
	for name := range j.env {
		if strings.HasPrefix(name, "INPUT_") || strings.HasPrefix(name, "STATE_") {
			delete(j.env, name)
		}
	}
	for name, value := range inputs {
		j.env["INPUT_"+strings.ToUpper(name)] = value
	}
	for name, value := range state {
		j.env["STATE_"+name] = value
	}
	program, err := filepath.Abs(actionDir + "/dist/index.js")
	if err != nil {
		j.t.Fatal(err)
	}
	return j.run(lookFor(j.t, "node"), program)
}

// TestAction: main and post of the GitHub Action against a whole broker, with the
// token of a demo provider.
func TestAction(t *testing.T) {
	t.Parallel()
	lookFor(t, "node")
	b := brokertest.New(t, brokertest.Options{})
	j := newJob(t, b).onGitHub("")
	out, code := j.action(map[string]string{
		"grants": "payments/deploy-db 5m\npayments/other-db\npayments/sign\n", "export-env": "true", "files": "OTHER_PASSWORD: db/other.pass",
	}, nil)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	outputs, env := blocks(t, j.read("OUTPUT")), blocks(t, j.read("ENV"))
	for _, name := range []string{"PGUSER", "PGPASSWORD", "OTHER_USER", "OTHER_PASSWORD", "DAYPASS_JWT"} {
		if outputs[name] == "" || env[name] != outputs[name] {
			t.Errorf("%s is an output of %d bytes, and a variable of %d", name, len(outputs[name]), len(env[name]))
		}
	}
	if got := j.read("temp/db/other.pass"); got != outputs["OTHER_PASSWORD"] {
		t.Errorf("the file has %d bytes", len(got))
	}
	if info, err := os.Stat(j.path("temp/db/other.pass")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if len(b.DB.Live()) != 1 || len(b.Other.Live()) != 1 {
		t.Errorf("alive: %v, %v", b.DB.Live(), b.Other.Live())
	}
	masks := map[string]bool{}
	for _, m := range addMask.FindAllStringSubmatch(out, -1) {
		masks[m[1]] = true
	}
	state := blocks(t, j.read("STATE"))
	for what, secret := range map[string]string{"password": outputs["PGPASSWORD"], "other": outputs["OTHER_PASSWORD"], "jwt": outputs["DAYPASS_JWT"], "session": state["session"]} {
		b.Hide(secret)
		if secret == "" || !masks[secret] {
			t.Errorf("%s, of %d bytes, is not masked", what, len(secret))
		}
		if strings.Contains(addMask.ReplaceAllString(out, ""), secret) {
			t.Errorf("%s stands in the log", what)
		}
	}

	if out, code = j.action(nil, state); code != 0 || !strings.Contains(out, "credentials given back") {
		t.Errorf("post: exit code %d\n%s", code, out)
	}
	nothingLives(t, b)
	if _, err := os.Stat(j.path("temp/db/other.pass")); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	if a := b.Do(http.MethodPost, api.PathExchange, state["session"], map[string]any{"grants": []string{"payments/deploy-db"}}); a.Status/100 == 2 {
		t.Errorf("the session token still opens something: %d", a.Status)
	}
	// A runner that starts it once more meets no error.
	if out, code = j.action(nil, state); code != 0 {
		t.Errorf("post once more: exit code %d\n%s", code, out)
	}
}

// TestActionDenied: what the author of a workflow sees of a denial.
func TestActionDenied(t *testing.T) {
	t.Parallel()
	lookFor(t, "node")
	b := brokertest.New(t, brokertest.Options{})
	j := newJob(t, b).onGitHub("&claim.ref=refs/heads/feature")
	out, code := j.action(map[string]string{"grants": "payments/deploy-db"}, nil)
	if code != 3 {
		t.Errorf("exit code %d, want 3\n%s", code, out)
	}
	var matcher struct {
		ProblemMatcher []struct{ Pattern []struct{ Regexp string } }
	}
	text, err := os.ReadFile(actionDir + "/matcher.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &matcher); err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile("(?m)" + matcher.ProblemMatcher[0].Pattern[0].Regexp)
	if lines := pattern.FindAllString(out, -1); len(lines) != 1 || !strings.Contains(lines[0], "claims that did not match: ref") {
		t.Errorf("lines for the problem matcher: %q, in\n%s", lines, out)
	}
	summary := j.read("STEP_SUMMARY")
	if !strings.Contains(summary, "refs/heads/feature") || !strings.Contains(summary, "request id") {
		t.Errorf("the summary:\n%s", summary)
	}
	if j.read("OUTPUT") != "" {
		t.Error("something is set")
	}
	// The client's own denials are annotated by the same matcher.
	if out, code := j.run(programs(t)+"/daypass", "exec", "--grant", "payments/deploy-db", "--", "true"); code != 3 || len(pattern.FindAllString(out, -1)) != 1 {
		t.Errorf("daypass exec: exit code %d\n%s", code, out)
	}
}

// TestNodeTests runs the tests that are written for Node's own runner.
func TestNodeTests(t *testing.T) {
	t.Parallel()
	node := lookFor(t, "node")
	var files []string
	for _, pattern := range []string{actionDir + "/test/*.test.js", root + "/clients/npm/test/*.test.js"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	cmd := exec.CommandContext(t.Context(), node, append([]string{"--test"}, files...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !regexp.MustCompile(`(?m)pass [1-9][0-9]+$`).Match(out) {
		t.Errorf("no test ran:\n%s", out)
	}
}

// TestNPMExample runs the example of the npm package's page.
func TestNPMExample(t *testing.T) {
	t.Parallel()
	node := lookFor(t, "node")
	b := brokertest.New(t, brokertest.Options{})
	j := newJob(t, b).onGitHub("")
	page, err := os.ReadFile(root + "/clients/npm/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```js\n")
	example, _, found := strings.Cut(example, "```\n")
	source, err := filepath.Abs(root + "/clients/npm/src/index.js")
	if err != nil || !found {
		t.Fatalf("no example: %v", err)
	}
	j.write("example.mjs", strings.Replace(example, "'@daypass/client'", "'"+source+"'", 1))
	if out := j.mustRun(node, "example.mjs"); !strings.Contains(out, "connecting as ") || strings.Contains(out, "undefined") {
		t.Errorf("it printed %s", out)
	}
	if len(b.DB.Calls()) < 2 {
		t.Errorf("calls on the target: %v", b.DB.Calls())
	}
	nothingLives(t, b)
}

// TestGitLabKilled: what after_script gives back of a job whose exec was killed.
func TestGitLabKilled(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": pipelinePolicies}})
	j := pipelineJob(t, b)
	component := object{"component": "$CI_SERVER_FQDN/daypass/daypass/daypass@main", "inputs": object{
		"url": b.URL, "audience": brokertest.Audience, "grants": "payments/deploy-db", "image": "x", "command": "kill -9 $PPID; echo $PPID",
	}}
	work := one(t, gitlabComponent(j, component))
	work["script"] = append([]any{"set +e"}, append(list(work["script"]), "echo exec ended with $?")...)
	out := j.gitlabJob(work)
	if !strings.Contains(out, "exec ended with 137") || !strings.Contains(out, "revoked") {
		t.Errorf("the log:\n%s", out)
	}
	nothingLives(t, b)
}
