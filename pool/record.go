package pool

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"weak"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// conn is one connection of the pool, for as long as it is open. Borrowers reach
// it through a Conn.
type conn struct {
	net.Conn
	t     *target
	watch *tcpstate.Watch // nil: not tracked
	raw   syscall.RawConn // nil: there is no socket to ask
	bytes bool            // what arrives is for the borrower: not for TLS

	// state is the number of the loan and of the calls that are in progress. A
	// loan ends by moving to the next number, before anything else is done, so
	// that what is kept of it fails from then on.
	state atomic.Uint64
	marks atomic.Uint32
	site  atomic.Uint32 // the borrower's tcpstate.CallSite; 0: not known yet

	expires int64
	lentAt  atomic.Int64 // when it was handed out last

	// Owned by whoever has the connection: the list, or the borrower while he
	// does not hold it yet or has ended the loan.
	idleSince int64 // written with the lock of target
	provenAt  int64 // a probe was answered while it was idle
	watched   bool  // the peer's end is an event, and was not there before

	// Guarded by target.mu.
	slip         *slip // nil: not lent out
	reused       bool  // it was idle before this loan; written by the borrower alone
	idle         bool
	older, newer *conn
	shown        uint64 // state at the last maintenance while lent out
}

const (
	// opBits is the part of conn.state that counts calls in progress.
	opBits = 20
	opMask = 1<<opBits - 1

	firstLoan = 1 // the zero Conn is no loan
)

// Marks of what a borrower did.
const (
	markIO       uint32 = 1 << iota // read or wrote
	markDeadline                    // set a deadline
	markEscaped                     // has the connection below in hand, so that nothing is known
	markHalf                        // ended a direction
	markFailed                      // a read or a write failed, timed out or met the end
	markFile                        // has a duplicate of the descriptor
	markBusy                        // a call was still in progress

	markUnfit = markHalf | markFailed | markFile | markBusy
)

// newConn takes in what a dial has returned.
func newConn(t *target, nc net.Conn, now int64) *conn {
	c := &conn{Conn: nc, t: t, expires: t.p.expiry(now), idleSince: now}
	c.state.Store(firstLoan << opBits)
	c.raw, c.bytes = socketOf(nc)
	if c.watch = t.p.tracker.Of(nc); c.watch != nil && c.watch.Tracker() == t.p.tracker {
		// The tracker must not keep the connection alive.
		ref := weak.Make(c)
		c.watch.OnPeerClosed(func() {
			if c := ref.Value(); c != nil {
				c.t.p.evict(c, peerClosed)
			}
		})
	}
	return c
}

// maxUnwrap bounds the walk down NetConn methods, which may be a circle.
const maxUnwrap = 16

// socketOf returns the socket below nc, nil if none is found, and whether its
// bytes are those that nc carries.
func socketOf(nc net.Conn) (raw syscall.RawConn, same bool) {
	same = true
	for range maxUnwrap {
		switch v := nc.(type) {
		case *tcpstate.Conn:
			nc = v.NetConn() // to ask for its RawConn would be remembered
			continue
		case syscall.Conn:
			if r, err := v.SyscallConn(); err == nil {
				return r, same
			}
			return nil, false
		case interface{ NetConn() net.Conn }:
			nc, same = v.NetConn(), false
			continue
		}
		break
	}
	return nil, false
}

func (c *conn) close() error {
	c.watch.OnPeerClosed(nil)
	return c.Conn.Close()
}

// nowIdle is called after c was put into the list. If its peer has closed it
// before, word of that came too early to evict it.
func (c *conn) nowIdle() {
	if closed, _ := c.watch.PeerClosed(); closed {
		c.t.p.evict(c, peerClosed)
	}
}

// handedOutLocked tells a loan from a Get that goes on: that one has not come as
// far as to note the time. The caller holds the lock of target.
func (c *conn) handedOutLocked() bool { return c.lentAt.Load() >= c.idleSince }

func (c *conn) mark(m uint32) {
	if c.marks.Load()&m != m {
		c.marks.Or(m)
	}
}

const (
	// fresh is for how long it counts that all events were handled. A peer that
	// closed earlier than that is known.
	fresh = int64(250 * time.Microsecond)
	// lookAfter is the idle time after which a connection is asked for bytes
	// that nobody expects, of which there is no event.
	lookAfter = int64(time.Second)
	// probeWait is how long a probe may take, if not probeRTTs round trips are
	// more. Less would prove nothing.
	probeWait = 250 * time.Millisecond
	probeRTTs = 4
)

