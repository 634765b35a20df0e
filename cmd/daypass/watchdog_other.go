//go:build !linux

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// ownProgram is where this program can be started from once more; "" where it can't be.
func ownProgram() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

// hardenProcess keeps tokens out of core dumps.
func hardenProcess() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: 0}) }
