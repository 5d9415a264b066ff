package tcpstate

import (
	"time"
)

// This file judges connections that are open and do not move: why did the
// request time out although the state is ESTABLISHED?

// inTransfer asks about connections whose bytes do not move, or might not.
func (o *openLook) inTransfer() bool {
	s := o.sample
	switch {
	case s.retransmits > 0 || s.probes > 0:
		return true // asked in vain
	case s.notSent > 0 && s.noWindow():
		return true
	case o.seen.wait.held != 0 && o.limits.Held != off:
		return true
	case o.seen.expect.Heartbeat > 0, o.seen.wait.dueBy(o.now + 2*o.sweep):
		return true
	case s.heard() > o.limits.Idle && !o.e.t.seam.near(o.e.remote.IP):
		return true
	}
	return o.unread()
}

// unread asks whether bytes wait that the application does not read. Without
// the queues of the sample it asks the kernel, once for all bytes that had come
// by then: what was taken does not come back.
func (o *openLook) unread() bool {
	e, s := o.e, o.sample
	if e.copying.Load() > 0 || s.bytesReceived == 0 {
		return false
	}
	if o.queues {
		return s.recvQueue > 0
	}
	return !e.drained && o.mayBeUnread() && o.s.unread(e)
}

// mayBeUnread reports whether data came after the application last began to
// read, for all that the kernel's clock can tell, or there is no room for more.
func (o *openLook) mayBeUnread() bool {
	e, s := o.e, o.sample
	re := e.lastRead()
	if re == 0 || re >= markFirst || e.flags.Load()&flagWrapped == 0 || s.recvWindowKnown && s.recvWindow == 0 {
		return true
	}
	return e.t.epochTime(re) < o.now-int64(s.dataRecv)+e.t.seam.tick()
}

// transferVerdict judges a connection that is open in both directions. Of
// Multipath TCP a sample shows one path, and there may be others; only the
// receive queue is that of the connection.
func (f *facts) transferVerdict() verdict {
	if f.sample.mptcp {
		return f.notReading()
	}
	return f.first(
		(*facts).unresponsive, (*facts).peerNotReading, (*facts).deadProbes, (*facts).noResponse,
		(*facts).peerSilent, (*facts).notReturned, (*facts).notReading, (*facts).unverifiable,
	)
}

// vain is how many retransmissions or window probes in a row make a peer that
// stopped answering: fewer are lost now and then on every path.
const vain = 3

// unresponsive judges a connection that sends and hears no acknowledgement.
func (f *facts) unresponsive() verdict {
	s := &f.sample
	switch {
	case f.limits.Unresponsive == off:
		return verdict{}
	case s.unacked == 0 && s.notSent > 0 && s.probes > 0:
		// The window was closed, or the kernel cannot send at all. A peer that
		// lives answers each probe.
		v := verdict{kind: KindPeerUnresponsive, cause: "window_closed", since: f.now - int64(s.heard())}
		if s.probes < vain {
			return f.lookAgain()
		}
		return f.after(v.since+int64(f.limits.Unresponsive), v)
	case s.unacked == 0 || s.retransmits == 0 || s.lacks(busyEnd):
		return verdict{} // what is unacknowledged may have been sent a moment ago
	}
	silent := f.unackedFor()
	v := verdict{kind: KindPeerUnresponsive, since: f.now - int64(silent)}
	heardMeanwhile := s.sacked > 0 || s.heard()+s.firstRTO() < silent
	switch {
	case heardMeanwhile && s.largeLost():
		v.cause = "large_segments"
	case heardMeanwhile:
		v.cause = "one_way"
	case s.heard()-s.busy > f.limits.Idle/10:
		v.cause = "after_idle"
	}
	if s.retransmits < vain {
		return f.lookAgain()
	}
	return f.after(v.since+int64(f.limits.Unresponsive), v)
}

// unackedFor is how long the oldest segment has been waiting for its
// acknowledgement, rather too short than too long. The ages of TCP_INFO do not
// tell: the last acknowledgement may be of long before the segment was sent,
// and each retransmission counts as data sent.
func (f *facts) unackedFor() time.Duration {
	s := &f.sample
	seen := time.Duration(f.now - f.askedAt)
	if s.backoff == s.retransmits && s.backoff < 16 {
		// The timeouts have doubled each time.
		seen = max(seen, s.firstRTO()*(1<<s.backoff-1)+s.dataSent)
	}
	if f.ackedAt != 0 {
		seen = min(seen, time.Duration(f.now-f.ackedAt))
	}
	return min(seen, s.busy)
}

// firstRTO is the retransmission timeout without backoff.
func (s *sample) firstRTO() time.Duration { return s.rto >> min(s.backoff, 16) }

// largeLost reports whether large segments are what is lost: those in flight
// are large, and those that were acknowledged were small.
func (s *sample) largeLost() bool {
	const large = 1000 // bytes; less gets through everywhere
	if s.unacked == 0 || s.lacks(deliveredEnd) {
		return false
	}
	lost := (uint64(max(s.sendQueue, 0)) - min(uint64(max(s.sendQueue, 0)), uint64(s.notSent))) / uint64(s.unacked)
	// bytes_acked and delivered count the SYN.
	bytes, segments := s.bytesAcked-min(s.bytesAcked, 1), uint64(s.delivered-min(s.delivered, 1))
	return lost >= large && (segments == 0 || bytes/segments <= lost/2)
}

