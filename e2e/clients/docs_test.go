package clients

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/e2e/pages"
)

// pipelinePolicies give the grants of the page to jobs of both of the broker's
// providers: fakes of other CI systems bring tokens of the first.
const pipelinePolicies = `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
  - name: gitlab
    provider: gitlab
    claims: {project_id: "20", namespace_id: "72", ref: main, ref_type: branch, ref_protected: "true", pipeline_source: push}
grants:
  - {name: deploy-db, jobs: [release, gitlab], issuer: db, role: deployer, ttl: 10m}
`

// block is one example of a page.
type block struct {
	section, language, text string
}

// blocksOf reads the examples of a page.
func blocksOf(t *testing.T, page string) (found []block) {
	t.Helper()
	examples, err := pages.Of(root, page)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		found = append(found, block{e.Section, e.Language, e.Text})
	}
	return found
}

// psql stands for what uses the credentials: it notes with what it was called, and
// prints the password, as a careless script would.
const psql = `#!/bin/sh
[ -n "$PGUSER" ] && [ -n "$PGPASSWORD" ] || { echo 'no credentials' >&2; exit 1; }
printf '%s\n' "$PGPASSWORD" >> 'DIR/used'
[ -z "$DAYPASS_JOB_TOKEN$DAYPASS_SESSION_TOKEN" ] || echo token >> 'DIR/tokens'
echo "connected as $PGUSER with $PGPASSWORD"
`

