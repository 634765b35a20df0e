package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/e2e/pages"
)

// step runs one example: the first of its page that no other step has taken and
// that has a text in it. A step without a page prepares those behind it.
type step struct {
	page, has string
	run       func(w *world, e pages.Example)
}

// world is what the pages speak of.
type world struct {
	t     *testing.T // of all steps; f's is that of one
	f     *fleet
	b     *broker
	dir   string
	env   map[string]string
	said  string // what the last example printed
	words map[string]string

	steps   []step
	claimed map[int]pages.Example // by the step that runs it
	parts   []pages.Example       // of the configuration, which the broker runs with

	hook  *httptest.Server // rotates secrets
	calls chan string      // what it was sent
}

const exampleAudience = "https://ci.daypass.example.com"

func newWorld(t *testing.T, all []pages.Example) *world {
	t.Helper()
	f := &fleet{t: t, server: devtest.Postgres(t), dir: t.TempDir(), name: fmt.Sprintf("e2e_%d_%d", os.Getpid(), fleets.Add(1)), looking: look(t)}
	var err error
	if f.provider, err = devkit.StartProvider(t.Context(), devkit.ProviderConfig{Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.provider.Close() })
	w := &world{t: t, f: f, dir: f.dir, steps: steps(), claimed: map[int]pages.Example{}, words: map[string]string{}}
	for _, folder := range []string{"policies", "bin", "etc/daypass", "etc/ssh", "var/lib/daypass", "run/secrets", "hsm/tokens", "dist", ".daypass", ".ssh"} {
		if err := os.MkdirAll(filepath.Join(w.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pin", "target.password", "run/secrets/rotator-token", "run/secrets/gitlab-revocation", "run/secrets/hsm-pin"} {
		f.write(name, "an-own-secret-of-tests\n")
	}
	w.calls = make(chan string, 100)
	w.hook = httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.calls <- string(body)
	}))
	t.Cleanup(w.hook.Close)
	f.write("etc/daypass/internal-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.hook.Certificate().Raw})))
	f.write("db.url", f.server.DSN(f.name))
	token := f.provider.URL() + "/token?profile=github&claim.environment=production"
	w.env = map[string]string{
		"PATH": w.path("bin") + ":" + programs + ":" + filepath.Dir(f.server.Bin("psql")) + ":" + os.Getenv("PATH"),
		"HOME": w.dir, "TMPDIR": w.dir, "USER": "ana", "GORACE": "atexit_sleep_ms=0", "no_proxy": "127.0.0.1",
		"DAYPASS_AUDIENCE": exampleAudience, "DAYPASS_ADMIN_TOKEN_FILE": "admin.token",
		"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": token, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-token",
	}
	for _, e := range all {
		w.words[e.Page] += e.Text
	}
	return w
}

// settings is the configuration that the pages' own parts are put into.
func (w *world) settings() string {
	f := w.f
	return w.local(fmt.Sprintf(`
listen: 127.0.0.1:0
external_url: https://daypass.example.org
insecure_http: true
database: {url_file: DIR/db.url}
allow_software_keys: true
keys:
  signing: {type: software, dir: DIR/keys, pin_file: DIR/pin}
  sealing: {type: software, dir: DIR/keys, pin_file: DIR/pin}
providers:
  - {name: github, type: github, issuer: %q, audience: %q}
  - {name: gitlab, type: gitlab, issuer: %q, audience: %q}
issuers:
  - name: payments-db
    type: postgres
    target: {host: 127.0.0.1, port: %d, database: %s, sslmode: disable}
    admin: {user: %s, password_file: DIR/target.password}
    roles:
      deployer: {member_of: [%s_deploy], owner: %s_owner, scram_iterations: 1, used_by: [{policy: payments, environment: production}]}
  - {name: release-jwt, type: jwt}
policies: {dir: DIR/policies}
limits: {job_requests: 100000, job_leases: 100000, leak_requests: 1000}
`, f.provider.IssuerURL("github"), exampleAudience, f.provider.IssuerURL("gitlab"), exampleAudience, f.on(f.target()).Port(), f.target(), f.account(), f.name, f.name))
}

