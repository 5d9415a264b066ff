package tcpstate

import (
	"net"
	"time"
	"unsafe"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
)

// Diagnoser looks up sockets of closed connections.
type Diagnoser = diagnoser

// OpenDiag opens the diagnoser that a tracker without a seam has.
func OpenDiag() (Diagnoser, error) { return openDiag() }

// SYNTimeout is how long a dial may take that has sent one SYN.
const SYNTimeout = synTimeout

// MaxClosing is how many closed connections are followed.
const MaxClosing = maxClosing

// Poller is the event source of a tracker's loop.
type Poller = poller

// Seam is what SetSeam replaces; nil leaves a facility as it is.
type Seam struct {
	NewPoller  func() (Poller, error)
	Info       func(fd uintptr, buf []byte) (int, error)
	MaxWatches func() (int, error)
	OpenFiles  func() (limit, used int)
	Addrs      func() ([]net.Addr, error)
	Diag       func() (Diagnoser, error)
	Orphans    func() (int, error)
	Looked     func(id uint64, f epoll.Flags)
	Asked      func()        // called with each system call that asks about a connection
	SYNTimeout time.Duration // as if the kernel went by the tracker's clock
	NoHooks    error         // of net.Dialer
	NoTrace    error
	NoProc     error // of all that is read from /proc
	Far        bool  // addresses of loopback are those of other hosts
}

// SetSeam takes facilities away from a tracker that was not used yet.
func SetSeam(t *Tracker, with Seam) {
	t.init()
	s := t.seam
	if with.NewPoller != nil {
		s.newPoller = with.NewPoller
	}
	if with.Info != nil {
		s.info = with.Info
	}
	if asked := with.Asked; asked != nil {
		info, queues, unread, made := s.info, s.queues, s.unread, s.madeMPTCP
		s.info = func(fd uintptr, buf []byte) (int, error) { asked(); return info(fd, buf) }
		s.queues = func(fd uintptr) (recv, send int, err error) { asked(); asked(); return queues(fd) }
		s.unread = func(fd uintptr) (int, error) { asked(); return unread(fd) }
		s.madeMPTCP = func(fd uintptr) bool { asked(); return made(fd) }
	}
	if with.MaxWatches != nil {
		s.maxWatches = with.MaxWatches
	}
	if with.OpenFiles != nil {
		s.openFiles = with.OpenFiles
	}
	if with.Addrs != nil {
		s.addrs = with.Addrs
	}
	if with.Diag != nil {
		s.diag = with.Diag
	}
	if with.Orphans != nil {
		s.orphans = with.Orphans
	}
	if err := with.NoProc; err != nil {
		s.maxWatches = func() (int, error) { return 0, err }
		s.orphans = func() (int, error) { return 0, err }
		s.openFiles = func() (limit, used int) { return 0, 0 }
		s.portFacts = func() (portFacts, error) { return portFacts{}, err }
		s.synRetransmits = func() (uint64, error) { return 0, err }
	}
	s.dialHooks, s.dialTrace = with.NoHooks, with.NoTrace
	if with.SYNTimeout != 0 {
		s.synTimeout = with.SYNTimeout
	}
	if with.Far {
		s.near = func(net.IP) bool { return false }
	}
	if with.Looked != nil {
		s.looked = with.Looked
	}
}

// NewPoller opens the poller that a tracker without a seam has.
func NewPoller() (Poller, error) { return newPoller() }

// Stall keeps the loop of t from doing anything until resume is called.
func Stall(t *Tracker) (resume func()) {
	t.judge.mu.Lock()
	return t.judge.mu.Unlock
}

// Running reports whether the loop of t runs.
func Running(t *Tracker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.running
}

// TokenOf returns what an epoll event of w's connection carries.
func TokenOf(w *Watch) uint64 { return watchToken(w.e) }

// ArmedEverywhere returns the number of epoll watches of all trackers.
func ArmedEverywhere() int64 { return armedEverywhere.Load() }

// Registered returns the sizes of what t holds for connections that are open,
// new, or have ended.
func Registered(t *Tracker) (live, young, ends int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live, len(t.young), len(t.ends)
}

// EntrySize is the size of what is kept of an open connection.
const EntrySize = unsafe.Sizeof(entry{})

// Forget lets go of c, as Config.Off does.
func Forget(c *Conn) {
	if c.e.forget() {
		c.e.t.ended(c.e)
	}
}

// MaxPools is how many pools are asked for their statistics.
const MaxPools = maxPools

// MaxEnds is how many ended connections wait for the loop.
const MaxEnds = maxEnds

// Inside reports whether a connection was read from inside an outer Accept.
func Inside(l *Listening) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inside != nil
}

// Tunnels returns how many tunnels t knows.
func Tunnels(t *Tracker) int {
	tt := &t.judge.tunnels
	tt.mu.Lock()
	defer tt.mu.Unlock()
	downs := 0
	for _, tn := range tt.down {
		for ; tn != nil; tn = tn.next {
			downs++
		}
	}
	if downs != len(tt.up) {
		panic("the two lists differ")
	}
	return downs
}

// EverRead reports whether a Read of c has begun.
func EverRead(c *Conn) bool { return c.e.readEpoch.Load() != 0 }

// Counting reports whether the ports that are taken are being counted.
func Counting(t *Tracker) bool {
	c := &t.judge.dialing
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ports.asking
}