// pipelineJob is a job on a machine with daypass, curl, a psql and a terraform.
func pipelineJob(t *testing.T, b *brokertest.Broker) *job {
	t.Helper()
	j := newJob(t, b)
	delete(j.env, "DAYPASS_URL") // the examples say it
	delete(j.env, "DAYPASS_AUDIENCE")
	if err := os.Mkdir(j.path("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"psql", "terraform"} {
		j.program(name, strings.ReplaceAll(psql, "DIR", j.dir))
	}
	function, err := os.ReadFile(root + "/clients/sh/daypass.sh")
	if err != nil {
		t.Fatal(err)
	}
	j.write("daypass.sh", string(function))
	j.env["PATH"] = j.path("bin") + ":" + programs(t) + ":" + j.env["PATH"]
	return j
}

func (j *job) program(name, text string) {
	j.t.Helper()
	if err := os.WriteFile(j.path("bin/"+name), []byte(text), 0o700); err != nil {
		j.t.Fatal(err)
	}
}

// addresses puts this broker in the place of the examples' one.
func (j *job) addresses(text string) string {
	text = strings.ReplaceAll(text, "https://ci.daypass.example.com", brokertest.Audience)
	return strings.ReplaceAll(text, "https://daypass.example.com", j.b.URL)
}

// finish wants that the credentials were used, that the log doesn't show them
// where it is said to be masked, and that they were given back.
func (j *job) finish(out string, masked bool) {
	j.t.Helper()
	used, err := os.ReadFile(j.path("used"))
	if err != nil {
		j.t.Fatalf("nothing used the credentials: %v\n%s", err, out)
	}
	for password := range strings.Lines(string(used)) {
		j.b.Hide(strings.TrimSpace(password))
		if masked && strings.Contains(out, strings.TrimSpace(password)) {
			j.t.Error("the password stands in the log")
		}
	}
	if _, err := os.Stat(j.path("tokens")); masked && err == nil {
		j.t.Error("what the job runs has a token of its own")
	}
	nothingLives(j.t, j.b)
}

// TestPages runs every example of the page about CI systems, and those of the
// README, on fakes of these.
func TestPages(t *testing.T) {
	t.Parallel()
	lookFor(t, "curl")
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": pipelinePolicies}})
	on := map[string]func(j *job, text block) string{
		"GitHub Actions": runGitHub, "GitLab CI": runGitLab, "Buildkite": runBuildkite, "CircleCI": runCircle, "Bitbucket Pipelines": runBitbucket,
		"Jenkins": runJenkins, "Azure DevOps Pipelines": runAzure, "Kubernetes": runKubernetes, "Terraform": runTerraform,
	}
	ran := map[string]int{}
	for _, example := range blocksOf(t, "docs/ci.md") {
		if example.section == "curl and a shell" {
			continue // TestShell
		}
		run, known := on[example.section]
		if !known {
			t.Errorf("nothing runs the examples of the section %q", example.section)
			continue
		}
		ran[example.section]++
		t.Run(example.section, func(t *testing.T) {
			j := pipelineJob(t, b)
			example.text = j.addresses(example.text)
			out := run(j, example)
			j.finish(out, !strings.Contains(example.text, "daypass_get"))
		})
	}
	if len(ran) != len(on) {
		t.Errorf("sections with examples: %v", ran)
	}
	for _, example := range blocksOf(t, "README.md") {
		if example.section != "One example" {
			continue
		}
		t.Run("README", func(t *testing.T) {
			j := pipelineJob(t, b)
			example.text = j.addresses(example.text)
			if strings.Contains(example.text, "id_tokens") {
				j.finish(runGitLab(j, example), false)
				return
			}
			j.finish(runGitHub(j, example), true)
		})
	}
}

// TestShell runs the shell function and the other examples for curl, in every
// shell that is here.
func TestShell(t *testing.T) {
	t.Parallel()
	lookFor(t, "curl")
	examples := slices.DeleteFunc(blocksOf(t, "docs/ci.md"), func(b block) bool { return b.section != "curl and a shell" })
	if len(examples) != 3 {
		t.Fatalf("%d examples for curl, want 3", len(examples))
	}
	function, err := os.ReadFile(root + "/clients/sh/daypass.sh")
	if err != nil || string(function) != examples[0].text || strings.Count(examples[0].text, "\n") > 20 {
		t.Errorf("clients/sh/daypass.sh is not what the page shows, or has more than 20 lines: %v", err)
	}
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"payments.yaml": pipelinePolicies}})
	for _, shell := range shells() {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			start := func(claims map[string]any) *job {
				j := pipelineJob(t, b)
				j.env["DAYPASS_URL"] = b.URL
				j.env["DAYPASS_JOB_TOKEN"] = b.Token(devkit.ProfileGitHub, claims)
				return j
			}
			sh := func(j *job, script string) (string, int) { return j.run(shell[0], append(shell[1:], "-ec", script)...) }
			for _, example := range examples[1:] {
				j := start(nil)
				out, code := sh(j, example.text)
				if code != 0 {
					t.Fatalf("exit code %d\n%s", code, out)
				}
				j.finish(out, false)
			}
			j := start(nil)
			if out, code := sh(j, ". ./daypass.sh; daypass_get payments/deploy-db; psql >/dev/null; exit 7"); code != 7 {
				t.Errorf("the script's exit code became %d\n%s", code, out)
			}
			j.finish("", true)
			j = start(nil)
			if out, code := sh(j, ". ./daypass.sh; daypass_get payments/deploy-db; psql >/dev/null; kill -TERM $$; sleep 60"); code != 143 {
				t.Errorf("a script that was told to end: exit code %d\n%s", code, out)
			}
			j.finish("", true)
			j = start(map[string]any{"ref": "refs/heads/feature"})
			out, code := sh(j, `. ./daypass.sh; if daypass_get payments/deploy-db; then psql; else echo "went on with $? and <$PGPASSWORD>"; fi`)
			if code != 0 || !strings.Contains(out, "not_allowed") || !strings.Contains(out, "went on with 1 and <>") {
				t.Errorf("a denial: exit code %d\n%s", code, out)
			}
			if _, err := os.Stat(j.path("used")); err == nil {
				t.Error("a denial gave something")
			}
		})
	}
}

// shells are those on this machine, each with the arguments that make it one.
func shells() [][]string {
	found := [][]string{{"sh"}}
	for _, shell := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err == nil {
			found = append(found, shell)
		}
	}
	return found
}

// TestShellcheck looks at all that is written for shells.
func TestShellcheck(t *testing.T) {
	t.Parallel()
	shellcheck := lookFor(t, "shellcheck")
	j := &job{t: t, dir: t.TempDir(), env: map[string]string{"PATH": os.Getenv("PATH")}}
	for _, name := range []string{"sh", "gitlab"} {
		function, err := os.ReadFile(root + "/clients/" + name + "/daypass.sh")
		if err != nil {
			t.Fatal(err)
		}
		j.write("daypass.sh", string(function))
		j.mustRun(shellcheck, "-s", "sh", "daypass.sh")
	}
	for i, script := range compositeScripts(t) {
		j.write("composite.sh", script)
		if out, code := j.run(shellcheck, "-s", "sh", "-e", "SC1091", "composite.sh"); code != 0 {
			t.Errorf("step %d of daypass-run:\n%s", i, out)
		}
	}
}
