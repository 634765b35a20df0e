//go:build unix && !linux

package isolated

import "syscall"

// endWithParent does nothing: there is no such signal here. The child ends when
// its pipe does, unless its module hangs.
func endWithParent(*syscall.SysProcAttr) {}
