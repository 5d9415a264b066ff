//go:build !unix

package tcpstate

// fakeTime cannot be told on this platform.
func fakeTime() bool { return false }
