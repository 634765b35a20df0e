package main

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/x509"
)

// tests runs with one private Postgres for all of them.
type tests struct{ *testing.M }

func (m tests) Run() int { return devtest.Main(m.M) }

// TestMain makes the test binary the program itself, as a command `daypassd`.
func TestMain(m *testing.M) { testscript.Main(tests{m}, map[string]func(){"daypassd": main}) }

// cleanEnv is the environment without what configures Daypass.
func cleanEnv(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DAYPASS") && !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "SUDO_") && !strings.HasPrefix(v, "SOFTHSM2_") {
			env = append(env, v)
		}
	}
	return append(env, more...)
}

// runProgram runs the program to its end, which has to be a good one.
func runProgram(t *testing.T, env []string, args ...string) (stdout string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "daypassd", args...)
	cmd.Env = cleanEnv(env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("daypassd %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// deadline bounds every wait; a test that needs it all has failed.
const deadline = 90 * time.Second

// eventually polls until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", deadline, what)
		}
	}
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// configText is a small configuration; the files it names are written by writeConfig.
const configText = `listen: 127.0.0.1:0
external_url: http://127.0.0.1:8080
database: {url_file: DIR/db, max_connections: 8}
allow_software_keys: true
keys:
  signing: {type: software, dir: DIR/keys, pin_file: DIR/pin}
  sealing: {type: software, dir: DIR/keys, pin_file: DIR/pin}
providers:
  - {name: github, type: github, issuer: "PROVIDER/github", audience: daypass-test}
issuers:
  - name: payments-db
    type: postgres
    target: {host: 127.0.0.1, port: PGPORT, database: TARGET, sslmode: disable}
    admin: {user: TARGET_broker, password_file: DIR/target.password}
    roles:
      deployer: {member_of: [TARGET_deploy], owner: TARGET_owner, used_by: [{policy: payments, environment: production}]}
  - name: release-jwt
    type: jwt
    used_by: [{policy: payments, environment: production}]
policies: {dir: DIR/policies}
`

const targetPassword = "s3cret-of-the-broker"

// place is where one broker's files and databases are.
type place struct {
	dir      string
	config   string // path
	database string // URL of the broker's database
	target   string // URL of the target, for its superuser
	name     string // the target's database, and the prefix of its roles
}

// newPlace makes databases, the broker's with its schema, and a configuration in dir.
func newPlace(tb testing.TB, dir, provider string) place {
	tb.Helper()
	return newPlaceOn(tb, devtest.Migrated(tb), dir, provider)
}

func newPlaceOn(tb testing.TB, database, dir, provider string) place {
	tb.Helper()
	server := devtest.Postgres(tb)
	p := place{dir: dir, config: filepath.Join(dir, "daypass.yaml"), database: database, target: devtest.Database(tb)}
	u, err := url.Parse(p.target)
	if err != nil {
		tb.Fatal(err)
	}
	p.name = strings.TrimPrefix(u.Path, "/")
	write(tb, filepath.Join(dir, "db"), p.database+"\n")
	write(tb, filepath.Join(dir, "pin"), "1234567890abcdef\n")
	write(tb, filepath.Join(dir, "target.password"), targetPassword+"\n")
	policy, err := devFiles.ReadFile("dev/payments.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	text := strings.Replace(string(policy), "  - name: gitlab-main\n    provider: gitlab\n", "  - name: gitlab-main\n    provider: github\n", 1)
	text = regexp.MustCompile(`(?s)  - name: (?:gitlab-main|deploy-api).*?\n\n`).ReplaceAllString(text, "\n")
	text = strings.ReplaceAll(text, ", deploy-api", "") // tests that want its issuer bring it
	// Behind a symlink, which is switched as a whole: a plain folder has to be still first.
	write(tb, filepath.Join(dir, "policies.1", "payments.yaml"), strings.ReplaceAll(text, ", gitlab-main", ""))
	if err := os.Symlink("policies.1", filepath.Join(dir, "policies")); err != nil {
		tb.Fatal(err)
	}
	write(tb, p.config, strings.NewReplacer("DIR", dir, "PROVIDER", provider, "PGPORT", fmt.Sprint(server.Port()), "TARGET", p.name).Replace(configText))
	return p
}

func TestScripts(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(testing.TB)
			if !ok {
				return errors.New("the scripts run without a testing.TB")
			}
			database := devtest.Database
			if tb.Name() != "TestScripts/database" {
				database = devtest.Migrated
			}
			p := newPlaceOn(tb, database(tb), env.WorkDir, "http://127.0.0.1:1")
			env.Vars = append(env.Vars, "GORACE="+os.Getenv("GORACE"), "DB="+p.database, "TARGET="+p.target, "NAME="+p.name, "OSUSER="+regexp.QuoteMeta(me.Username),
				"PATH="+env.Getenv("PATH")+string(filepath.ListSeparator)+filepath.Dir(devtest.Postgres(tb).Bin("psql")))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "capture": capture, "edit": edit},
	})
}

