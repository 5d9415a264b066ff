package tcpstate

import (
	"os"

	"golang.org/x/sys/unix"
)

// openFiles returns the limit of open files and how many are open; zeros when
// that is not known.
func openFiles() (limit, used int) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, 0
	}
	// Since Linux 6.2 the size of the directory is the number of descriptors,
	// without listing them (proc(5)).
	fi, err := os.Stat("/proc/self/fd")
	if err != nil {
		return 0, 0
	}
	return int(min(r.Cur, 1<<31-1)), int(fi.Size())
}