// claim finds the step that runs an example.
func (w *world) claim(e pages.Example) bool {
	for i, s := range w.steps {
		if _, taken := w.claimed[i]; !taken && s.page == e.Page && strings.Contains(e.Text, s.has) {
			w.claimed[i] = e
			return true
		}
	}
	return false
}

// walk runs the steps, in their order.
func (w *world) walk() {
	t := w.f.t
	for i, s := range w.steps {
		e, there := w.claimed[i]
		name := "prepare " + s.has
		if s.page != "" {
			name = s.page + ":" + strconv.Itoa(e.Line)
			if !there {
				t.Errorf("%s has no example with %q in it any more", s.page, s.has)
				continue
			}
		}
		passed := t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			w.f.t = t
			s.run(w, e)
		})
		w.f.t = t
		if s.page == "" && !passed {
			t.FailNow() // what follows needs it
		}
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) read(name string) string {
	w.f.t.Helper()
	text, err := os.ReadFile(w.path(name))
	if err != nil {
		w.f.t.Fatal(err)
	}
	return string(text)
}

// program puts a stand-in for a program of others into the path.
func (w *world) program(name, script string) {
	w.f.t.Helper()
	if err := os.WriteFile(w.path("bin/"+name), []byte("#!/bin/sh\nset -eu\n"+script+"\n"), 0o700); err != nil {
		w.f.t.Fatal(err)
	}
}

// local puts this world's places in the place of the pages' ones.
func (w *world) local(text string) string {
	url := "https://daypass.example.com"
	if w.b != nil {
		url = w.b.url
	}
	return strings.NewReplacer(
		"DIR/", w.dir+"/", "/etc/daypass/daypass.yaml", w.path("daypass.yaml"), "/etc/", w.dir+"/etc/", "/run/secrets/", w.dir+"/run/secrets/",
		"/var/lib/daypass/", w.dir+"/var/lib/daypass/", "/var/lib/softhsm", w.path("hsm"), "/var/log/", w.dir+"/",
		"https://daypass.example.com", url, "2bb80d53…", hashOfSecret,
	).Replace(text)
}

// sh runs an example as a script, which has to succeed, and keeps what it printed.
func (w *world) sh(script string, replace ...string) string {
	w.f.t.Helper()
	return w.exits(0, script, replace...)
}

var told = regexp.MustCompile(`(?m)^::add-mask::.*$`)

