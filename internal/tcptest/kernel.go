package tcptest

import (
	"fmt"
	"time"
)

// The kernel's TCP states (include/net/tcp_states.h), as in tcpi_state and in
// /proc/net/tcp. They are written out here because this package is below the
// one that names them.
const (
	Established uint8 = 1
	SynSent     uint8 = 2
	SynReceived uint8 = 3
	FinWait1    uint8 = 4
	FinWait2    uint8 = 5
	TimeWait    uint8 = 6
	Closed      uint8 = 7
	CloseWait   uint8 = 8
	LastAck     uint8 = 9
	Listening   uint8 = 10
	Closing     uint8 = 11

	// Absent is what [TableState] answers for a 4-tuple the kernel no longer
	// knows.
	Absent uint8 = 0
)

var stateNames = [...]string{
	"ABSENT", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
	"CLOSE", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECEIVED",
}

// StateName returns the RFC 9293 name of a kernel state.
func StateName(state uint8) string {
	if int(state) < len(stateNames) {
		return stateNames[state]
	}
	return fmt.Sprintf("STATE-%d", state)
}

// Timers are how soon the kernel gives up on a silent peer. Zero leaves a
// timer as it is.
type Timers struct {
	Idle        time.Duration // silence before the first keepalive probe, in whole seconds
	Interval    time.Duration // between probes, in whole seconds
	Count       int           // unanswered probes before ETIMEDOUT
	UserTimeout time.Duration // unacknowledged data or probe before ETIMEDOUT, in milliseconds; beats Count
}

// An EpollWatch is one entry of one epoll instance (epoll(7)).
type EpollWatch struct {
	Epoll  int    // fd of the epoll instance
	FD     int    // fd number under which the target was added; may be closed or reused
	Inode  uint64 // of the target, see [InodeOf]
	Events uint32 // EPOLLIN and the like
}
