package tcpstate

import "github.com/tcpstate/tcpstate-go/internal/epoll"

// lookMPTCP is what a look at a Multipath TCP connection tells of its ends, of
// which the TCP state s of its first path knows nothing.
func (e *entry) lookMPTCP(s State, flags epoll.Flags) look {
	fl := e.flags.Load()
	return look{
		state: s, mptcp: true,
		rdhup: flags&epoll.ReadHup != 0, hup: flags&epoll.Hup != 0, err: flags&epoll.Err != 0,
		closeRead: fl&flagCloseRead != 0, closeWrite: fl&flagCloseWrite != 0, blind: fl&flagWrapped == 0,
	}
}

// mptcpState is the state of the MPTCP socket itself. No socket option shows
// it, but it follows from who has sent a DATA_FIN, and whether ours was
// acknowledged: until then it counts as a byte in the send queue
// (net/mptcp/protocol.c, __mptcp_wr_shutdown and mptcp_check_data_fin_ack).
func (e *entry) mptcpState(h history, s State, sendQueue int) State {
	if s != Established {
		return s
	}
	sent := h.closeWrite || e.flags.Load()&flagCloseWrite != 0
	switch {
	case !sent:
		return shownState(h, s)
	case !h.fin && sendQueue > 0:
		return FinWait1
	case !h.fin:
		return FinWait2
	case sendQueue == 0:
		return Closed
	case h.finFirst:
		return LastAck
	}
	// Nobody looked between the two FINs.
	if asked, err := SocketState(e.local, e.remote); err == nil && asked != Established {
		return asked
	}
	return Closing
}
