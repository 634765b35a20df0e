//go:build !linux

package main

import (
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/daypass/daypass/broker/redact"
)

// console is for Linux: elsewhere there is none, and the command gets pipes.
type console struct{}

func (*program) openConsole() *console { return nil }

func (*console) attach(*exec.Cmd, *redact.Masker, io.Writer) *pump { return nil }

func (*console) begin(*os.Process) {}

func (*console) follow(<-chan os.Signal, <-chan struct{}, func(os.Signal)) {}

func (*console) signalAll(syscall.Signal) bool { return false }

func (*console) handsOn() bool { return false }

func (*console) end() {}
