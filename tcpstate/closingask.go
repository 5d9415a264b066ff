package tcpstate

import (
	"net"
	"net/netip"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// questions is what the lookups of one tick share.
type questions struct {
	c     *closingChore
	start time.Time
	err   error // nothing is answered
}

func (q *questions) spent() bool { return q.err != nil || time.Since(q.start) > closingBudget }

// ask looks up the sockets of all while there is time, hands each its answer,
// and returns those that were not reached.
func ask[T any](q *questions, all []T, of func(T) *entry, seen func(T, *sockdiag.Result)) (left []T) {
	c := q.c
	for len(all) > 0 && !q.spent() {
		n := min(len(all), closingBatch)
		c.tuples = c.tuples[:0]
		for _, v := range all[:n] {
			c.tuples = append(c.tuples, of(v).tuple())
		}
		var err error
		c.results, err = c.diag.Lookup(c.results[:0], c.tuples)
		answered := false
		for i := range c.results {
			answered = answered || c.results[i].Status != sockdiag.Unknown
			seen(all[i], &c.results[i])
		}
		if err != nil && !answered {
			q.err = err
		}
		all = all[n:]
	}
	return all
}

func (e *entry) tuple() sockdiag.Tuple {
	return sockdiag.Tuple{Local: plainAddr(e.local), Remote: plainAddr(e.remote)}
}

func plainAddr(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// waitsForPeer reports whether a socket that no descriptor shows waits for the
// acknowledgement of our FIN.
func waitsForPeer(r *sockdiag.Result) bool {
	if r.Status != sockdiag.Found || r.Socket.Inode != 0 {
		return false
	}
	switch State(r.Socket.State) {
	case FinWait1, Closing, LastAck:
		return true
	}
	return false
}