// check says whether an idle connection may be handed out now. Whatever takes
// time comes first, the clock last: who is stopped before his last look at it
// sees how old the answer has become.
func (c *conn) check(ctx context.Context) reason {
	p := c.t.p
	for tries := 0; ; tries++ {
		handled := p.eventsAt.Load()
		closed, watched := c.watch.PeerClosed()
		now := p.now()
		if tries == 0 {
			if p.capture(now) {
				c.site.Store(uint32(tcpstate.CaptureSite(3)))
				now = p.now()
			}
			// A new connection is for whoever has dialed it, however short its life.
			if idle := now - c.idleSince; c.reused && (idle >= p.limits.old || now >= c.expires) {
				if why := c.checkOld(ctx, now, idle); why != fit {
					return why
				}
				continue
			}
		}
		c.lentAt.Store(now)
		switch {
		case closed:
			return peerClosed
		case watched && c.watched && now-handled < fresh:
			return fit
		}
		if why := c.ask(now, watched); why != fit {
			return why
		}
		// After a system call others may have had their turn, for long.
		if tries == maxTries || p.now()-now < fresh {
			return fit
		}
	}
}

// maxTries is how often a connection is asked for again because the answer had
// grown old before it could be used: on a machine that is so busy, once has to
// be enough some time.
const maxTries = 10

// ask makes sure of a connection by a system call: one that serves all
// connections of the pool for a while, or one for this connection alone.
func (c *conn) ask(now int64, watched bool) reason {
	p := c.t.p
	if watched && c.watched {
		if p.tracker.EventsHandled() {
			p.eventsAt.Store(now)
			if closed, _ := c.watch.PeerClosed(); closed {
				return peerClosed
			}
			return fit
		}
		p.behind.Add(1)
	}
	return c.look(watched)
}

// look asks the socket itself. From here on events suffice, if there are any:
// whatever came before is seen here.
func (c *conn) look(watched bool) reason {
	watched = watched || c.watch.WatchPeer()
	closed, data := peek(c.raw)
	switch {
	case closed:
		return peerClosed
	case data && c.bytes && c.state.Load()>>opBits > firstLoan:
		return unreadData // not the greeting of a server that speaks first
	}
	c.watched = watched && c.watch.Tracker() == c.t.p.tracker
	return fit
}

// checkOld is check for a connection that has been idle for some time.
func (c *conn) checkOld(ctx context.Context, now, idle int64) reason {
	l := &c.t.p.limits
	switch {
	case idle >= l.idle:
		return idleTimeout
	case now >= c.expires:
		return maxLifetime
	}
	closed, watched := c.watch.PeerClosed()
	if closed {
		return peerClosed
	}
	if why := c.look(watched); why != fit || c.watch == nil || min(idle, now-c.provenAt) < l.probe {
		return why
	}
	return c.probe(ctx)
}

// probe asks whether the peer of an idle connection is still there. If ctx ends
// before that is known, the answer is cutShort.
func (c *conn) probe(ctx context.Context) reason {
	wait := max(probeWait, probeRTTs*c.watch.Snapshot().Info.RTT)
	asking, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	switch c.watch.Probe(asking).Outcome {
	case tcpstate.ProbeAlive:
		c.provenAt = c.t.p.now()
		return fit
	case tcpstate.ProbeNoAnswer, tcpstate.ProbePending, tcpstate.ProbeEnded:
		return probeFailed
	}
	if ctx.Err() != nil {
		return cutShort
	}
	return fit // it cannot be asked
}

// returned says whether a connection that its borrower has closed may be kept.
func (c *conn) returned(now int64) reason {
	m := c.marks.Load()
	if m&(markDeadline|markEscaped) != 0 && c.SetDeadline(time.Time{}) != nil {
		return caller // closed past us, for one thing
	}
	closed, watched := c.watch.PeerClosed()
	switch {
	case closed:
		return peerClosed
	case m&markUnfit != 0:
		return caller
	case now >= c.expires:
		return maxLifetime
	}
	if m != 0 {
		c.marks.Store(0)
		// Whoever has read or written has paid for system calls: one more is
		// no matter, and tells whether the last answer was read to its end.
		if m&(markIO|markEscaped) != 0 {
			if why := c.look(watched); why != fit {
				return why
			}
		}
	}
	if c.site.Load() != 0 {
		c.site.Store(0)
	}
	return fit
}
