//go:build unix

package devkit

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// startHelper runs the test binary as a program that starts a server, as another user where a credential is given, and returns what it said.
func startHelper(t *testing.T, cfg helperConfig, as *syscall.Credential) (*exec.Cmd, helperAnswer) {
	t.Helper()
	// A copy, since the binary's folder is closed to other users.
	program := filepath.Join(openDir(t), "helper")
	copyProgram(t, program)
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = "/"
	cmd.Env = []string{helperEnv + "=" + string(text), "PATH=" + os.Getenv("PATH"), BinEnv + "=" + os.Getenv(BinEnv)}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it has ended
		_ = cmd.Wait()
	})
	var answer helperAnswer
	if err := json.NewDecoder(out).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer.Err != "" {
		t.Fatal(answer.Err)
	}
	return cmd, answer
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close() //nolint:errcheck // read only
	file, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, from); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems have no parent-death signal; the next start stops the orphan (TestOrphanIsStopped)")
	}
	cfg := helperConfig{Dir: openDir(t)}
	parent, answer := startHelper(t, cfg, nil)
	data := filepath.Join(answer.Home, dataName)
	if !isPostmaster(answer.PID, data) {
		t.Fatalf("process %d isn't the server", answer.PID)
	}
	ask(t, answer.DSN, "CREATE TABLE kept (what text)", "INSERT INTO kept VALUES ('yes')", "SELECT 'ok'")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server ended with its parent", func() bool { return !isPostmaster(answer.PID, data) })
	p := start(t, PostgresConfig{Dir: cfg.Dir})
	if got := ask(t, p.DSN("postgres"), "SELECT what FROM kept"); got != "yes" {
		t.Errorf("after the parent was killed: %q", got)
	}
}

// A killed process can't remove its temporary folder; the next server does.
func TestKilledParentIsSweptAfter(t *testing.T) {
	parent, answer := startHelper(t, helperConfig{Ephemeral: true}, nil)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Fatal("the helper ended by itself")
	}
	start(t, PostgresConfig{Ephemeral: true})
	if _, err := os.Stat(answer.Home); err == nil {
		t.Errorf("%s is still there", answer.Home)
	}
	if isPostmaster(answer.PID, filepath.Join(answer.Home, dataName)) {
		t.Error("the server is still there")
	}
}

func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("every other test here runs as an ordinary user already")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	_, answer := startHelper(t, helperConfig{Dir: filepath.Join(dir, "pg")}, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)})
	if !strings.HasPrefix(answer.Home, dir) {
		t.Errorf("home is %s", answer.Home)
	}
	info, err := os.Stat(filepath.Join(answer.Home, dataName))
	if err != nil || !ownedBy(info, uint32(uid)) {
		t.Errorf("the data isn't the user's: %v", err)
	}
	if got := ask(t, answer.DSN, "SELECT 'ok'"); got != "ok" {
		t.Error(got)
	}
}
