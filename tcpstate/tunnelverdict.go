package tcpstate

import "time"

// This file judges tunnels. It is pure.

// leg is what is known of one of the two connections at one moment.
type leg struct {
	sample  sample // the last one of a connection that has ended
	hist    history
	fin     bool // the peer ended its direction
	dead    bool // the kernel has ended the connection
	told    bool // we ended our direction: the peer knows that the other side is done
	finAt   int64
	deadAt  int64
	endedAt int64 // closed by us; 0: open
}

func (l *leg) open() bool { return l.endedAt == 0 && !l.dead && l.sample.ok }

// empty reports whether nothing waits to be moved.
func (l *leg) empty() bool {
	return l.sample.recvQueue == 0 && l.sample.sendQueue == 0 && l.sample.unacked == 0
}

// asked reports whether our bytes were taken by the peer and nothing has come
// since.
func (l *leg) asked() bool {
	s := &l.sample
	return s.bytesSent > 0 && l.empty() && (s.bytesReceived == 0 || s.dataSent < s.dataRecv)
}

// tunnelFacts is everything that is known of a tunnel at one moment.
type tunnelFacts struct {
	now      int64
	down, up leg
	// raw: bytes pass through as they come, so that the end of one direction
	// says nothing of the other. In HTTP, a client that ends its direction has
	// left.
	raw       bool
	halfClose bool // declared
	downMoved int64
	upMoved   int64
	ignores   func(Kind) bool
	limits    *Thresholds
}

// Causes of findings about tunnels.
const (
	causeClientDone       = "client_done" // and the server was told
	causeClientDoneUntold = "client_done_not_passed_on"
	causeServerDone       = "server_done"
	causeServerDoneUntold = "server_done_not_passed_on"

	causeClientFIN    = "client_closed"
	causeClientDied   = "client_died"
	causeClientClosed = "closed_here"

	causeUnread   = "unread"
	causeArriving = "still_arriving"
)

func (f *tunnelFacts) verdict() verdict {
	if v := f.orphan(); v.kind != "" || v.due != 0 {
		return v
	}
	return f.halfClosed()
}

// orphan judges an upstream connection whose answer nobody wants any more.
func (f *tunnelFacts) orphan() verdict {
	v := verdict{kind: KindTunnelUpstreamOrphan}
	if f.ignores(v.kind) {
		return verdict{}
	}
	switch d := &f.down; {
	case d.endedAt != 0:
		v.cause, v.since = causeClientClosed, d.endedAt
	case d.dead && !d.fin:
		v.cause, v.since = causeClientDied, d.deadAt
	case d.dead || d.fin && !f.halfClose:
		v.cause, v.since = causeClientFIN, d.finAt
	default:
		return verdict{}
	}
	// An upstream that was told that the client is done may go on, as long as
	// the client may be there to listen.
	if !f.up.open() || f.up.fin || f.up.told && (f.raw || f.down.endedAt != 0) || !f.up.asked() {
		return verdict{}
	}
	return f.overdue(max(v.since, f.upMoved), f.limits.Orphan, v)
}

// halfClosed judges a tunnel of which one side has ended its direction.
func (f *tunnelFacts) halfClosed() verdict {
	d, u := &f.down, &f.up
	if d.sample.lacks(bytesEnd) || u.sample.lacks(bytesEnd) {
		return verdict{} // bytes may be moving
	}
	if !f.raw || f.halfClose || !d.open() || !u.open() || d.fin == u.fin || !d.empty() || !u.empty() {
		return verdict{}
	}
	v := verdict{kind: KindTunnelHalfClosedIdle}
	if f.ignores(v.kind) {
		return verdict{}
	}
	switch {
	case d.fin && u.told:
		v.cause, v.since = causeClientDone, d.finAt
	case d.fin:
		v.cause, v.since = causeClientDoneUntold, d.finAt
	case d.told:
		v.cause, v.since = causeServerDone, u.finAt
	default:
		v.cause, v.since = causeServerDoneUntold, u.finAt
	}
	return f.overdue(max(v.since, f.downMoved, f.upMoved), f.limits.HalfOpen, v)
}

// overdue returns v once grace has passed since from.
func (f *tunnelFacts) overdue(from int64, grace time.Duration, v verdict) verdict {
	if grace == off {
		return verdict{}
	}
	if due := from + int64(grace); f.now < due {
		return verdict{due: due}
	}
	return v
}

// tunnelEnd is the end of a tunnel: one connection at its Close, the other one then.
type tunnelEnd struct {
	closed, other leg
	closedIsUp    bool
	unwanted      bool // the program does not read what comes, or the copy to the other side failed
	listens       bool // the other side was seen to read after it had ended its own direction
}

const (
	// tail is how much may follow what matters: TLS sends session tickets after
	// the handshake and close_notify at the end, and whoever has closed does
	// not wait for them.
	tail = 1024
	// arriving is how young data is whose sender has hardly come to its end.
	arriving = 500 * time.Millisecond
)

// truncated says whether what one side sent was cut off although the other was
// there to take it, and how.
func (f *tunnelEnd) truncated() (cause string, cut bool) {
	c, o := &f.closed, &f.other
	switch {
	case !c.sample.ok || c.dead || o.dead || f.unwanted:
		return "", false // there was no more to be had, or nobody to take it
	case c.fin && o.fin:
		return "", false // both have said what they had to say
	case !f.closedIsUp && o.fin:
		return "", false // a server that has answered and closed takes no more
	}
	unread := uint64(max(c.sample.recvQueue, 0))
	switch {
	case unread > tail, unread > 0 && c.sample.consumed() == 0 && o.sample.bytesReceived > 1:
		return causeUnread, true
	case f.closedIsUp && !c.fin && o.fin && f.listens && c.sample.dataRecv < arriving:
		return causeArriving, true
	}
	return "", false
}
