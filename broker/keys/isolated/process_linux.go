package isolated

import "syscall"

// endWithParent has the kernel end the child when the thread that started it
// ends, and so when we do: a module that hangs hears of nothing else.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
