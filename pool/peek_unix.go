//go:build unix

package pool

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// peeker runs poll(2) inside RawConn.Control. It is reused, because a new
// function value per call would be an allocation.
type peeker struct {
	fds [1]unix.PollFd
	err error
	fn  func(fd uintptr)
}

var peekers = sync.Pool{New: func() any {
	p := new(peeker)
	p.fn = p.poll
	return p
}}

func (p *peeker) poll(fd uintptr) {
	for {
		p.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | peerHup}
		if _, p.err = unix.Poll(p.fds[:], 0); p.err != unix.EINTR {
			return
		}
	}
}

// peek asks a socket whether its peer has closed or it is dead, and whether
// bytes wait to be read. It takes nothing away. Without a socket nothing is
// known, and both are false.
func peek(raw syscall.RawConn) (closed, data bool) {
	if raw == nil {
		return false, false
	}
	p := peekers.Get().(*peeker)
	defer peekers.Put(p)
	if raw.Control(p.fn) != nil {
		return true, false // closed behind our back
	}
	if p.err != nil {
		return false, false
	}
	got := p.fds[0].Revents
	return got&(peerHup|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0, got&unix.POLLIN != 0
}
