//go:build !linux

package main

// hardenProcess does nothing here: see the Linux version.
func hardenProcess() {}
