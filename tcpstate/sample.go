package tcpstate

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// sample is the part of TCP_INFO that judgement and metrics need, with the
// socket's queues.
type sample struct {
	ok                           bool // TCP_INFO was read
	mptcp                        bool
	made                         bool // for MPTCP, whatever became of it
	countsFIN                    bool // recvQueue, until it is corrected
	state                        State
	retransmits, backoff, probes uint8
	recvQueue, sendQueue         int32  // SIOCINQ (without FIN), SIOCOUTQ
	gaveUp                       bool   // in CLOSE, as far as can be told: after a single try
	unacked, sacked, delivered   uint32 // segments
	totalRetrans                 uint32
	notSent                      uint32 // bytes not sent yet
	sendWindow, sendMSS          uint32 // the peer's window, the largest segment; bytes
	recvWindow                   uint32 // ours
	windowKnown, recvWindowKnown bool
	rto                          time.Duration // the present one, with backoff
	busy                         time.Duration // spent with anything unacknowledged, ever
	rtt                          time.Duration
	dataSent, dataRecv, ackRecv  time.Duration // ages
	bytesAcked, bytesReceived    uint64
	bytesSent                    uint64
	short                        uint16 // length of a TCP_INFO that ends before windowEnd: what lies behind is not known; 0: it has all
}

// Where struct tcp_info ended in the kernels before a field came that is used
// here (include/uapi/linux/tcp.h). None has ever filled less than oldestEnd.
const (
	oldestEnd    = 104
	bytesEnd     = 136 // bytes_acked and bytes_received, Linux 4.1
	notSentEnd   = 148 // Linux 4.6
	payloadEnd   = 160 // data_segs_out, Linux 4.6
	busyEnd      = 176 // Linux 4.10
	deliveredEnd = 196 // Linux 4.18
	bytesSentEnd = 208 // Linux 4.19
	windowEnd    = 232 // the peer's window, Linux 5.4
)

// lacks reports whether the kernel did not fill the field that ends there: its
// zero says nothing.
func (s *sample) lacks(end uint16) bool { return s.short != 0 && s.short < end }

// traffic is what the metrics have counted of a connection so far.
type traffic struct {
	in, out     uint64
	retransmits uint32
}

func (s *sample) traffic() traffic {
	// bytes_received counts the FIN and bytes_acked the SYN; one byte more or
	// less does not matter to a counter.
	return traffic{in: s.bytesReceived, out: s.bytesSent, retransmits: s.totalRetrans}
}

// correct adapts a sample of a connection with this history to what it means: a
// socket made for MPTCP may count the peer's FIN as a byte that waits, and the
// state of a subflow does not know of a DATA_FIN.
func (s *sample) correct(h history) {
	if !s.ok || !h.fin {
		return
	}
	if s.countsFIN {
		s.recvQueue, s.countsFIN = max(s.recvQueue-1, 0), false
	}
	if s.mptcp {
		s.state = shownState(h, s.state)
	}
}

// consumed is how much of what arrived the application has taken.
func (s *sample) consumed() uint64 {
	return s.bytesReceived - min(s.bytesReceived, uint64(max(s.recvQueue, 0)))
}

// complete reports whether the exchange looks finished: something was sent,
// something came back after it, and nothing but a FIN waits to be read.
func (s *sample) complete() bool {
	// A FIN counts as one byte received.
	moved := s.bytesSent > 0 && s.bytesReceived > 1 || s.lacks(bytesEnd)
	return s.ok && moved && s.recvQueue == 0 && s.sendQueue == 0 && s.dataRecv <= s.dataSent
}

// leavesData reports whether a Close now would leave behind what its caller
// may want to know of: bytes that the peer has no room for yet, or that nobody
// has read. What is merely under way is not among them.
func (s *sample) leavesData() bool {
	if !s.windowKnown {
		return s.sendQueue > 1 || s.recvQueue > maxUnread
	}
	return s.notSent > 1 || s.recvQueue > maxUnread // our own FIN counts as one
}

// noWindow reports whether the peer's window is too small for a segment.
func (s *sample) noWindow() bool { return s.windowKnown && s.sendWindow < s.sendMSS }

