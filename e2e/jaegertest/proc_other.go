//go:build !linux

package jaegertest

import "syscall"

// dieWithParent asks for nothing here: a test binary that is killed leaves its
// Jaeger behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
