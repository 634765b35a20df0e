package main

import "golang.org/x/sys/unix"

// ownProgram is where this program can be started from once more, even when its file
// has been replaced or removed by now.
func ownProgram() string { return "/proc/self/exe" }

// hardenProcess keeps tokens out of core dumps, and other processes of the same user
// from reading our memory (prctl(2), PR_SET_DUMPABLE).
func hardenProcess() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)                   // best effort: an old kernel is no reason not to start
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: 0}) // the same
}
