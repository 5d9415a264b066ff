package jaegertest

import "syscall"

// dieWithParent has the kernel kill the process when the thread that started it
// ends, as it does when the test binary is killed or panics on its timeout: no
// cleanup runs then.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
