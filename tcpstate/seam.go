package tcpstate

import (
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
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
	maxWatches     func() (int, error)
	synRetransmits func() (uint64, error)
	countSYNs      func([]*Listening) (map[*Listening]synCount, time.Duration, error)
	fakeTime       func() bool                    // time is not the machine's
	looked         func(id uint64, f epoll.Flags) // called after each look; nil outside tests
}

func newSeam(clock *testclock.Clock) *seam {
	s := &seam{
		now: time.Now, clock: clock, info: tcpinfo.Get,
		newPoller:      newPoller,
		maxWatches:     maxUserWatches,
		synRetransmits: sockdiag.SynRetransmits,
		countSYNs:      countSYNs,
		fakeTime:       fakeTime,
	}
	if clock != nil {
		s.now = clock.Now
	}
	return s
}

func newPoller() (poller, error) {
	p, err := epoll.New()
	if err != nil {
		return nil, err
	}
	return p, nil
}

// maxUserWatches reads the number of descriptors that one user may watch in all
// epoll instances together (epoll(7)). Go's own poller lives on the same
// allowance: exhausting it makes the application's Listen fail.
func maxUserWatches() (int, error) {
	b, err := os.ReadFile("/proc/sys/fs/epoll/max_user_watches")
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
