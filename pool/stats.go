package pool

import (
	"time"
	"weak"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Stats is what a pool has done and what it holds, of all addresses together.
// Counts and times are sums since the pool was made.
type Stats struct {
	MaxConns int // per address
	MinIdle  int // per address, of those that are kept ready

	Idle         int   // connections that nobody has
	Used         int   // lent out
	Constructing int   // being dialed
	Waiting      int64 // calls of Get that wait for a connection to come back

	Gets       uint64 // that returned a connection
	Hits       uint64 // of these, one that was used before or kept ready
	Dials      uint64 // that have ended
	DialErrors uint64 // of these, without a connection
	Timeouts   uint64 // calls of Get whose context ended while they waited
	WaitCount  uint64 // calls of Get that waited

	WaitTime time.Duration // of WaitCount calls
	UseTime  time.Duration // of loans that have ended
	DialTime time.Duration // of the dials of Opened connections; those that failed do not count

	Opened    uint64 // connections that were dialed
	Closed    uint64 // of these, no longer with the pool: closed, or hijacked
	Discarded Discards

	// Behind counts the calls of Get that had to ask for a connection by a
	// system call, because the tracker's events were not handled yet.
	Behind uint64
}

// Discards counts the connections that were closed before Close, by the reason.
type Discards struct {
	PeerClosed  uint64 // the peer has closed, or the connection was dead
	UnreadData  uint64 // bytes came that nobody has read
	IdleTimeout uint64 // MaxConnIdleTime
	MaxLifetime uint64 // MaxConnLifetime
	ProbeFailed uint64 // no answer to a probe
	Caller      uint64 // Discard, or what the borrower did to it
}

// reason is why a connection leaves the pool.
type reason uint8

const (
	fit      reason = iota // it does not
	cutShort               // nor by this: the Get ended before it was known
	peerClosed
	unreadData
	idleTimeout
	maxLifetime
	probeFailed
	caller
	hijacked
	poolClosed
	reasons
)

// totals is what is counted of one target.
type totals struct {
	gets, hits, dials, dialErrors, timeouts, waits, opened uint64

	waitTime, useTime, dialTime int64

	why [reasons]uint64 // connections that have left
}

func (n *totals) left(why reason) { n.why[why]++ }

func (n *totals) add(m *totals) {
	n.gets += m.gets
	n.hits += m.hits
	n.dials += m.dials
	n.dialErrors += m.dialErrors
	n.timeouts += m.timeouts
	n.waits += m.waits
	n.opened += m.opened
	n.waitTime += m.waitTime
	n.useTime += m.useTime
	n.dialTime += m.dialTime
	for i, v := range m.why {
		n.why[i] += v
	}
}

// Stats returns the present numbers. Those of one address agree with each other.
// Tracker.Pools tells of a pool with a name, too.
func (p *Pool) Stats() Stats {
	p.init()
	s := Stats{MaxConns: p.limits.max, MinIdle: p.limits.min, Behind: p.behind.Load()}
	p.mu.Lock()
	n := p.gone
	for _, t := range p.targets {
		t.mu.Lock()
		n.add(&t.total)
		s.Idle += t.idle.n
		s.Used += t.lent
		s.Constructing += t.dialing
		t.mu.Unlock()
		s.Waiting += t.waiting.Load()
	}
	p.mu.Unlock()
	s.Gets, s.Hits, s.Dials, s.DialErrors = n.gets, n.hits, n.dials, n.dialErrors
	s.Timeouts, s.WaitCount, s.Opened = n.timeouts, n.waits, n.opened
	s.WaitTime, s.UseTime, s.DialTime = time.Duration(n.waitTime), time.Duration(n.useTime), time.Duration(n.dialTime)
	for _, v := range n.why {
		s.Closed += v
	}
	s.Discarded = Discards{
		PeerClosed: n.why[peerClosed], UnreadData: n.why[unreadData],
		IdleTimeout: n.why[idleTimeout], MaxLifetime: n.why[maxLifetime],
		ProbeFailed: n.why[probeFailed], Caller: n.why[caller],
	}
	return s
}

// tell lets Tracker.Pools tell of a pool with a name until it is closed or
// dropped.
func (p *Pool) tell(name string) {
	p.untell = func() {}
	if name == "" {
		return
	}
	there := weak.Make(p)
	p.untell = p.known.Report(func() (tcpstate.PoolStats, bool) {
		p := there.Value()
		if p == nil {
			return tcpstate.PoolStats{}, false
		}
		return p.Stats().told(), true
	})
}

// told is s in the words of all pools. MaxConns is of one address, and so no
// limit of the whole.
func (s Stats) told() tcpstate.PoolStats {
	times := func(n uint64, d time.Duration) tcpstate.PoolTimes {
		return tcpstate.PoolTimes{Count: int64(n), Time: d}
	}
	d := &s.Discarded
	return tcpstate.PoolStats{
		Idle: s.Idle, Used: s.Used,
		Pending: int(s.Waiting), Timeouts: int64(s.Timeouts),
		Waits:   times(s.WaitCount, s.WaitTime),
		Uses:    times(s.Gets-min(s.Gets, uint64(s.Used)), s.UseTime),
		Creates: times(s.Opened, s.DialTime),
		Discards: []tcpstate.PoolDiscards{
			{Reason: tcpstate.DiscardPeerClosed, Count: int64(d.PeerClosed)},
			{Reason: tcpstate.DiscardUnreadData, Count: int64(d.UnreadData)},
			{Reason: tcpstate.DiscardIdleTimeout, Count: int64(d.IdleTimeout)},
			{Reason: tcpstate.DiscardMaxLifetime, Count: int64(d.MaxLifetime)},
			{Reason: tcpstate.DiscardProbeFailed, Count: int64(d.ProbeFailed)},
			{Reason: tcpstate.DiscardCaller, Count: int64(d.Caller)},
		},
	}
}
