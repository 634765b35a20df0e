package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/keys/pkcs11"
)

const (
	hsmPIN      = "hsm-pin-9Rt4Lq"
	signRelease = "/v1/exchange?grant=payments/sign-release"
)

// newHSM makes a SoftHSM token `daypass` and tells the environment that finds it. It
// runs SoftHSM's own program: this process has but one configuration of it.
func newHSM(t *testing.T) (module, environment string) {
	t.Helper()
	module, found := pkcs11.FindSoftHSM()
	if !found {
		t.Fatal("SoftHSM is missing: install the package softhsm2")
	}
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	environment = "SOFTHSM2_CONF=" + write(t, filepath.Join(dir, "softhsm2.conf"), "directories.tokendir = "+tokens+"\nobjectstore.backend = file\n")
	initialize := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "daypass", "--pin", hsmPIN, "--so-pin", hsmPIN)
	initialize.Env = cleanEnv(environment)
	if out, err := initialize.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	return module, environment
}

// newIsolated makes a place whose keys live in an HSM, its module in a process of
// its own.
func newIsolated(t *testing.T) (p place, provider *devkit.Provider, environment string) {
	t.Helper()
	provider, err := devkit.StartProvider(t.Context(), devkit.ProviderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
	})
	p = newPlace(t, t.TempDir(), provider.URL())
	module, environment := newHSM(t)
	write(t, filepath.Join(p.dir, "pin"), hsmPIN+"\n")
	config, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, strings.ReplaceAll(string(config), "{type: software, dir: "+p.dir+"/keys,",
		"{type: pkcs11, module: "+module+", token: daypass, isolate: true, isolate_env: [VENDOR_CONF],"))
	return p, provider, environment
}

// child is the process of the module, as the log tells it. nth counts from 1.
func (p *process) child(t *testing.T, nth int) int {
	t.Helper()
	const message = "the PKCS#11 module runs in a process of its own"
	eventually(t, fmt.Sprintf("a %d. process of the module", nth), func() bool { return len(p.entries(t, message)) >= nth })
	pid, ok := p.entries(t, message)[nth-1]["pid"].(float64)
	if !ok {
		t.Fatal("the log doesn't tell the process")
	}
	return int(pid)
}

// alive says whether there is such a process, and it is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// TestIsolated: a broker whose module runs in a process of its own signs, goes on
// after that process was killed with the same key, and takes it along at its end.
func TestIsolated(t *testing.T) {
	t.Parallel()
	p, provider, environment := newIsolated(t)
	broker, url := p.serve(t, environment, "VENDOR_CONF=/etc/vendor.conf", "SOME_PASSWORD=not-for-a-module")
	key := broker.await(t, "serving").text(t, "signing_key")
	sign := func() answer { return call(t, http.MethodPost, url+signRelease, jobToken(t, provider)) }
	if a := sign(); a.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", a.StatusCode, a.body)
	}
	pid := broker.child(t, 1)
	looksIsolated(t, broker.cmd.Process.Pid, pid)

	// What is sent to a service's processes all at once is for the broker, which has to
	// drain first.
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	if a := sign(); a.StatusCode != http.StatusOK || broker.child(t, 1) != pid || !alive(pid) {
		t.Errorf("after signals to the child: %d: %s", a.StatusCode, a.body)
	}

	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exchanges work again", func() bool {
		a := sign()
		if a.StatusCode != http.StatusOK && (a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "") {
			t.Fatalf("%d: %s", a.StatusCode, a.body)
		}
		return a.StatusCode == http.StatusOK
	})
	next := broker.child(t, 2)
	if next == pid || alive(pid) || !alive(next) {
		t.Errorf("the child is still %d", pid)
	}
	if jwks := call(t, http.MethodGet, url+"/.well-known/jwks.json", ""); !strings.Contains(jwks.body, `"`+key+`"`) {
		t.Errorf("another key than %s: %s", key, jwks.body)
	}
	if gone := broker.await(t, "the process of the PKCS#11 module is gone"); gone["state"] != "signal: killed" {
		t.Errorf("the log says %v", gone)
	}

	broker.stop(t, syscall.SIGTERM)
	if alive(next) {
		t.Error("the child lives on after the broker")
	}
	if text := strings.Join(broker.log(), "\n"); strings.Contains(text, hsmPIN) {
		t.Errorf("the PIN is in the log:\n%s", text)
	}
	isolatedAgain(t, p, key, environment)
}

// isolatedAgain starts the same broker again and kills it: its keys are the same,
// and its child ends.
func isolatedAgain(t *testing.T, p place, key, environment string) {
	t.Helper()
	broker, _ := p.serve(t, environment)
	if again := broker.await(t, "serving").text(t, "signing_key"); again != key {
		t.Errorf("after a start the key is %s, not %s", again, key)
	}
	pid := broker.child(t, 1)
	broker.signal(t, syscall.SIGKILL)
	broker.ended(t)
	eventually(t, "the child ends with the broker", func() bool { return !alive(pid) })
}

// looksIsolated looks at both processes as the kernel shows them, as far as it does:
// only root may see all of it.
func looksIsolated(t *testing.T, broker, child int) {
	t.Helper()
	read := func(pid int, file string) (string, bool) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		return string(data), err == nil
	}
	if line, ok := read(child, "cmdline"); ok && strings.TrimRight(line, "\x00") != "daypassd\x00module-host" {
		t.Errorf("its command line is %q", line)
	}
	if limits, ok := read(child, "limits"); ok && !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max core file size 0 0") {
		t.Errorf("it leaves core dumps:\n%s", limits)
	}
	if maps, ok := read(broker, "maps"); ok && strings.Contains(maps, "softhsm") {
		t.Error("the broker has loaded the module itself")
	}
	if maps, ok := read(child, "maps"); ok && !strings.Contains(maps, "softhsm") {
		t.Error("the child hasn't loaded the module")
	}
	variables, ok := read(child, "environ")
	if !ok {
		return
	}
	for _, secret := range []string{hsmPIN, "SOME_PASSWORD", "DAYPASS"} {
		if strings.Contains(variables, secret) {
			t.Errorf("its environment holds %s", secret)
		}
	}
	if !strings.Contains(variables, "SOFTHSM2_CONF=") || !strings.Contains(variables, "VENDOR_CONF=/etc/vendor.conf") {
		t.Errorf("its environment is %q", variables)
	}
}

// TestModuleHostAlone: nobody starts it by hand.
func TestModuleHostAlone(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "daypassd", moduleHostCommand)
	cmd.Env = cleanEnv()
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(string(out), "the broker starts this by itself") {
		t.Errorf("%v: %s", err, out)
	}
	if help := runProgram(t, nil, "--help"); strings.Contains(help, moduleHostCommand) {
		t.Errorf("the help lists it:\n%s", help)
	}
}

// TestIsolatedPIN: a wrong PIN is an error of the start, sent once.
func TestIsolatedPIN(t *testing.T) {
	t.Parallel()
	p, _, environment := newIsolated(t)
	write(t, filepath.Join(p.dir, "pin"), "wrong-pin-for-it\n")
	broker := start(t, []string{environment}, "serve", "--config", p.config)
	if state := broker.ended(t); state.ExitCode() != exitFailed {
		t.Errorf("it ended with %s", state)
	}
	text := strings.Join(broker.log(), "\n")
	if !strings.Contains(text, "keys.sealing: ") || !strings.Contains(text, "token refuses the PIN") || strings.Contains(text, "wrong-pin-for-it") {
		t.Errorf("it said:\n%s", text)
	}
}
