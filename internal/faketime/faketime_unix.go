//go:build unix

package faketime

import (
	"time"

	"golang.org/x/sys/unix"
)

// On reports whether time.Now is not the machine's time.
func On() bool {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return false
	}
	d := time.Since(time.Unix(ts.Unix()))
	return d > time.Hour || d < -time.Hour
}

// Sleep lets d of the machine's time pass, at least a millisecond, unless a
// signal cuts it short. It blocks the thread: in a bubble time.Sleep might
// never return.
func Sleep(d time.Duration) {
	_, _ = unix.Poll(nil, int(max(d, time.Millisecond)/time.Millisecond))
}
