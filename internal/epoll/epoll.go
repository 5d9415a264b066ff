// Package epoll is the event source of the tracker: a second epoll instance
// beside the one of Go's runtime, waited for by a goroutine instead of an OS
// thread.
//
// A Poller is used by three kinds of callers. One goroutine calls Wait, and
// Handled when it has dealt with the events. Any goroutine may call Wake and
// Quiet. Add and Del take a live file descriptor, so they are called only
// inside a RawConn.Control.
package epoll

import "errors"

// ErrFull is returned by Add when the per-user limit of epoll watches is
// reached (ENOSPC, epoll_ctl(2)).
var ErrFull = errors.New("epoll: limit of watches reached")

// ErrClosed is returned by Wait after Close.
var ErrClosed = errors.New("epoll: poller closed")

// Flags are the conditions an Event reports. They are hints to look at the
// socket, not evidence of what happened to it: a reset whose error was
// already delivered shows the same bits as an orderly end.
type Flags uint8

// The conditions, named as in epoll_ctl(2).
const (
	ReadHup Flags = 1 << iota // EPOLLRDHUP: no more data will come
	Hup                       // EPOLLHUP: both directions are shut down
	Err                       // EPOLLERR: an error waits to be read
)

// Event is one readiness edge.
type Event struct {
	Token uint64 // as given to Add
	Flags Flags
}