// exits CODE COMMAND…: the command ends with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, not %s\n%s", got, args[0], ts.ReadFile("stderr"))
	}
}

// capture NAME FILE REGEXP: the first match becomes an environment variable.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture NAME FILE REGEXP")
	}
	found := regexp.MustCompile(args[2]).FindString(ts.ReadFile(args[1]))
	if found == "" {
		ts.Fatalf("%s doesn't match %q", args[1], args[2])
	}
	ts.Setenv(args[0], found)
}

// edit FROM TO OLD NEW: a copy of a file with something else in it.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: edit FROM TO OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[2]) {
		ts.Fatalf("%s has no %q", args[0], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Replace(text, args[2], args[3], 1)), 0o600))
}

// walk visits every command that a person can find.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, below := range cmd.Commands() {
		walk(below, visit)
	}
}

// TestHelp: every command says what it does and shows an example, and the
// examples are command lines that the program takes.
func TestHelp(t *testing.T) {
	seen := 0
	walk(newRoot(), func(cmd *cobra.Command) {
		seen++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: short %q, example %q", path, cmd.Short, cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(regexp.MustCompile(`[|>#].*| {4,}.*`).ReplaceAllString(strings.TrimSpace(line), ""))
			if len(words) == 0 || words[0] != "daypassd" {
				continue
			}
			root := newRoot()
			target, rest, err := root.Find(words[1:])
			if err == nil {
				err = target.ParseFlags(rest)
			}
			if err == nil {
				err = target.ValidateArgs(target.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: its example %q: %v", path, strings.TrimSpace(line), err)
			}
		}
		var help bytes.Buffer
		root := newRoot()
		root.SetOut(&help)
		root.SetArgs(append(strings.Fields(path)[1:], "--help"))
		if err := root.Execute(); err != nil || !strings.Contains(help.String(), "Usage:") || !strings.Contains(help.String(), "Examples:\n  ") {
			t.Errorf("%s --help: %v\n%s", path, err, help.String())
		}
	})
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
}

// trialChain is the certificate of an authority.
func trialChain(t *testing.T) string {
	t.Helper()
	chain, err := x509.SelfSigned(t.Context(), issuertest.NewSigner(t, "ES256"), pkix.Name{CommonName: "Trial"}, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return string(chain)
}

// TestExample: the example in the repository passes the program's own check, with
// the files that it names in place.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../daypass.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := regexp.MustCompile(`(: )(/(?:etc|run|usr|var)/)`).ReplaceAllString(string(data), "${1}"+dir+"$2")
	cert, key := certificate(t, "example")
	for _, path := range regexp.MustCompile(regexp.QuoteMeta(dir)+`/[^\s,}]+`).FindAllString(text, -1) {
		switch {
		case strings.HasSuffix(path, "/policies") || strings.HasSuffix(path, "/keys"):
		case strings.HasSuffix(path, "/key.pem"):
			write(t, path, key)
		case strings.HasSuffix(path, "-chain.pem"):
			write(t, path, trialChain(t))
		case strings.HasSuffix(path, ".pem"):
			write(t, path, cert)
		default:
			write(t, path, "x\n")
		}
	}
	policy, err := devFiles.ReadFile("dev/payments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "/etc/daypass/policies/payments.yaml"), string(policy))
	config := write(t, filepath.Join(dir, "daypass.yaml"), text)
	out := runProgram(t, nil, "config", "check", "--config", config)
	if !strings.Contains(out, "daypass.yaml: ok; policies ok: 3 grants, digest ") {
		t.Errorf("it said %q", out)
	}
}