// heard is how long ago anything came from the peer. An acknowledgement that
// came with data does not always count as one.
func (s *sample) heard() time.Duration { return min(s.ackRecv, s.dataRecv) }

// sampler reads a socket inside RawConn.Control. It is reused, because a new
// function value per call would be an allocation.
type sampler struct {
	sample sample
	flags  epoll.Flags // what poll(2) said
	n      int
	err    error // why sample is not ok
	full   bool  // with queues
	ask    bool  // whether the connection is MPTCP matters
	poll   bool  // ask poll(2), in place of an event
	fresh  bool  // an event has just come
	last   bool  // the descriptor is about to be closed: end its epoll watch
	entry  *entry
	seen   observation // by look
	plain  bool        // unread has found that it was not made for MPTCP
	quiet  bool        // glance has found that nothing has happened
	buf    [tcpinfo.MaxSize]byte

	// The methods control and waiting, and what glance does.
	fn, countUnread, glanced func(fd uintptr)
}

var samplers = sync.Pool{New: func() any {
	s := new(sampler)
	s.fn, s.countUnread, s.glanced = s.control, s.waiting, s.glancer()
	return s
}}

var errShortInfo = errors.New("the kernel filled nothing of it")

// take samples e, whose mu the caller holds, and before a close ends the epoll
// watch. The error is net.ErrClosed when the descriptor is closed; failing to
// read TCP_INFO is no error, but leaves sample.ok false.
func (s *sampler) take(e *entry, last bool) error {
	s.sample, s.flags, s.n, s.err = sample{}, 0, 0, nil
	if e.raw == nil {
		return net.ErrClosed
	}
	s.entry, s.last = e, last
	if last {
		s.full, s.ask, s.poll, s.fresh = true, false, false, false
	}
	err := e.raw.Control(s.fn)
	s.entry = nil
	return err
}

func (s *sampler) control(fd uintptr) {
	t := s.entry.t
	if s.poll {
		s.flags = epoll.Peek(fd)
	}
	s.n, s.err = t.seam.info(fd, s.buf[:])
	s.informed(fd)
}

// informed is control with TCP_INFO, which was asked for.
func (s *sampler) informed(fd uintptr) {
	if s.err == nil {
		s.sample.parse(s.buf[:s.n])
		if !s.sample.ok {
			s.err = errShortInfo
		}
	}
	if p := &s.sample; s.fresh && p.state == Closed && (p.retransmits == 1 || p.probes == 1) {
		p.gaveUp = s.gaveUp(fd)
	}
	if s.full && s.sample.ok {
		s.askQueues(fd)
	}
	if s.ask || s.flags&epoll.ReadHup != 0 {
		s.askMPTCP(fd)
	}
	if s.last {
		s.lastLook(fd)
	}
}

// askQueues asks how much waits in the socket, before a Close only for what is
// not known. TCP_INFO shows one path of an MPTCP socket, whose send queue hardly
// matters then. Its receive queue tells of the peer's DATA_FIN.
func (s *sampler) askQueues(fd uintptr) {
	p, seam := &s.sample, s.entry.t.seam
	if s.last && p.allSent() {
		if s.entry.plain && s.entry.readAll(p) {
			return
		}
		if in, err := seam.unread(fd); err == nil {
			p.recvQueue = int32(in)
		}
		return
	}
	in, out, err := seam.queues(fd)
	if err != nil {
		return
	}
	p.recvQueue, p.sendQueue = int32(in), int32(out)
	if p.lacks(notSentEnd) && p.unacked == 0 {
		p.notSent = uint32(max(out, 0))
	}
}

// allSent reports whether the send queue is known to be empty. In a socket that
// is dead the counters are not those of the queue.
func (s *sample) allSent() bool {
	return s.state != Closed && !s.lacks(notSentEnd) && s.unacked == 0 && s.notSent == 0
}

// readAll reports whether the receive queue is known to be empty: nothing has
// come, or the end of it was read.
func (e *entry) readAll(s *sample) bool {
	if s.bytesReceived == 0 && !s.lacks(bytesEnd) {
		return true
	}
	return e.readEpoch.Load() == markEOF && e.flags.Load()&flagCloseRead == 0
}

