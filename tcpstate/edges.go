package tcpstate

// This file is the evidence state machine: it turns what single looks at a
// socket showed into what happened to the connection. It is pure.
//
// The bits of an event are only a reason to look. With a goroutine parked in
// Read, a reset shows the same bits as an orderly end, because that goroutine
// takes the error first. What happened is decided by the edges seen so far:
// who shut down which direction before the socket reached CLOSE.

// history is the set of edges seen on one connection. The zero value is a
// connection that is simply open.
type history struct {
	fin        bool // the peer's FIN arrived
	finFirst   bool // it arrived before ours was sent
	closeWrite bool // a state of the socket showed that our FIN was sent
	dead       bool // the kernel has ended the connection, the descriptor is still held
	pending    bool // dead, but how is not settled yet
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

// readResult is the error that the application's own reads brought back. Of
// several the gravest counts: after a reset has been reported once, the kernel
// answers every further read with an orderly end.
type readResult uint8

const (
	readNothing  readResult = iota
	readDeadline            // a read deadline: says nothing of the connection
	readCopy                // io.Copy failed: in this connection or in its destination
	readEOF                 // io.EOF
	readOther               // an error of the network other than those below
	readReset               // ECONNRESET, EPIPE
	readTimedOut            // ETIMEDOUT: the kernel gave up
)

// fatal reports whether the connection has ended otherwise than by FIN.
func (r readResult) fatal() bool { return r >= readOther }

func (r readResult) String() string {
	switch r {
	case readDeadline:
		return "deadline"
	case readCopy:
		return "copy"
	case readEOF:
		return "eof"
	case readOther:
		return "error"
	case readReset:
		return "reset"
	case readTimedOut:
		return "timeout"
	}
	return ""
}

// look is what one look at the socket showed, and what the application had
// done to it by then. What the application told is read after the kernel's
// part.
type look struct {
	state                        State
	mptcp                        bool // state is that of a subflow and may stay ESTABLISHED
	rdhup, hup, err              bool // bits of the event, none for a sample
	retransmits, backoff, probes uint8
	gaveUp                       bool // as TCP_USER_TIMEOUT asks for, after a single try
	read                         readResult
	copied                       bool // a copy from the connection failed: it may have taken the error
	closeRead, closeWrite        bool // called through the wrapper; closeWrite may yet fail
	blind                        bool // not wrapped: read, closeRead and closeWrite are not seen
	watched                      bool // an error that nobody takes would come as an event
	settled                      bool // CLOSE was seen long enough ago for readers to tell
}

// observe returns the history after one more look.
func (h history) observe(l look) history {
	switch l.state {
	case FinWait1, FinWait2:
		h.closeWrite = true
	case CloseWait, LastAck:
		h.fin, h.finFirst = true, h.finFirst || !h.closeWrite
		h.closeWrite = h.closeWrite || l.state == LastAck
	case Closing, TimeWait:
		h.fin, h.closeWrite = true, true
	case Unknown:
		// Where the kernel does not tell, the application's own io.EOF does.
		if l.read == readEOF && !l.closeRead {
			h.fin, h.finFirst = true, h.finFirst || !h.fin && !l.closeWrite
		}
	}
	ours := h.closeWrite || l.closeWrite
	if l.mptcp && l.rdhup && !l.closeRead && !l.err && (ours || l.blind || !l.hup) {
		// The DATA_FIN reaches the MPTCP socket, not the TCP state of its
		// subflow. Behind an Attach, a local CloseRead shows the same.
		h.fin, h.finFirst = true, h.finFirst || !h.fin && !ours && !l.hup
	}
	// Once the kernel has discarded the connection, TCP_INFO of an MPTCP
	// socket without subflows says CLOSE as well.
	if l.state == Closed {
		h.dead = true
	}
	if h.dead {
		h.end, h.pending = h.judgeEnd(l, ours)
	}
	if h.end == endClean {
		h.fin = true
	}
	return h
}

// judgeEnd says how the connection ended, or that only a later look can tell.
// ours says that our FIN was sent, as far as is known.
func (h history) judgeEnd(l look, ours bool) (end endCause, pending bool) {
	switch {
	case l.err || l.read.fatal():
		// Proof, whenever it comes: nothing else puts an error into the socket.
		return h.abnormal(l), false
	case h.end != endNone:
		return h.end, false
	case l.blind:
		// A reader may have taken the error, or a shutdown behind our back
		// made it a clean end.
		return endUnknown, false
	case !ours:
		// Without our FIN no orderly end leads to CLOSE.
		return h.abnormal(l), false
	case !l.settled:
		// The bits may be older than the end, a reader may have taken the
		// error a moment ago and not yet have told, and a CloseWrite on a dead
		// connection is about to fail. In a while all that has come out.
		return endNone, true
	case l.copied || !l.watched:
		return endUnknown, false
	}
	// Our FIN is out, and no error waits in the socket or was taken from it.
	return endClean, false
}

// abnormal tells the two ends by error apart: by what the application was told,
// else by whether the kernel had asked in vain before.
func (h history) abnormal(l look) endCause {
	switch {
	case l.read == readTimedOut:
		return endTimeout
	case l.read == readReset:
		return endReset
	case h.end == endReset || h.end == endTimeout:
		return h.end
	case l.retransmits > 1 || l.backoff > 1 || l.probes > 1 || l.gaveUp:
		return endTimeout
	}
	return endReset
}
