package epoll

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that has always gone by, also in a program whose clock
// stands at the epoch.
var past = time.Unix(1, 0)

// Poller is an epoll instance whose own descriptor is polled by Go's runtime:
// epoll descriptors can be nested (epoll(7)), so a waiting goroutine costs no
// OS thread.
type Poller struct {
	file *os.File
	raw  syscall.RawConn
	fd   int // valid while file is open; used by Add and Del under ctl

	buf  [128]unix.EpollEvent // owned by Wait
	n    int                  // owned by Wait
	werr error                // owned by Wait
	fn   func(fd uintptr) bool
	once func(fd uintptr) // fn, for Control

	taking atomic.Bool // Wait takes events, or has taken some that are not handled

	ctl    sync.RWMutex // held for reading by Add and Del, for writing by Close
	closed bool         // guarded by ctl

	mu    sync.Mutex // guards woken and the read deadline
	woken bool
}

// New opens a poller.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	// NewFile hands a non-blocking descriptor to the runtime's poller.
	f := os.NewFile(uintptr(fd), "epoll")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	p := &Poller{file: f, raw: raw, fd: fd}
	p.fn = func(fd uintptr) bool {
		p.taking.Store(true)
		for {
			p.n, p.werr = unix.EpollWait(int(fd), p.buf[:], 0)
			if p.werr != unix.EINTR {
				break
			}
		}
		if p.n <= 0 {
			p.taking.Store(false)
		}
		return p.n > 0 || p.werr != nil
	}
	p.once = func(fd uintptr) { p.fn(fd) }
	// A descriptor that the runtime does not poll would block for ever in
	// Wait: find out now.
	if err := f.SetReadDeadline(past); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// Wait appends events to evs until at least one came, the wait (negative: no
// limit) has passed or Wake was called. Only one goroutine may call Wait.
func (p *Poller) Wait(wait time.Duration, evs []Event) ([]Event, error) {
	p.mu.Lock()
	if !p.woken {
		var dl time.Time
		if wait >= 0 {
			dl = time.Now().Add(wait)
		}
		p.file.SetReadDeadline(dl)
	}
	p.mu.Unlock()

	p.n, p.werr = 0, nil
	err := p.raw.Read(p.fn)

	p.mu.Lock()
	p.woken = false
	p.mu.Unlock()

	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline of a Wake hides events that are ready: look once more.
		if p.raw.Control(p.once) != nil {
			return evs, ErrClosed
		}
	case err != nil:
		return evs, ErrClosed
	}
	if p.werr != nil {
		return evs, os.NewSyscallError("epoll_wait", p.werr)
	}
	for i := range p.buf[:max(p.n, 0)] {
		evs = append(evs, fromKernel(&p.buf[i]))
	}
	return evs, nil
}

// Wake makes the current or the next Wait return at once.
func (p *Poller) Wake() {
	p.mu.Lock()
	if !p.woken {
		p.woken = true
		p.file.SetReadDeadline(past)
	}
	p.mu.Unlock()
}

// Handled says that the events which the last Wait returned have taken effect.
func (p *Poller) Handled() { p.taking.Store(false) }

// Quiet reports whether every event that there was when it was called has been
// handled: none waits in the kernel, none is on the way from Wait to Handled.
// It takes no event away.
func (p *Poller) Quiet() bool {
	p.ctl.RLock()
	defer p.ctl.RUnlock()
	if p.closed {
		return false
	}
	// An epoll descriptor is readable while it has events (epoll(7)).
	fds := [1]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	// In this order: what was taken before the question is handled by now.
	return err == nil && n == 0 && !p.taking.Load()
}

// Add watches fd for the peer's FIN, hang-up and errors, edge-triggered:
// level-triggered EPOLLRDHUP would fire for as long as a CLOSE-WAIT lasts.
// Without EPOLLIN, data does not wake the poller. A condition that holds
// already is reported at once.
func (p *Poller) Add(fd uintptr, token uint64) error {
	p.ctl.RLock()
	defer p.ctl.RUnlock()
	if p.closed {
		return ErrClosed
	}
	ev := toKernel(token)
	return addError(unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(fd), &ev))
}

func addError(err error) error {
	if err == unix.ENOSPC {
		return ErrFull
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// Del ends the watch of fd. It is needed before every close: a duplicate of
// the descriptor, made by File, would keep the watch alive.
func (p *Poller) Del(fd uintptr) error {
	p.ctl.RLock()
	defer p.ctl.RUnlock()
	if p.closed {
		return nil // the kernel dropped every watch with the epoll instance
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, int(fd), nil))
}

// Close ends Wait and drops all watches.
func (p *Poller) Close() error {
	p.ctl.Lock()
	p.closed = true
	p.ctl.Unlock()
	return p.file.Close()
}

// The kernel's event carries 64 bits of user data; x/sys names the halves Fd
// and Pad.
func toKernel(token uint64) unix.EpollEvent {
	return unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(uint32(token)),
		Pad:    int32(uint32(token >> 32)),
	}
}

func fromKernel(ev *unix.EpollEvent) Event {
	return Event{
		Token: uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32,
		Flags: flags(ev.Events),
	}
}

func flags(bits uint32) (f Flags) {
	if bits&unix.EPOLLRDHUP != 0 {
		f |= ReadHup
	}
	if bits&unix.EPOLLHUP != 0 {
		f |= Hup
	}
	if bits&unix.EPOLLERR != 0 {
		f |= Err
	}
	return f
}

// Peek returns the conditions that hold on fd now. It takes nothing away: an
// error that waits to be read goes on waiting. It is called only inside a
// RawConn.Control.
func Peek(fd uintptr) Flags {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(fds[:], 0)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return 0
		}
		// The bits of poll(2) and epoll(7) are the same.
		return flags(uint32(fds[0].Revents))
	}
}
