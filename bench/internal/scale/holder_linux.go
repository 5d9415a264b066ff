package scale

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// holder is the process with the tracked ends.
type holder struct {
	tracker  tcpstate.Tracker
	plain    []*net.TCPConn
	tracked  []*tcpstate.Conn
	accepted chan error
	fins     *finLog
	churns   []net.Listener
	sdk      *sdk
	pings    *pinger
}

func (h *holder) commands() map[string]command {
	h.tracker.Logger = slog.New(slog.DiscardHandler)
	return map[string]command{
		"listen": on(h.listen), "accepted": on(h.waitAccepted), "track": on(h.track), "watched": on(h.watched), "close": on(h.closeAll),
		"usage": on(h.usage), "expectFINs": on(h.expectFINs), "fins": on(h.seenFINs),
		"sweep": on(h.sweep), "diag": on(h.diag),
		"churnBegin": on(h.churnBegin), "churnEnd": on(h.churnEnd), "profile": on(h.profile),
		"storm": on(h.startStorm), "leak": on(h.leak), "pings": on(h.countPings), "reports": on(h.reports), "endPings": on(h.endPings),
		"telemetry": on(h.telemetry),
	}
}

// perAddr is how many connections lead to one address: few enough for the kernel
// to find a port at the first try.
const perAddr = 2000

// listen begins to accept n connections, and returns to where.
func (h *holder) listen(n int) ([]netip.AddrPort, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	lc.KeepAlive = -1
	h.plain = make([]*net.TCPConn, n)
	h.accepted = make(chan error, 1)
	many := max(1, (n+perAddr-1)/perAddr)
	lns := make([]*net.TCPListener, many)
	addrs := make([]netip.AddrPort, many)
	for i := range lns {
		// Addresses of our own: see dialFrom.
		pid := os.Getpid()
		ip := netip.AddrFrom4([4]byte{127, 64 | byte(pid>>8)&63, byte(pid), byte(1 + i)})
		ln, err := lc.Listen(context.Background(), "tcp4", netip.AddrPortFrom(ip, 0).String())
		if err != nil {
			return nil, err
		}
		lns[i] = ln.(*net.TCPListener)
		addrs[i] = ln.Addr().(*net.TCPAddr).AddrPort()
	}
	go func() {
		h.accepted <- concurrently(many, many, func(l int) error {
			defer lns[l].Close()
			_ = lns[l].SetDeadline(time.Now().Add(patience))
			for i := l; i < n; i += many {
				if err := h.accept(lns[l]); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	return addrs, nil
}

// patience is how long anything may take.
const patience = 2 * time.Minute

// accept accepts a connection and has the exchange that makes it an idle one:
// see peer.dial.
func (h *holder) accept(ln *net.TCPListener) error {
	c, err := ln.AcceptTCP()
	if err != nil {
		return err
	}
	var number [4]byte
	if _, err := io.ReadFull(c, number[:]); err != nil {
		return err
	}
	h.plain[binary.BigEndian.Uint32(number[:])] = c
	_, err = c.Write(number[:1])
	return err
}

func (h *holder) waitAccepted(none) (none, error) { return none{}, <-h.accepted }

// track has the connections tracked, has an exchange by peer.hello, as a
// program that reads them does, and waits until the kernel tells of the peer's
// end of each by an event.
func (h *holder) track(none) (none, error) {
	h.tracked = make([]*tcpstate.Conn, len(h.plain))
	for i, c := range h.plain {
		h.tracked[i] = h.tracker.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: "bench"})
	}
	err := concurrently(ramp, len(h.tracked), func(i int) error {
		c := h.tracked[i]
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		_, err := c.Write(b)
		return err
	})
	if err != nil {
		return none{}, err
	}
	return h.watched(none{})
}

func (h *holder) watched(none) (none, error) {
	return none{}, h.await("connections to be watched", func() bool { s := h.tracker.Stats(); return s.Watched >= s.Open })
}

// await waits for a fact, with a sleep between two looks.
func (h *holder) await(what string, f func() bool) error {
	for begin := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			return fmt.Errorf("waited %v for %s: %+v", patience, what, h.tracker.Stats())
		}
	}
	return nil
}

// closeAll closes the connections, and waits until the tracker has taken that in.
func (h *holder) closeAll(none) (none, error) {
	for i, c := range h.plain {
		switch {
		case h.tracked != nil:
			_ = h.tracked[i].Close() // some are closed already
		default:
			_ = c.Close()
		}
	}
	h.plain, h.tracked = nil, nil
	if h.pings != nil { // its two connections go on
		return none{}, h.await("connections to be let go of", func() bool { return h.tracker.Stats().Open == 2 })
	}
	return none{}, h.idle()
}

// idle waits until the tracker has nothing left to do.
func (h *holder) idle() error {
	return h.await("the tracker to rest", func() bool { return h.tracker.Stats().Open == 0 && !h.looping() })
}

func (h *holder) endPings(none) (none, error) {
	h.pings.close()
	return none{}, h.idle()
}

// finLog is when the tracker told of the peers' ends.
type finLog struct {
	first  int
	at     []atomic.Int64 // as hangup.Now says
	left   sync.WaitGroup
	toShut chan int
}

// expectFINs has the tracker tell of the end of n connections.
func (h *holder) expectFINs(a finArgs) (none, error) {
	l := &finLog{first: a.First, at: make([]atomic.Int64, a.N), toShut: make(chan int, a.N)}
	h.fins = l
	l.left.Add(a.N)
	for i := range a.N {
		h.tracked[a.First+i].Watch().OnPeerClosed(func() {
			l.at[i].Store(hangup.Now())
			l.toShut <- a.First + i
		})
	}
	go func() { // as a server does whose client has left
		for range a.N {
			_ = h.tracked[<-l.toShut].Close()
			l.left.Done()
		}
	}()
	return none{}, nil
}

// seenFINs returns when that was.
func (h *holder) seenFINs(none) ([]int64, error) {
	done := make(chan struct{})
	go func() { h.fins.left.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		return nil, errors.New("not all FINs were noticed")
	}
	at := make([]int64, len(h.fins.at))
	for i := range at {
		at[i] = h.fins.at[i].Load()
	}
	return at, nil
}