func (w *world) exits(want int, script string, replace ...string) string {
	w.f.t.Helper()
	ctx, cancel := context.WithTimeout(w.f.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := w.command(ctx, script, replace...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	w.said = out.String()
	// What GitHub's runner is told to mask, it takes out of the log.
	leaks.line(told.ReplaceAllString(strings.ReplaceAll(w.said, "\r", ""), ""))
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
		w.f.t.Fatalf("%v, want exit code %d\n%s\n%s", err, want, script, w.said)
	}
	return w.said
}

func (w *world) command(ctx context.Context, script string, replace ...string) *exec.Cmd {
	cmd := command(ctx, "sh", "-euc", w.local(strings.NewReplacer(replace...).Replace(script)))
	cmd.Dir = w.dir
	cmd.Env = []string{}
	for name, value := range w.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdin = strings.NewReader(targetPassword + "\n" + targetPassword + "\n") // of psql's \password
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

const targetPassword = "password-of-the-brokers-account"

// until runs what never ends by itself until it has printed something.
func (w *world) until(want, script string, replace ...string) {
	w.f.t.Helper()
	ctx, cancel := context.WithCancel(w.f.t.Context())
	defer cancel()
	cmd := w.command(ctx, script, replace...)
	out, err := os.Create(w.path("endless.out"))
	if err != nil {
		w.f.t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // it was read by another door
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	eventually(w.f.t, script+" prints "+want, func() bool { return strings.Contains(w.read("endless.out"), want) })
	cancel()
	<-ended
	leaks.line(w.read("endless.out"))
}

// json reads what the last example printed.
func (w *world) json() (v any) {
	w.f.t.Helper()
	if err := json.Unmarshal([]byte(w.said), &v); err != nil {
		w.f.t.Fatalf("%v\n%s", err, w.said)
	}
	return v
}

// script is the step of an example that is a script, and has to succeed.
func script(w *world, e pages.Example) { w.sh(e.Text) }

// prints is the step of an output that a page shows below a command: each of its
// lines has to be like one of what the last example printed.
func prints(w *world, e pages.Example) {
	w.f.t.Helper()
	for line := range strings.Lines(e.Text) {
		line = strings.TrimSpace(line)
		if line == "" || line == "…" || strings.HasPrefix(line, "$ ") {
			continue
		}
		if !like(line).MatchString(w.said) {
			w.f.t.Errorf("no line is like\n%s\nin\n%s", line, w.said)
		}
	}
}

var number = regexp.MustCompile(`[0-9…]`)

var column = regexp.MustCompile(`\s{2,}`)

// like makes a pattern of a line of a page: words with a digit in them stand for
// any, blanks for any number of blanks, and of a row of a table counts that it has
// as many columns.
func like(line string) *regexp.Regexp {
	if cells := column.Split(line, -1); len(cells) > 3 && number.MatchString(line) {
		return regexp.MustCompile(`(?m)^\S+(?: \S+)*` + strings.Repeat(`\s{2,}\S+(?: \S+)*`, len(cells)-1) + `[ \t]*$`)
	}
	words := strings.Fields(line)
	for i, word := range words {
		if number.MatchString(word) {
			words[i] = `\S+`
		} else {
			words[i] = regexp.QuoteMeta(word)
		}
	}
	return regexp.MustCompile(`(?m)^\s*` + strings.Join(words, `[ \t]+`) + `[ \t]*$`)
}

// sameShape says where an answer isn't of the shape that a page shows: a member
// that it lacks, or one of another type. What pages leave out, they may.
func sameShape(at string, shown, got any) string {
	switch shown := shown.(type) {
	case map[string]any:
		members, is := got.(map[string]any)
		if !is {
			return at + " is no object"
		}
		for name, value := range shown {
			other, there := members[name]
			if !there {
				return at + "." + name + " isn't there"
			}
			if wrong := sameShape(at+"."+name, value, other); wrong != "" {
				return wrong
			}
		}
	case []any:
		items, is := got.([]any)
		if !is || len(items) == 0 && len(shown) > 0 {
			return at + " is no list, or an empty one"
		}
		for i := range min(len(shown), len(items)) {
			if wrong := sameShape(at+"[]", shown[i], items[i]); wrong != "" {
				return wrong
			}
		}
	default:
		if fmt.Sprintf("%T", shown) != fmt.Sprintf("%T", got) {
			return fmt.Sprintf("%s is a %T, the page shows a %T", at, got, shown)
		}
	}
	return ""
}

// answers is the step of a page's JSON: the last example printed such.
func answers(w *world, e pages.Example) {
	w.f.t.Helper()
	var shown any
	if err := json.Unmarshal([]byte(e.Text), &shown); err != nil {
		w.f.t.Fatal(err)
	}
	if wrong := sameShape("", shown, w.json()); wrong != "" {
		w.f.t.Errorf("%s\n%s", wrong, w.said)
	}
}

// shellcheck looks at all examples for a shell at once.
func (w *world) shellcheck() {
	w.f.t.Helper()
	program, err := exec.LookPath("shellcheck")
	if err != nil {
		w.f.t.Log("this machine has no shellcheck: the examples are run, and not checked (hint: make deps)")
		return
	}
	args := []string{"-s", "sh", "-S", "warning", "-e", "SC1091,SC2034,SC2154"}
	for i, e := range w.claimed {
		if e.Language == "sh" {
			args = append(args, w.f.write(strings.NewReplacer("/", "_").Replace(e.Page)+"-"+strconv.Itoa(i)+".sh", e.Text))
		}
	}
	if out, err := command(w.f.t.Context(), program, args...).CombinedOutput(); err != nil {
		w.f.t.Errorf("%v\n%s", err, out)
	}
}
