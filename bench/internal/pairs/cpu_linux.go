package pairs

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the processor time of this process so far.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
