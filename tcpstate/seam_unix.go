//go:build unix

package tcpstate

import (
	"time"

	"golang.org/x/sys/unix"
)

// fakeTime reports whether time.Now is not the machine's time, as in a bubble
// of testing/synctest. There, a goroutine that waits for network events would
// keep the bubble's time from passing and the test from ending.
func fakeTime() bool {
	d := time.Since(machineTime())
	return d > time.Hour || d < -time.Hour
}

// machineTime returns the time of day as the kernel has it, also in a bubble.
// It has no monotonic part: that of a bubble and that of the machine are not
// of one clock.
func machineTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return time.Now().Round(0)
	}
	return time.Unix(ts.Unix())
}
