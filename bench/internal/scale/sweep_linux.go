package scale

import (
	"errors"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Sweep is what one look at each connection costs.
type Sweep struct {
	Ours, Raw []time.Duration // per connection, of each round
}

const (
	// sweepChunk connections are asked by the raw loop at a time, as many as a
	// tick of the tracker takes, with a tick's pause between.
	sweepChunk = 750
	sweepPause = busyDelay
)

// sweep has the tracker sweep as often as it does, and beside it asks the same
// connections for TCP_INFO and nothing else.
func (h *holder) sweep(rounds int) (s Sweep, err error) {
	before := time.Duration(0)
	if err := h.tracker.Set(func(c *tcpstate.Config) { before, c.SweepInterval = c.SweepInterval, 100*time.Millisecond }); err != nil {
		return s, err
	}
	defer func() {
		err = errors.Join(err, h.tracker.Set(func(c *tcpstate.Config) { c.SweepInterval = before }))
	}()
	ask, err := newAsker(h)
	if err != nil {
		return s, err
	}
	count := func() uint64 { return h.tracker.Stats().Sweeps }
	begun := count()
	if err := h.await("a sweep", func() bool { return count() > begun }); err != nil {
		return s, err
	}
	for range rounds {
		at := h.tracker.Stats()
		raw, err := ask.round()
		if err != nil {
			return s, err
		}
		if err := h.await("a sweep", func() bool { return count() > at.Sweeps }); err != nil {
			return s, err
		}
		now := h.tracker.Stats()
		n := time.Duration(len(ask.raw))
		s.Raw = append(s.Raw, raw/n)
		s.Ours = append(s.Ours, (now.Sweep-at.Sweep)/time.Duration(now.Sweeps-at.Sweeps)/n)
	}
	return s, nil
}

// asker asks connections for TCP_INFO, without allocation.
type asker struct {
	raw []syscall.RawConn
	buf [tcpinfo.MaxSize]byte
	err error
}

func newAsker(h *holder) (*asker, error) {
	a := new(asker)
	for i, c := range h.plain {
		if !h.tracked[i].Watch().Open() {
			continue // its peer has ended it
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return nil, err
		}
		a.raw = append(a.raw, raw)
	}
	return a, nil
}

// round asks all and returns the time that was spent.
func (a *asker) round() (time.Duration, error) {
	f := func(fd uintptr) { _, a.err = tcpinfo.Get(fd, a.buf[:]) }
	var spent time.Duration
	for from := 0; from < len(a.raw); from += sweepChunk {
		if from > 0 {
			time.Sleep(sweepPause)
		}
		begin := time.Now()
		for _, raw := range a.raw[from:min(from+sweepChunk, len(a.raw))] {
			if err := raw.Control(f); err != nil {
				return 0, err
			}
		}
		spent += time.Since(begin)
	}
	return spent, a.err
}

// Dump is what a dump of all sockets of the machine costs.
type Dump struct {
	Sockets int
	Took    time.Duration
}

// diag dumps with vishvananda/netlink.
func (h *holder) diag(none) (Dump, error) {
	begin := time.Now()
	all, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	return Dump{len(all), time.Since(begin)}, err
}
