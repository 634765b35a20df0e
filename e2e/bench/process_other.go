//go:build !linux

package main

import "syscall"

// endWithParent does nothing: there is no such signal here, and no /proc for the
// CPU times either.
func endWithParent(*syscall.SysProcAttr) {}
