//go:build unix

package devkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// account is the user that the server runs as. PostgreSQL refuses to run as root, so root lends its programs to another user.
type account struct {
	name     string
	uid, gid uint32
	lent     bool // the process is root, and this is somebody else
}

// serverAccount returns the present user or, for root, `postgres` where it exists and `nobody` otherwise.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{name: strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil //nolint:gosec // G115: ids fit
	}
	for _, name := range []string{"postgres", "_postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil || uid == 0 {
			continue
		}
		return account{name: name, uid: uint32(uid), gid: uint32(gid), lent: true}, nil
	}
	return account{}, fmt.Errorf("looking for a user to run PostgreSQL as: neither `postgres` nor `nobody` exists, and it refuses to run as root\n" +
		"hint: run this as an ordinary user")
}

// command prepares a program to run as the account, in dir, with an environment of PATH and LC_ALL alone. The caller's thread has to live
// as long as the child does (runtime.LockOSThread): the signal that ends an orphan follows the thread that forked it.
func (a account) command(ctx context.Context, dir, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // G204: the programs were looked for on this machine
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"}
	// A process group of its own: Ctrl-C in a terminal must reach the broker first, not its database.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.lent {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	endWithParent(cmd.SysProcAttr)
	return cmd
}

// run runs a program to its end and returns what it printed.
func (a account) run(ctx context.Context, dir, path string, args ...string) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := a.command(ctx, dir, path, args...).CombinedOutput()
	return out, err
}

// reaches reports whether the account can work in dir, by doing it: modes, access lists and mounts all have their say.
func (a account) reaches(ctx context.Context, bin programs, dir string) bool {
	if !a.lent {
		return true
	}
	_, err := a.run(ctx, dir, bin.path("postgres"), "--version")
	return err == nil
}