// peerNotReading judges a connection whose peer has closed its window and
// answers the probes: its host lives, its program does not read.
func (f *facts) peerNotReading() verdict {
	s := &f.sample
	if f.limits.NotReading == off || s.notSent == 0 || !s.noWindow() || s.probes > 1 {
		return verdict{}
	}
	since := max(f.ackedAt, f.askedAt)
	return f.after(since+int64(f.limits.NotReading), verdict{kind: KindPeerNotReading, since: since})
}

// deadProbes judges an idle connection whose keepalive probes get no answer.
// One may be lost. Over loopback they are lost in a row where thousands are sent
// at once, and the peer's kernel is this one.
func (f *facts) deadProbes() verdict {
	s := &f.sample
	switch {
	case f.near, s.unacked > 0 || s.notSent > 0 || s.probes == 0:
		return verdict{}
	case s.probes == 1:
		return f.lookAgain()
	}
	return verdict{kind: KindPeerDeadProbes, since: f.now - int64(s.heard())}
}

// answerWait is what is known of the answer that the only use in progress waits
// for. Times are of the loop's clock.
type answerWait struct {
	begun, until int64         // of the use; 0: none, or none known to end
	silence      time.Duration // that is declared; 0: nothing is
	reading      bool          // the application waits for more of an answer that has begun
	told         bool          // reading would be known
	held         int64         // since when the connection is lent out, for all that is known; 0: it is not
	missed       int64         // when the connection was taken from a pool that somebody waits for; 0: nobody does, or it waits for the peer
}

// dueBy reports whether it may be time by then to ask where the answer is.
func (w *answerWait) dueBy(at int64) bool {
	return w.silence > 0 || w.missed != 0 || w.until != 0 && w.patienceEnds() <= at
}

// patienceEnds is when so much of the deadline has passed that its end is near.
func (w *answerWait) patienceEnds() int64 {
	return w.begun + (w.until-w.begun)/patienceDen*patienceNum
}

// The part of a deadline that may pass in silence.
const patienceNum, patienceDen = 4, 5

// noResponse judges a client's connection whose request was sent and
// acknowledged and gets no answer, or no more of it.
func (f *facts) noResponse() verdict {
	s, w := &f.sample, &f.wait
	if f.role != Client || s.unacked > 0 || s.sendQueue > 0 || s.recvQueue > 0 || s.bytesSent == 0 {
		return verdict{}
	}
	sent, heard := f.now-int64(s.dataSent), f.now-int64(s.dataRecv)
	v := verdict{kind: KindPeerNoResponse, cause: "headers", since: max(sent, w.begun, f.born)}
	begun := s.dataRecv < s.dataSent // since the request went out
	switch {
	case w.begun == 0 && s.dataRecv <= s.dataSent:
		// The exchange is over, for all that is known. The kernel dates both ends
		// of a quick one by the same tick.
		return verdict{}
	case begun && !w.reading && (w.told || w.silence == 0):
		return verdict{} // the application may have all of it
	case begun:
		v.cause, v.since = "body", max(heard, w.begun, f.born)
	}
	switch {
	case w.silence > 0:
		return f.after(v.since+int64(w.silence), v)
	case w.until == 0 || begun:
		return verdict{} // streams last, and their deadline is not one for each byte
	}
	return f.after(max(w.patienceEnds(), v.since+(w.until-w.begun)/2), v)
}

// peerSilent judges a connection whose peer promised to be heard. Bytes that we
// send count for nothing: a write succeeds for as long as there is room in the
// buffer.
func (f *facts) peerSilent() verdict {
	beat := f.expect.Heartbeat
	if beat <= 0 {
		return verdict{}
	}
	last := max(f.now-int64(f.sample.dataRecv), f.aliveAt, f.born)
	return f.after(last+int64(beat)*3/2, verdict{kind: KindPeerSilent, since: last})
}

// leftOver is how much a handshake may leave unread: the session tickets of
// TLS, which come when the client has no more reason to read.
const leftOver = 4 << 10

// notReading judges a connection whose application takes nothing of what
// arrived.
func (f *facts) notReading() verdict {
	s := &f.sample
	switch {
	case f.limits.NotReading == off || s.recvQueue == 0 || f.copying || s.lacks(bytesEnd):
		return verdict{}
	case !f.blind && !f.everRead && !f.everWrote:
		return verdict{} // never touched: see accepted.go and setup.go
	case f.role == Server && f.using && !(s.recvWindowKnown && s.recvWindow <= uint32(s.recvQueue)):
		// A handler need not read the body of its request, as long as the
		// client has been able to send it.
		return verdict{}
	case s.recvQueue < leftOver && f.now-int64(s.dataRecv)-f.born < int64(handshakeTime):
		return verdict{}
	}
	since := max(f.progressAt, f.askedAt)
	return f.after(since+int64(f.limits.NotReading), verdict{kind: KindLocalNotReading, since: since})
}

// handshakeTime is how long after its birth bytes that nobody reads may be the
// rest of a handshake.
const handshakeTime = 5 * time.Second

// unverifiable counts a connection that has been idle for long, and of which
// nobody can know whether its peer is still there: keepalive would have heard.
func (f *facts) unverifiable() verdict {
	heard := f.sample.heard()
	if heard <= f.limits.Idle || f.near || f.sample.unacked > 0 || f.sample.notSent > 0 {
		return verdict{}
	}
	return verdict{kind: KindIdleUnverifiable, since: f.now - int64(heard)}
}
