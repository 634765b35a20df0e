//go:build checkpoints

package main

import (
	"os"
	"strings"
	"syscall"
)

// checkpoint stops the process at one step, for the tests of what a crash
// leaves behind: DAYPASS_CHECKPOINT=STEP kills it there, STEP:STOP stops it until
// SIGCONT, and STEP:STOP:KILL kills it at the step after that one.
// A step is passed over until the file DAYPASS_CHECKPOINT_ARMED exists.
func checkpoint() func(step string) {
	spec := os.Getenv("DAYPASS_CHECKPOINT")
	armed := os.Getenv("DAYPASS_CHECKPOINT_ARMED")
	step, action, _ := strings.Cut(spec, ":")
	return func(at string) {
		if step == "" || at != step {
			return
		}
		if _, err := os.Stat(armed); err != nil {
			return
		}
		signal := syscall.SIGKILL
		if action == "STOP" {
			signal = syscall.SIGSTOP
		}
		_ = syscall.Kill(os.Getpid(), signal)
		if action != "STOP" {
			select {} // the signal is on its way
		}
	}
}
