//go:build unix && !linux

package devkit

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// endWithParent does nothing: there is no such signal here. The next start on the same folder stops what was left.
func endWithParent(*syscall.SysProcAttr) {}

// isPostmaster reports whether pid is a server that was started on data.
func isPostmaster(pid int, data string) bool {
	out, err := exec.CommandContext(context.Background(), "ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec // G204: a number
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out)+" ", "-D "+data+" ")
}
