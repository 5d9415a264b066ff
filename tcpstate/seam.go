package tcpstate

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/faketime"
	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

// seam is every way in which a tracker depends on the machine, so that a test
// can take a facility away.
type seam struct {
	now            func() time.Time
	clock          *testclock.Clock // nil outside tests
	newPoller      func() (poller, error)
	info           func(fd uintptr, buf []byte) (int, error)
	queues         func(fd uintptr) (recv, send int, err error)
	unread         func(fd uintptr) (int, error)
	madeMPTCP      func(fd uintptr) bool
	maxWatches     func() (int, error)
	diag           func() (diagnoser, error)
	orphans        func() (int, error)
	openFiles      func() (limit, used int)   // zeros: not known
	addrs          func() ([]net.Addr, error) // of all interfaces
	portFacts      func() (portFacts, error)
	countPorts     func(port uint16, to []netip.Addr, in portFacts) (portCount, time.Duration, error)
	synRetransmits func() (uint64, error)
	synTimeout     time.Duration // a dial that took less has sent one SYN
	countSYNs      func([]*Listening) (map[*Listening]synCount, time.Duration, error)
	dialHooks      error                          // why net.Dialer has none; nil: it has
	dialTrace      error                          // the same of httptrace
	fakeTime       func() bool                    // time is not the machine's
	near           func(net.IP) bool              // the address is one of this host
	looked         func(id uint64, f epoll.Flags) // called after each look; nil outside tests
}

func newSeam(clock *testclock.Clock) *seam {
	s := &seam{
		now: time.Now, clock: clock, info: tcpinfo.Get,
		queues: tcpinfo.Queues, unread: tcpinfo.Unread, madeMPTCP: tcpinfo.MPTCPSocket,
		newPoller:      newPoller,
		maxWatches:     maxUserWatches,
		diag:           openDiag,
		orphans:        sockdiag.Orphans,
		openFiles:      openFiles,
		addrs:          net.InterfaceAddrs,
		portFacts:      readPortFacts,
		countPorts:     countPorts,
		synRetransmits: sockdiag.SynRetransmits,
		synTimeout:     synTimeout,
		countSYNs:      countSYNs,
		fakeTime:       faketime.On,
		near:           net.IP.IsLoopback,
	}
	if !numbered {
		s.dialHooks = errFakeNet
		s.dialTrace = errFakeNet
	}
	if clock != nil {
		s.now = clock.Now
		s.synTimeout = 0                            // the kernel has its own time
		s.near = func(net.IP) bool { return false } // what tests have is loopback
		s.portFacts = func() (portFacts, error) {
			p, err := readPortFacts()
			if lo, hi := clock.Ports(); hi > 0 {
				p.lo, p.hi = lo, hi
			}
			return p, err
		}
		s.info = func(fd uintptr, buf []byte) (int, error) {
			n, err := tcpinfo.Get(fd, buf)
			if rate := clock.Rate(); rate > 0 && err == nil {
				keepPace(clock, rate, buf[:n])
			}
			return n, err
		}
	}
	return s
}

// synTimeout is when a SYN is sent again for the first time, less some time
// that the clock may be slow (TCP_TIMEOUT_INIT in include/net/tcp.h).
const synTimeout = time.Second - 100*time.Millisecond

// keepPace makes a TCP_INFO look as if the kernel went by a clock that is ahead
// of real time: its ages are those of the clock, and its retransmission timer
// is as slow as it seems from there. The offsets are those of struct tcp_info
// (include/uapi/linux/tcp.h).
func keepPace(clock *testclock.Clock, rate int, b []byte) {
	const (
		rto          = 8  // microseconds
		lastDataSent = 44 // milliseconds; then last_ack_sent, which is never filled
		lastDataRecv = 52
		lastAckRecv  = 56
		busyTime     = 168 // microseconds; the lower half of 64 bits, which is an hour
	)
	change := func(off int, f func(uint64) uint64) {
		if len(b) >= off+4 {
			v := f(uint64(binary.NativeEndian.Uint32(b[off:])))
			binary.NativeEndian.PutUint32(b[off:], uint32(min(v, math.MaxUint32)))
		}
	}
	for _, off := range [...]int{lastDataSent, lastDataRecv, lastAckRecv} {
		change(off, func(ms uint64) uint64 {
			return uint64(clock.Age(time.Duration(ms) * time.Millisecond).Milliseconds())
		})
	}
	slower := func(us uint64) uint64 { return us * uint64(rate) }
	change(rto, slower)
	change(busyTime, slower)
}

var errFakeNet = errors.New("the network is that of the Go runtime")

func newPoller() (poller, error) {
	p, err := epoll.New()
	if err != nil {
		return nil, err
	}
	return p, nil
}

func openDiag() (diagnoser, error) {
	c, err := sockdiag.Open()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// maxUserWatches reads the number of descriptors that one user may watch in all
// epoll instances together (epoll(7)). Go's own poller lives on the same
// allowance: exhausting it makes the application's Listen fail.
func maxUserWatches() (int, error) { return readNumber("/proc/sys/fs/epoll/max_user_watches") }

// readNumber reads a setting of the kernel.
func readNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// fdTable finds an entry by its descriptor's number. Descriptors are small and
// dense, except on Windows, where handles are neither.
type fdTable struct {
	dense  []*entry
	sparse map[uintptr]*entry
}

const maxDense = 1 << 22

func (f *fdTable) get(fd uintptr) *entry {
	if fd < uintptr(len(f.dense)) {
		return f.dense[fd]
	}
	return f.sparse[fd]
}

func (f *fdTable) set(fd uintptr, e *entry) {
	if fd >= maxDense {
		if f.sparse == nil {
			f.sparse = make(map[uintptr]*entry)
		}
		f.sparse[fd] = e
		return
	}
	if fd >= uintptr(len(f.dense)) {
		f.dense = append(f.dense, make([]*entry, int(fd)+1-len(f.dense))...)
		f.dense = f.dense[:min(cap(f.dense), maxDense)]
	}
	f.dense[fd] = e
}

// clear removes e, unless the number belongs to another connection by now.
func (f *fdTable) clear(fd uintptr, e *entry) {
	if f.get(fd) != e {
		return
	}
	if fd < uintptr(len(f.dense)) {
		f.dense[fd] = nil
		return
	}
	delete(f.sparse, fd)
}

func sortEntries(es []*entry) {
	slices.SortFunc(es, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
}

// tick is how coarse the kernel's ages are, by the clock of the loop: two ticks
// of the slowest kernel (CONFIG_HZ=100).
func (s *seam) tick() int64 {
	const coarse = 20 * time.Millisecond
	if s.clock != nil && s.clock.Rate() > 0 {
		return int64(coarse) * int64(s.clock.Rate())
	}
	return int64(coarse)
}
