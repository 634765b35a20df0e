package e2e

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/e2e/pages"
)

// steps are all that this test runs, in their order.
func steps() []step {
	return slices.Concat(setUp(), inJobs(), ofClients(), ofTargets(), ofOperators(), ofSecrets(), ofKeys(), atTheEnd())
}

const migrate = `[ -n "$PGUSER" ] && [ -z "${DAYPASS_SESSION_TOKEN:-}" ] && psql -XAtc 'SELECT session_user' && printf %s "$PGPASSWORD" > got.password`

// inJob is the step of what a job runs: what migrate.sh got doesn't stand in the log.
func inJob(w *world, e pages.Example) {
	w.f.t.Helper()
	out := w.sh(e.Text)
	password := w.read("got.password")
	leaks.secret("password in a job's log", password)
	if !strings.Contains(out, "dp_") || len(password) < 20 {
		w.f.t.Errorf("it had no credentials:\n%s", out)
	}
}

func inJobs() []step {
	return []step{
		{"", "stand-ins", func(w *world, _ pages.Example) {
			w.f.write("migrate.sh", "#!/bin/sh\nset -eu\n"+migrate+"\n")
			if err := os.Chmod(w.path("migrate.sh"), 0o700); err != nil {
				w.f.t.Fatal(err)
			}
			w.b.awaitTarget("payments-db")
		}},
		{"docs/logs.md", "daypass exec", inJob},
		{"docs/redaction.md", "daypass exec", inJob},
		{"docs/logs.md", "--github-env", func(w *world, e pages.Example) {
			w.env["GITHUB_ENV"] = w.f.write("github.env", "")
			lines := regexp.MustCompile(`- run: ([^#\n]+)`).FindAllStringSubmatch(e.Text, -1)
			w.sh(lines[0][1])
			delete(w.env, "GITHUB_ENV")
			exports := regexp.MustCompile(`(?m)^(\w+)<<(\w+)\n(.*)\n\w+$`).ReplaceAllString(w.read("github.env"), "export $1='$3'")
			inJob(w, pages.Example{Text: exports + "\n" + lines[1][1]})
		}},
		{"docs/logs.md", "build.log > clean.log", func(w *world, e pages.Example) {
			secret := w.leaked("build.log")
			w.f.write("secrets.txt", "a-value-that-somebody-else-gave-out\n")
			w.f.write("patterns.txt", "itk_[0-9a-f]{8}\n")
			w.sh("echo a-value-that-somebody-else-gave-out cust_00001234 itk_00001234 >> build.log")
			for i, line := range strings.Split(strings.TrimSpace(e.Text), "\n") {
				out := w.sh(line)
				if i == 0 {
					out = w.read("clean.log")
				}
				masked := [][]string{{secret}, {secret, "somebody-else"}, {secret, "cust_", "itk_"}}[i]
				if slices.ContainsFunc(masked, func(value string) bool { return strings.Contains(out, value) }) || !strings.Contains(out, "connecting") {
					w.f.t.Errorf("%s\n%s", line, out)
				}
			}
		}},
		{"docs/logs.md", "vector", func(w *world, e pages.Example) {
			secret := w.leaked("runner.log")
			w.program("vector", "cat")
			w.program("your-shipper", "cat")
			w.program("journalctl", "cat '"+w.path("runner.log")+"'; exec sleep 600")
			for line := range strings.Lines(e.Text) {
				w.until("[daypass:redacted]", line)
				if strings.Contains(w.read("endless.out"), secret) {
					w.f.t.Error("the shipper got a secret")
				}
			}
		}},
		{"docs/logs.md", "--job", func(w *world, e pages.Example) { w.jobLogs(e) }},
		{"docs/leaks.md", "/v1/leaks", func(w *world, e pages.Example) {
			out := w.exchange("payments/deploy-db")
			w.f.write("build.log", base64.StdEncoding.EncodeToString([]byte(out.Credentials[0].Values["password"]))+"\n"+out.Credentials[0].Values["password"]+"\n")
			w.env["DAYPASS_SESSION_TOKEN"] = out.Session.Token
			defer delete(w.env, "DAYPASS_SESSION_TOKEN")
			w.program("tail", `exec cat "$2"`)
			commands := strings.Split("\n"+e.Text, "\n# ")[1:]
			w.sh("# " + commands[1])
			if masked := w.sh("# " + commands[2]); !strings.Contains(masked, "[daypass:redacted]") {
				w.f.t.Errorf("it isn't masked: %s", masked)
			}
			w.until(`"rules"`, "# "+commands[3])
			w.sh("# " + commands[0]) // the answer is compared
			if err := os.Remove(w.path("bin/tail")); err != nil {
				w.f.t.Fatal(err)
			}
		}},
		{"docs/leaks.md", `"leaks"`, answers},
		{"docs/scan.md", "daypass scan", func(w *world, e pages.Example) { w.scan(e) }},
		{"docs/scan.md", "PLACE", prints},
	}
}

// awaitTarget waits until the broker has tried a target.
func (b *broker) awaitTarget(name string) {
	b.f.t.Helper()
	eventually(b.f.t, "the target is tried", func() bool {
		status, body, err := b.call(http.MethodGet, api.PathReady, "", nil)
		return err == nil && status == http.StatusOK && strings.Contains(string(body), `"`+name+`":"ok"`)
	})
}

// leaked writes a log with a password in it that lives, as it is and in base64.
func (w *world) leaked(name string) string {
	w.f.t.Helper()
	secret := w.exchange("payments/deploy-db").Credentials[0].Values["password"]
	w.words["leaked"] = secret
	w.f.write(name, "connecting with "+secret+"\n")
	return secret
}

// exchange asks with a token of GitHub's.
func (w *world) exchange(grants ...string) *api.ExchangeResponse {
	w.f.t.Helper()
	w.sh("daypass exchange --format json " + strings.Join(grants, " ") + " > given.json")
	out := &api.ExchangeResponse{}
	if err := json.Unmarshal([]byte(w.read("given.json")), out); err != nil {
		w.f.t.Fatal(err)
	}
	leaks.secret("session token", out.Session.Token)
	for _, c := range out.Credentials {
		for _, name := range c.Secret {
			leaks.secret(c.Kind+" "+name, c.Values[name])
		}
	}
	return out
}

func (w *world) scan(e pages.Example) {
	w.leaked("build.log")
	secret := w.words["leaked"]
	w.sh(`git init -q . && printf 'dist\n' > .git/info/exclude && printf 'PGPASSWORD=%s\n' '` + secret + `' > deploy.sh && git add deploy.sh &&
git -c user.name=e2e -c user.email=e2e@example.com commit -qm deploy`)
	w.program("kubectl", "printf 'password: %s\\n' $(printf %s '"+secret+"' | base64 -w0)")
	w.program("docker", "cd '"+w.dir+"'; tar -cf - deploy.sh")
	lines := strings.Split(strings.TrimSpace(e.Text), "\n")
	exports, first := lines[0]+"\n", ""
	for _, line := range lines[1:] {
		if line == "" {
			continue
		}
		if out := w.exits(1, exports+line); strings.Contains(out, secret) || !strings.Contains(out, "postgres") {
			w.f.t.Errorf("%s\n%s", line, out)
		}
		first = cmp.Or(first, w.said)
	}
	w.said = first
}
