package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/daypass/daypass/broker/keys/pkcs11"
)

// openDir is a folder that the private Postgres can reach, whoever runs the tests.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "daypassd-test-*") //nolint:usetesting // t.TempDir's parent is closed to the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// devBroker is what dev.env and the banner say.
type devBroker struct {
	*process
	url, tokenURL, config, keys string
	softHSM                     string // of dev.env: NAME=VALUE for the environment of admin commands
}

var assignment = regexp.MustCompile(`(?m)^(?:export )?([A-Z0-9_]+)='(.*)'$`)

func readDevEnv(t *testing.T, p *process, dir string) devBroker {
	t.Helper()
	var text []byte
	eventually(t, "dev.env and the banner are there", func() bool {
		if !p.running() {
			t.Fatalf("it ended: %s", strings.Join(p.log(), "\n"))
		}
		var err error
		text, err = os.ReadFile(filepath.Join(dir, "dev.env"))
		return err == nil && strings.Contains(p.out(), "Ctrl-C stops it")
	})
	b := devBroker{process: p}
	for _, m := range assignment.FindAllStringSubmatch(string(text), -1) {
		value := strings.ReplaceAll(m[2], `'\''`, "'")
		switch m[1] {
		case "DAYPASS_URL":
			b.url = value
		case "DAYPASS_DEV_TOKEN_URL":
			b.tokenURL = value
		case "DAYPASS_DEV_CONFIG":
			b.config = value
		case "DAYPASS_DEV_KEYS":
			b.keys = value
		case "SOFTHSM2_CONF":
			b.softHSM = m[1] + "=" + value
		}
	}
	if b.url == "" || b.tokenURL == "" || b.config == "" || b.keys == "" {
		t.Fatalf("dev.env:\n%s", text)
	}
	return b
}

// startDev starts `daypassd dev` in a folder that stays.
func startDev(t *testing.T, dir string, env ...string) devBroker {
	t.Helper()
	return readDevEnv(t, start(t, env, "dev", "--dir", dir), dir)
}

func (b devBroker) exchange(t *testing.T, query string) answer {
	t.Helper()
	token := call(t, http.MethodGet, b.tokenURL+"github", "")
	if token.StatusCode != http.StatusOK {
		t.Fatal(token.Status, token.body)
	}
	return exchange(t, b.url+"/v1/exchange?"+query, strings.TrimSpace(token.body))
}

// kid is the id of the signing key, as verifiers see it.
func (b devBroker) kid(t *testing.T) string {
	t.Helper()
	a := call(t, http.MethodGet, b.url+"/.well-known/jwks.json", "")
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal([]byte(a.body), &set); err != nil || len(set.Keys) == 0 {
		t.Fatal(a.body, err)
	}
	return set.Keys[0].Kid
}

func (b devBroker) installation(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(filepath.Dir(b.config), "daypassd.log"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`"msg":"serving".*"installation":"(\w+)"`).FindAllSubmatch(log, -1)
	if len(found) == 0 {
		t.Fatalf("the log has no installation:\n%s", log)
	}
	return string(found[len(found)-1][1])
}