// waiting is what unread asks of the kernel.
func (s *sampler) waiting(fd uintptr) {
	seam := s.entry.t.seam
	n, err := seam.unread(fd)
	if s.n = n; err != nil {
		s.n = -1
	}
	s.plain = s.ask && !seam.madeMPTCP(fd)
}

// gaveUp reports whether the kernel ended the connection, which it has just
// done, because of TCP_USER_TIMEOUT. With that a single try in vain may be the
// last one; else there are always several, and an RST may follow the first.
func (s *sampler) gaveUp(fd uintptr) bool {
	p, ok := tcpinfo.PatienceOf(fd)
	if !ok || p.User == 0 {
		return false
	}
	if s.sample.retransmits == 1 {
		// total_rto_time is that of the series which has not ended. It goes on
		// after death, so it counts only now.
		return s.n >= rtoTimeEnd && time.Duration(binary.NativeEndian.Uint32(s.buf[rtoTimeEnd-4:]))*time.Millisecond >= p.User
	}
	// The timer of the first probe has expired, too (tcp_keepalive_timer in
	// net/ipv4/tcp_timer.c).
	silent := min(s.sample.dataRecv, s.sample.ackRecv)
	return silent >= max(p.User, p.Idle+p.Interval-jiffies)
}

const (
	rtoTimeEnd = 248                   // in struct tcp_info
	jiffies    = 20 * time.Millisecond // how early a timer may seem to fire
)

// askMPTCP asks what TCP_INFO and the queues do not tell.
func (s *sampler) askMPTCP(fd uintptr) {
	p := &s.sample
	if p.made = s.entry.t.seam.madeMPTCP(fd); p.made {
		p.mptcp = tcpinfo.MPTCP(fd)
		s.flags |= epoll.Peek(fd)
		p.countsFIN = s.flags&epoll.ReadHup != 0
	}
}

// lastLook is for what is to be known or done before a close.
func (s *sampler) lastLook(fd uintptr) {
	p := &s.sample
	if p.recvQueue > 0 && !s.entry.plain && s.entry.flags.Load()&flagCloseRead == 0 {
		s.askMPTCP(fd)
		p.correct(history{fin: p.countsFIN})
	}
	if s.entry.armed {
		s.entry.t.unwatch(fd)
	}
}

// parse reads the fields it needs at their offsets in struct tcp_info
// (include/uapi/linux/tcp.h). A field that the kernel did not fill stays zero,
// and short says so.
func (s *sample) parse(b []byte) {
	u32 := func(off int) uint32 {
		if len(b) < off+4 {
			return 0
		}
		return binary.NativeEndian.Uint32(b[off:])
	}
	u64 := func(off int) uint64 {
		if len(b) < off+8 {
			return 0
		}
		return binary.NativeEndian.Uint64(b[off:])
	}
	ms := func(off int) time.Duration { return time.Duration(u32(off)) * time.Millisecond }
	if len(b) < oldestEnd {
		return
	}
	s.ok = true
	if len(b) < windowEnd {
		s.short = uint16(len(b))
	}
	s.state = State(b[0])
	s.retransmits, s.probes, s.backoff = b[2], b[3], b[4]
	s.unacked = u32(24)
	s.dataSent, s.dataRecv, s.ackRecv = ms(44), ms(52), ms(56)
	s.rto = time.Duration(u32(8)) * time.Microsecond
	s.sendMSS, s.sacked, s.delivered = u32(16), u32(28), u32(192)
	s.rtt = time.Duration(u32(68)) * time.Microsecond
	s.notSent, s.sendWindow, s.windowKnown = u32(144), u32(windowEnd-4), len(b) >= windowEnd
	s.recvWindow, s.recvWindowKnown = u32(windowEnd), len(b) >= windowEnd+4
	s.busy = time.Duration(u64(168)) * time.Microsecond
	s.totalRetrans = u32(100)
	s.bytesAcked, s.bytesReceived, s.bytesSent = u64(120), u64(128), u64(200)
	if len(b) < bytesSentEnd {
		// What was acknowledged stands for what was sent. Of that a client's SYN
		// counts as a byte.
		s.bytesSent = s.bytesAcked - min(s.bytesAcked, 1)
		if s.bytesSent == 0 && len(b) >= payloadEnd && u32(payloadEnd-4) > 0 {
			s.bytesSent = 1
		}
	}
}
