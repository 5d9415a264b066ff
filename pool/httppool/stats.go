package httppool

import (
	"time"
	"weak"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Stats is what a Transport knows of its connections and requests. Counts are
// of its whole life.
type Stats struct {
	// Connections that are open, and have served a request before or do so now.
	// One of HTTP/2 is in use while any request is in progress on it.
	Used, Idle int

	InFlight int // requests in progress, until their body is read to the end or closed
	Waiting  int // requests that wait for a connection now, where MaxConnsPerHost limits them

	Requests uint64 // that got a connection; one that is tried again counts again
	Reused   uint64 // of those, with a connection that had served before

	Waits    uint64        // requests that waited: for a dial, or for another request to end
	WaitTime time.Duration // all of them together, from RoundTrip to the connection

	// Surplus are connections that were closed, although they could have been
	// used again, because MaxIdleConnsPerHost of them lay idle.
	Surplus uint64

	// Unread are responses of HTTP/1 whose body was closed before its end, which
	// closes the connection.
	Unread uint64

	// Stale are requests whose connection had served before and ended before
	// anything of an answer came. Most of them were made again by net/http.
	Stale uint64
}

// Stats returns the present figures. It looks at each connection of the tracker
// and costs more the more there are. It is zero while the tracker is off, and,
// but for the counts, where keep-alive is disabled. It may be called at any
// time, from any goroutine. Tracker.Pools tells the same of a Transport with a
// name, once it has used a connection again.
func (t *Transport) Stats() Stats {
	t.once.Do(t.init)
	var s Stats
	s.Used, s.Idle = t.watch.Connections()
	t.hosts.each(func(h *host) {
		s.InFlight += h.part.InUse()
		s.Waiting += int(h.waiting.Load())
		s.Requests += h.requests.Load()
		s.Reused += h.reused.Load()
		s.Waits += h.waits.Load()
		s.WaitTime += time.Duration(h.waitNanos.Load())
		s.Surplus += h.surplus.Load()
		s.Unread += h.cut.Load()
		s.Stale += h.stale.Load()
	})
	return s
}

// served says that a connection has served again. From the first time on the
// pool tells Tracker.Pools of itself: one that is made for a single call does
// not get into anybody's way.
func (t *Transport) served() {
	t.watch.Reused()
	t.told.Do(func() {
		if t.Dialer.Name == "" {
			return
		}
		there := weak.Make(t)
		t.watch.Report(func() (tcpstate.PoolStats, bool) {
			t := there.Value()
			if t == nil {
				return tcpstate.PoolStats{}, false
			}
			return t.poolStats(), true
		})
	})
}

// poolStats is what Stats says in the words of all pools. Dials are not counted,
// nor connections that were given back: of HTTP/2 none ever is.
func (t *Transport) poolStats() tcpstate.PoolStats {
	s := t.Stats()
	return tcpstate.PoolStats{
		Idle: s.Idle, Used: s.Used, IdleMax: t.inner.MaxIdleConns,
		Pending: s.Waiting, Timeouts: -1,
		Waits:   tcpstate.PoolTimes{Count: int64(s.Waits), Time: s.WaitTime},
		Uses:    tcpstate.PoolTimes{Count: -1},
		Creates: tcpstate.PoolTimes{Count: -1},
		Discards: []tcpstate.PoolDiscards{
			{Reason: tcpstate.DiscardIdleMax, Count: int64(s.Surplus)},
			{Reason: tcpstate.DiscardCaller, Count: int64(s.Unread)},
		},
	}
}
