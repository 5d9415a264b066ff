package tcpstate

import "time"

// This file says whose the RST was that ended a connection. It is pure.

const (
	// maxUnread is how much may be left unread by Close without being worth a
	// line of code: what protocols end with (TLS close_notify and session
	// tickets, HTTP/2 GOAWAY) is less.
	maxUnread = 1 << 10
	// stillSending is how old the last byte of a peer is at most that was
	// sending when we closed.
	stillSending = time.Second
	// justAnswered is how old our last byte is at most when we closed at once
	// after it: net/http waits for 500 ms, so that the client can read it.
	justAnswered = 250 * time.Millisecond
	// longIdle is how long a connection lies idle before a middlebox may have
	// forgotten it: the shortest limits that are common.
	longIdle = time.Minute
)

// parting is what is known of a connection that has ended.
type parting struct {
	role     Role
	hist     history // with the last look taken in
	last     sample
	discards bool // our Close sent an RST
	linger   bool // because SO_LINGER was 0
	read     readResult

	finSeen bool          // and when nothing else had happened yet
	finSent uint64        // bytes sent by then
	goodbye bool          // what was sent later was: nobody read, and Close came at once
	young   time.Duration // from birth to death

	http        bool          // it is used for HTTP: a request is longer than a goodbye
	reusedAfter time.Duration // how long it had been idle before the use that it ended in; 0: not so
}

// reset says what kind of reset this was. The kind is empty when it was none,
// or one that needs no explanation. repeats says that it is worth a warning if
// it happens again and again.
func (p *parting) reset() (k Kind, cause string, repeats bool) {
	s := &p.last
	switch {
	case !s.ok || s.lacks(bytesEnd):
		return "", "", false
	case p.hist.dead && p.hist.end == endReset:
		return p.received()
	case p.crossed():
		return KindResetReuseAfterFIN, causeCrossed, false
	case p.hist.dead || !p.discards:
		return "", "", false
	case p.linger:
		if s.recvQueue == 0 && s.sendQueue == 0 {
			return "", "", false // on purpose, and nothing was lost
		}
		return KindResetByUsLinger, "", false
	case s.recvQueue <= maxUnread:
		return KindResetByUsUnread, "small", false
	case p.role == Client || s.bytesSent == 0:
		return KindResetByUsUnread, "abort", false // no answer of ours is lost
	case s.state == Established && s.dataRecv < stillSending && (s.sendQueue > 0 || s.dataSent < justAnswered):
		return KindResetByUsUnread, "peer_sending", true
	}
	return KindResetByUsUnread, "", false
}

// causeCrossed is that of a request that crossed the FIN of a server that had
// waited long enough. The RST comes after our Close and is seen by nobody.
const causeCrossed = "crossed"

// maxGoodbye is how much this end sends in answer to a FIN without meaning it: a
// close_notify of TLS, of 31 bytes at most.
const maxGoodbye = 64

// crossed reports whether the connection was used again while the peer's FIN was
// under way: what was written is not acknowledged, so the FIN was sent before it
// arrived. A server that closes in place of an answer acknowledges the request.
func (p *parting) crossed() bool {
	s := &p.last
	return p.reusedAfter > 0 && p.role == Client && s.state == CloseWait && !p.hist.closeWrite &&
		p.lost() && s.dataSent < s.dataRecv
}

// lost reports whether the peer has not acknowledged what was sent, and that was
// more than a goodbye. The kernel tells it (write_seq - snd_una) also of a socket
// that was reset; the bytes sent would count what was sent twice.
func (p *parting) lost() bool { return p.last.sendQueue > maxGoodbye }

// received says the same of an RST that came from outside.
func (p *parting) received() (k Kind, cause string, repeats bool) {
	s := &p.last
	wroteLast := s.bytesSent > 0 && s.dataSent < s.dataRecv
	switch {
	case p.hist.closeWrite:
		return KindResetUnexplained, "after_close_write", false
	case p.role == Server && !p.hist.fin && s.bytesSent == 0 && s.consumed() == 0 && p.young <= youngDelay+youngDelay/2:
		return KindResetBeforeAccept, "", false
	case p.hist.fin || p.read == readEOF:
		wrote := wroteLast
		if p.finSeen {
			wrote = s.bytesSent > p.finSent
		}
		switch {
		case p.role == Server:
			return "", "", false // it had closed before
		case p.reusedAfter > 0 && p.lost() && (!p.finSeen || !wrote):
			return KindResetReuseAfterFIN, causeCrossed, false
		case !wrote || p.goodbye || p.http && !p.lost():
			return "", "", false
		}
		return KindResetReuseAfterFIN, "", true
	case s.bytesReceived == 0:
		cause = "before_handshake"
	case wroteLast && s.dataRecv-s.dataSent >= longIdle:
		cause = "after_idle"
	case wroteLast:
		cause = "after_request"
	default:
		cause = "partial_data"
	}
	// Clients reset whenever they like.
	return KindResetUnexplained, cause, p.role == Client
}

// before is the state of the connection until its end.
func (p *parting) before() State {
	h := p.hist
	switch {
	case !h.dead:
		return p.last.state
	case h.closeWrite && h.fin:
		return LastAck
	case h.closeWrite:
		return FinWait2
	case h.fin || p.read == readEOF:
		return CloseWait
	}
	return Established
}