// tryBanner does what the banner says, in a shell.
func (b devBroker) tryBanner(t *testing.T) {
	t.Helper()
	for _, name := range []string{"curl", "psql"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Logf("the banner's lines are not tried: %v", err)
			return
		}
	}
	script := []string{"set -e", "cd " + shellQuote(t.TempDir())}
	for line := range strings.Lines(b.out()) {
		for _, begin := range []string{"TOKEN=", "api=", "curl ", "creds=", ". "} {
			if text := strings.TrimSpace(line); strings.HasPrefix(text, begin) {
				script = append(script, text)
			}
		}
	}
	script = append(script, "cat admin.token")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-c", strings.Join(script, "\n"))
	shell.Env = cleanEnv("USER=ana")
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, strings.Join(script, "\n"), out)
	}
	for _, want := range []string{`"DAYPASS_JWT":"ey`, `"PGPASSWORD":"dpp_`, ` dp_`, `"state":"revok`, `operator for ana`, `dpa_`, `"scope":"deploy:read deploy:write"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the banner's lines brought no %s:\n%s", want, out)
		}
	}
}

func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "it's")
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	first := startDev(t, dir)
	if !strings.Contains(first.out(), "running at "+first.url) || strings.Count(first.out(), "curl -fsS") < 3 || !strings.Contains(first.out(), first.keys) {
		t.Errorf("the banner:\n%s", first.out())
	}
	if module, found := pkcs11.FindSoftHSM(); found && !strings.Contains(first.keys, module) {
		t.Errorf("keys are in %s", first.keys)
	}
	a := first.exchange(t, "grant=payments/deploy-db&grant=payments/sign-release")
	if a.StatusCode != http.StatusOK {
		t.Fatal(a.Status, a.body)
	}
	lease := regexp.MustCompile(`lse_\w+`).FindString(a.body)
	admin := strings.TrimSpace(runProgram(t, []string{first.softHSM}, "admin", "token", "create", "--config", first.config, "--role", "viewer", "--owner", "ana", "--ttl", "1h"))
	installation, kid := first.installation(t), first.kid(t)

	first.tryBanner(t)

	// A second one in the same folder says so, and leaves the first one alone.
	second := start(t, nil, "dev", "--dir", dir)
	if state := second.ended(t); state.ExitCode() != exitFailed || len(second.log()) != 1 || !strings.Contains(second.log()[0], "another `daypassd dev` runs in "+dir+" (hint: ") {
		t.Errorf("the second ended with %s: %q", state, second.log())
	}
	if again := readDevEnv(t, first.process, dir); again.url != first.url || call(t, http.MethodGet, first.url+"/readyz", "").StatusCode != http.StatusOK {
		t.Error("the second one harmed the first")
	}

	policy := filepath.Join(dir, "policies", "payments.yaml")
	text, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.ReplaceAll(text, []byte("sign-release"), []byte("sign-anything")) // in its tests too
	write(t, policy, string(changed))
	first.stop(t, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(dir, "dev.env")); err == nil {
		t.Error("dev.env says that it runs")
	}

	next := startDev(t, dir)
	if next.url != first.url || next.tokenURL != first.tokenURL || next.kid(t) != kid || next.installation(t) != installation {
		t.Errorf("after the restart: %s, %s, key %s, installation %s; before: %s, %s, key %s, installation %s",
			next.url, next.tokenURL, next.kid(t), next.installation(t), first.url, first.tokenURL, kid, installation)
	}
	if a := call(t, http.MethodGet, next.url+"/v1/leases/"+lease, admin); a.StatusCode != http.StatusOK || a.field(t, "state") != "active" {
		t.Errorf("the lease of before: %s", a.body)
	}
	if a := call(t, http.MethodGet, next.url+"/v1/leases", admin); !strings.Contains(a.body, lease) {
		t.Errorf("the lease of before isn't listed: %s", a.body)
	}
	if a := next.exchange(t, "grant=payments/sign-anything"); a.StatusCode != http.StatusOK {
		t.Errorf("the changed policy: %s", a.body)
	}
	if kept, err := os.ReadFile(policy); err != nil || !bytes.Equal(kept, changed) {
		t.Errorf("the policy was overwritten: %v", err)
	}
	next.stop(t, syscall.SIGINT)
}

// servers are the processes of Postgres on data below dir.
func servers(t *testing.T, dir string) []int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("processes are looked for in /proc")
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, name := range lines {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(line, []byte("-D\x00"+dir+"/")) {
			continue // ended meanwhile, or something else
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// TestDevEphemeral: whatever ends it, no Postgres stays, and no folder unless it
// was killed.
func TestDevEphemeral(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		signal syscall.Signal
		killed bool
	}{{syscall.SIGINT, false}, {syscall.SIGTERM, false}, {syscall.SIGKILL, true}} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			t.Parallel()
			temp := openDir(t)
			p := start(t, []string{"TMPDIR=" + temp, "DAYPASS_SOFTHSM_MODULE=/nonexistent"}, "dev", "--ephemeral")
			var folder string
			eventually(t, "the folder is made", func() bool {
				found, err := filepath.Glob(filepath.Join(temp, "daypass-dev-*"))
				if err != nil {
					t.Fatal(err)
				}
				if len(found) == 1 {
					folder = found[0]
				}
				return folder != "" || !p.running()
			})
			b := readDevEnv(t, p, folder)
			if !strings.HasPrefix(b.keys, "software") || !strings.Contains(p.out(), "keys      software, sealed on disk (install softhsm2") {
				t.Errorf("keys are in %s; the banner:\n%s", b.keys, p.out())
			}
			if a := b.exchange(t, "grant=payments/deploy-db&grant=payments/sign-release"); a.StatusCode != http.StatusOK {
				t.Error(a.Status, a.body)
			}
			if len(servers(t, temp)) == 0 {
				t.Fatal("no Postgres runs")
			}
			p.signal(t, tc.signal)
			if state := p.ended(t); tc.killed != hasEndedBy(state, syscall.SIGKILL) || (!tc.killed && state.ExitCode() != 0) {
				t.Errorf("it ended with %s: %q", state, p.log())
			}
			if tc.killed {
				eventually(t, "Postgres ends with it", func() bool { return len(servers(t, temp)) == 0 })
				return
			}
			if pids := servers(t, temp); len(pids) > 0 {
				t.Errorf("Postgres runs on: %v", pids)
			}
			left, err := os.ReadDir(temp)
			if err != nil || len(left) > 0 {
				t.Errorf("it left %s: %v", fmt.Sprint(left), err)
			}
		})
	}
}
