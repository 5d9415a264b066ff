//go:build !unix

package tcpstate

import "time"

// fakeTime cannot be told on this platform.
func fakeTime() bool { return false }

func machineTime() time.Time { return time.Now() }
