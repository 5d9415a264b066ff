package tcpstate

// This file is the evidence state machine: it turns what single looks at a
// socket showed into what happened to the connection. It is pure.
//
// The bits of an event are only a reason to look. With a goroutine parked in
// Read, a reset shows the same bits as an orderly end, because that goroutine
// takes the error first. What happened is decided by the edges seen so far:
// who shut down which direction before the socket reached CLOSE.

// history is the set of edges seen on one connection.
type history struct {
	fin        bool // the peer's FIN arrived
	closeRead  bool // we shut down reading: RDHUP says nothing of the peer any more
	closeWrite bool // we shut down writing
	dead       bool // the kernel has ended the connection, the descriptor is still held
	pending    bool // dead, but the way it ended shows only at the next look
	end        endCause
}

// endCause is the way a connection reached CLOSE while its descriptor was held.
type endCause uint8

const (
	endNone    endCause = iota
	endClean            // both ends sent their FIN
	endReset            // RST
	endTimeout          // the kernel gave up
	endUnknown          // cannot be told from what was seen
)

func (c endCause) String() string {
	switch c {
	case endClean:
		return "clean_end"
	case endReset:
		return "reset"
	case endTimeout:
		return "timeout"
	case endUnknown:
		return "unknown"
	}
	return ""
}

// readResult is the error the application's own Read last brought back.
type readResult uint8

const (
	readNothing  readResult = iota
	readEOF                 // io.EOF
	readReset               // ECONNRESET, EPIPE
	readTimedOut            // ETIMEDOUT: the kernel gave up
	readDeadline            // a read deadline: says nothing of the connection
	readOther
)

func (r readResult) fatal() bool { return r == readReset || r == readTimedOut || r == readOther }

// look is what one look at the socket showed, and what the application had
// done to it by then.
type look struct {
	state                        State
	mptcp                        bool // state is that of a subflow and may stay ESTABLISHED
	rdhup, hup, err              bool // bits of the event, none for a sample
	retransmits, backoff, probes uint8
	read                         readResult
	closeRead, closeWrite        bool
	blind                        bool // not wrapped: read, closeRead and closeWrite are not seen
	reader                       bool // the application has read before, so a Read may be parked
}

// observe returns the history after one more look.
func (h history) observe(l look) history {
	h.closeRead = h.closeRead || l.closeRead
	h.closeWrite = h.closeWrite || l.closeWrite

	switch l.state {
	case FinWait1, FinWait2:
		h.closeWrite = true
	case CloseWait:
		h.fin = true
	case LastAck, Closing, TimeWait:
		h.fin, h.closeWrite = true, true
	}
	if l.mptcp && l.rdhup && !h.closeRead && !l.err {
		// The DATA_FIN reaches the MPTCP socket, not the TCP state of its
		// subflow.
		h.fin = true
	}
	// Once the kernel has discarded the connection, a reused TCP_INFO of an
	// MPTCP socket without subflows says CLOSE as well.
	if l.state == Closed && (!h.dead || h.pending) {
		first := !h.dead
		h.dead, h.pending = true, false
		h.end = h.endOf(l)
		if h.end == endNone {
			// A parked reader may have taken the error a moment ago and not
			// yet have told. At the next look it has.
			h.pending = first
			h.end = endClean
			if first {
				h.end = endUnknown
			}
		}
	}
	return h
}

// endOf judges a look at a socket in state CLOSE. It returns endNone when the
// connection ended cleanly unless a reader is about to say otherwise.
func (h history) endOf(l look) endCause {
	gaveUp := l.retransmits > 1 || l.backoff > 1 || l.probes > 1
	abnormal := func() endCause {
		switch {
		case l.read == readTimedOut:
			return endTimeout
		case l.read == readReset:
			return endReset
		case gaveUp:
			return endTimeout
		}
		return endReset
	}
	switch {
	case l.read == readReset || l.read == readTimedOut || l.err:
		return abnormal()
	case h.closeWrite && l.read == readEOF:
		return endClean
	case h.closeWrite && l.blind:
		return endUnknown
	case h.closeWrite && l.reader:
		return endNone
	case h.closeWrite:
		// Nobody reads, so an error would still wait in the socket, and the
		// event would carry EPOLLERR. A sample carries no bits at all.
		if l.rdhup || l.hup {
			return endClean
		}
		return endNone
	case l.blind:
		// A shutdown behind our back would make this a clean end.
		return endUnknown
	}
	return abnormal()
}
