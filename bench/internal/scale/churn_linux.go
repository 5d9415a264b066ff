package scale

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Churn is what the tracker does while connections come and go.
type Churn struct {
	Took       time.Duration
	Closed     uint64        // connections that ended here meanwhile
	Unfollowed uint64        // of those, not looked into
	Samples    int           // of the CPU profile, all in all
	AfterClose time.Duration // CPU time of following closed sockets
	Loop       time.Duration // CPU time of the tracker's goroutine, with most of that
	Process    time.Duration // CPU time of the process, as profiled
}

// perClose is the CPU time for each connection.
func (c *Churn) perClose(d time.Duration) time.Duration { return d / time.Duration(max(c.Closed, 1)) }

// churn accepts connections, tracks and closes them at once, until its
// listeners are closed. It returns where to.
func (h *holder) churnBegin(none) ([]netip.AddrPort, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	lc.KeepAlive = -1
	pid := os.Getpid()
	for i := range 8 {
		ip := netip.AddrFrom4([4]byte{127, 64 | byte(pid>>8)&63, byte(pid), byte(128 + i)})
		ln, err := lc.Listen(context.Background(), "tcp4", netip.AddrPortFrom(ip, 0).String())
		if err != nil {
			return nil, err
		}
		h.churns = append(h.churns, ln)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				h.tracker.Track(c.(*net.TCPConn), tcpstate.Origin{Role: tcpstate.Server, Name: "churn"}).Close()
			}
		}()
	}
	addrs := make([]netip.AddrPort, len(h.churns))
	for i, ln := range h.churns {
		addrs[i] = ln.Addr().(*net.TCPAddr).AddrPort()
	}
	return addrs, nil
}

func (h *holder) churnEnd(none) (none, error) {
	for _, ln := range h.churns {
		ln.Close()
	}
	return none{}, nil
}

// afterClose are the functions, as they are called in profiles, that do the work
// for connections that were closed, and nothing else.
var afterClose = []string{
	"tcpstate.(*closingChore).", "tcpstate.(*halfOpenPolls).", "tcpstate.(*resetTable).", "tcpstate.(*lingerer).",
	"tcpstate.(*entry).departure", "tcpstate.(*Tracker).departLocked", "tcpstate.(*Tracker).resetLocked",
}

const ofLoop = "tcpstate.(*Tracker).loop"

// profile takes a CPU profile for a while.
func (h *holder) profile(d time.Duration) (c Churn, err error) {
	var b bytes.Buffer
	before, begin := h.tracker.Stats(), time.Now()
	if err := pprof.StartCPUProfile(&b); err != nil {
		return c, err
	}
	time.Sleep(d)
	pprof.StopCPUProfile()
	after := h.tracker.Stats()
	c.Took = time.Since(begin)
	c.Closed, c.Unfollowed = after.Closed-before.Closed, after.Unfollowed-before.Unfollowed
	p, err := profile.Parse(&b)
	if err != nil {
		return c, err
	}
	if len(p.SampleType) != 2 || p.SampleType[1].Unit != "nanoseconds" {
		return c, errors.New("a CPU profile of another form")
	}
	for _, s := range p.Sample {
		cpu := time.Duration(s.Value[1])
		c.Samples += int(s.Value[0])
		c.Process += cpu
		if under(s, ofLoop) {
			c.Loop += cpu
		}
		if under(s, afterClose...) {
			c.AfterClose += cpu
		}
	}
	return c, nil
}

// under reports whether a function whose name has one of the parts is on the
// stack of s.
func under(s *profile.Sample, parts ...string) bool {
	for _, l := range s.Location {
		for _, line := range l.Line {
			for _, part := range parts {
				if strings.Contains(line.Function.Name, part) {
					return true
				}
			}
		}
	}
	return false
}

// churning measures connections that come and go at some rate. There is a
// closed socket that waits for its peer, which is what makes the tracker look
// up those that were closed.
func churning(ctx context.Context, rate int, d time.Duration) (c Churn, err error) {
	few, err := newCrowd(ctx, 100, true)
	if err != nil {
		return c, err
	}
	defer few.stop()
	if err := tell(few.peer, "orphan", none{}); err != nil {
		return c, err
	}
	addrs, err := ask[[]netip.AddrPort](few.holder, "churnBegin", none{})
	if err != nil {
		return c, err
	}
	const warm = time.Second
	err = together(
		func() error { _, err := ask[int](few.peer, "churn", churnArgs{addrs, rate, d + 2*warm}); return err },
		func() (err error) {
			time.Sleep(warm)
			c, err = ask[Churn](few.holder, "profile", d)
			return err
		},
	)
	if err != nil {
		return c, err
	}
	return c, tell(few.holder, "churnEnd", none{})
}
