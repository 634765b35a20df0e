//go:build checkpoints && linux

package main

import (
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkpoint stops the process at one step, for the tests of what a crash
// leaves behind: DAYPASS_CHECKPOINT=STEP kills it there, STEP:STOP stops it until
// SIGCONT. A step is passed over until the file DAYPASS_CHECKPOINT_ARMED exists.
func checkpoint() func(step string) {
	step, action, _ := strings.Cut(os.Getenv("DAYPASS_CHECKPOINT"), ":")
	armed := os.Getenv("DAYPASS_CHECKPOINT_ARMED")
	return func(at string) {
		if step == "" || at != step {
			return
		}
		if _, err := os.Stat(armed); err != nil {
			return
		}
		if action == "STOP" {
			stopHere()
			return
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

// stopHere sends SIGSTOP to this very thread: one to the process may be taken by
// another thread, and this one would go on for a while.
func stopHere() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
}
