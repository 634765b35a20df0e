package devkit

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// endWithParent has the kernel send an immediate shutdown when the thread that starts the child ends. What was committed is in the
// write-ahead log, so nothing is lost by it.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// isPostmaster reports whether pid is a server that was started on data. It reads the command line, which a backend overwrites and a
// postmaster doesn't; the working folder would say more, but root in a container may not read it.
func isPostmaster(pid int, data string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	program, args, _ := bytes.Cut(line, []byte{0})
	return strings.HasSuffix(string(program), "/postgres") && bytes.Contains(args, []byte("-D\x00"+data+"\x00"))
}
