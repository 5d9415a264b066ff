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
	state                        State
	retransmits, backoff, probes uint8
	recvQueue, sendQueue         int32 // SIOCINQ (without FIN), SIOCOUTQ
	unacked, totalRetrans        uint32
	rtt                          time.Duration
	dataSent, dataRecv, ackRecv  time.Duration // ages
	bytesAcked, bytesReceived    uint64
	bytesSent                    uint64
}

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

// consumed is how much of what arrived the application has taken.
func (s *sample) consumed() uint64 {
	return s.bytesReceived - min(s.bytesReceived, uint64(max(s.recvQueue, 0)))
}

// complete reports whether the exchange looks finished: something was sent,
// something came back after it, and nothing but a FIN waits to be read.
func (s *sample) complete() bool {
	// A FIN counts as one byte received.
	return s.ok && s.bytesSent > 0 && s.bytesReceived > 1 &&
		s.recvQueue == 0 && s.sendQueue == 0 && s.dataRecv <= s.dataSent
}

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
	last   bool  // the descriptor is about to be closed: end its epoll watch
	entry  *entry
	buf    [tcpinfo.MaxSize]byte
	fn     func(fd uintptr)
}

var samplers = sync.Pool{New: func() any {
	s := new(sampler)
	s.fn = s.control
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
		s.full, s.ask, s.poll = true, false, false
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
	if s.n, s.err = t.seam.info(fd, s.buf[:]); s.err == nil {
		s.sample.parse(s.buf[:s.n])
		if !s.sample.ok {
			s.err = errShortInfo
		}
	}
	if s.full && s.sample.ok {
		if in, out, err := tcpinfo.Queues(fd); err == nil {
			s.sample.recvQueue, s.sample.sendQueue = int32(in), int32(out)
		}
	}
	if s.ask || s.flags&epoll.ReadHup != 0 {
		s.sample.mptcp = tcpinfo.MPTCP(fd)
	}
	if s.last {
		s.lastLook(fd)
	}
}

// lastLook is for what is to be known or done before a close.
func (s *sampler) lastLook(fd uintptr) {
	p := &s.sample
	if p.state == Established && p.recvQueue > 0 && s.entry.flags.Load()&flagCloseRead == 0 &&
		tcpinfo.MPTCP(fd) && epoll.Peek(fd)&epoll.ReadHup != 0 {
		// What looks unread is the peer's DATA_FIN; see suspicion.correct.
		p.mptcp, p.state, p.recvQueue = true, CloseWait, p.recvQueue-1
	}
	if s.entry.armed {
		s.entry.t.unwatch(fd)
	}
}

// parse reads the fields it needs at their offsets in struct tcp_info
// (include/uapi/linux/tcp.h). A field that the kernel did not fill stays zero.
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
	if len(b) < 8 {
		return
	}
	s.ok = true
	s.state = State(b[0])
	s.retransmits, s.probes, s.backoff = b[2], b[3], b[4]
	s.unacked = u32(24)
	s.dataSent, s.dataRecv, s.ackRecv = ms(44), ms(52), ms(56)
	s.rtt = time.Duration(u32(68)) * time.Microsecond
	s.totalRetrans = u32(100)
	s.bytesAcked, s.bytesReceived, s.bytesSent = u64(120), u64(128), u64(200)
	if len(b) < 208 {
		// Before Linux 4.19 what was acknowledged stands for what was sent.
		s.bytesSent = s.bytesAcked
	}
}
