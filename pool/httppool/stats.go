package httppool

import "time"

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
// time, from any goroutine.
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
