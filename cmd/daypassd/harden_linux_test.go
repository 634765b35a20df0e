package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHardened looks at the program while it runs: no core dumps, and its memory
// is closed to other processes of its user. The kernel shows the latter
// (PR_GET_DUMPABLE is 0) by giving the files of the process in /proc to root; so that
// this means something, the program runs as somebody else.
func TestHardened(t *testing.T) {
	as := &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	if as.Uid == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, uidErr := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(nobody.Gid, 10, 32)
		if uidErr != nil || gidErr != nil {
			t.Fatal(uidErr, gidErr)
		}
		as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	// A program that its user can't read is closed in any case: a copy that everybody can.
	program := filepath.Join(openDir(t), "daypassd")
	path, err := exec.LookPath("daypassd")
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, binary, 0o755); err != nil {
		t.Fatal(err)
	}

	if owner, _ := inspect(t, as, "cat", "/dev/zero"); owner != as.Uid {
		t.Fatalf("/proc of another program of user %d is owned by %d: nothing can be learned from it here", as.Uid, owner)
	}
	owner, core := inspect(t, as, program, "completion", "bash")
	if owner != 0 {
		t.Errorf("its /proc is owned by %d: the process is dumpable", owner)
	}
	if core != "0 0" {
		t.Errorf("the limits of core dumps are %s", core)
	}
}

// inspect runs a program until it waits for somebody to read its output, and
// returns the owner of its files in /proc, and its limits (soft, hard) of core dumps.
func inspect(t *testing.T, as *syscall.Credential, name string, args ...string) (owner uint32, core string) {
	t.Helper()
	read, written, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close() //nolint:errcheck // nothing was written to this end
	if _, err := unix.FcntlInt(written.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout = "/", cleanEnv(), written
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = as
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it waits for us
		_ = cmd.Wait()         // and was killed
	}()
	if err := written.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(read, make([]byte, 1)); err != nil { // it is under way
		t.Fatal(err)
	}
	folder := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	info, err := os.Stat(folder + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	limits, err := os.ReadFile(folder + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`Max core file size +(\S+) +(\S+)`).FindSubmatch(limits)
	if found == nil {
		t.Fatalf("limits:\n%s", limits)
	}
	return stat.Uid, string(found[1]) + " " + string(found[2])
}
