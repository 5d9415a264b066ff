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
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return false
	}
	d := time.Since(time.Unix(ts.Unix()))
	return d > time.Hour || d < -time.Hour
}
