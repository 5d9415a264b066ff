package tcpstate

import (
	"errors"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// Snapshot is one connection at one moment.
type Snapshot struct {
	ID            uint64
	Role          Role
	Name, Target  string
	Local, Remote net.Addr
	Opened        time.Time
	State         State // Unknown where the kernel does not tell
	Phase         Phase
	MPTCP         bool
	Wrapped       bool // false: attached, the application's reads are not seen
	Open          bool
	Info          Info // of TCP_INFO; empty when the connection is closed
	RecvQueue     int  // bytes the application has not read
	SendQueue     int  // bytes the peer has not acknowledged
	Use           string
	Uses          uint32    // uses that were ever attached
	InUse         int       // uses in progress
	IdleSince     time.Time // when the last use ended; zero while one is in progress, and before the first
	PeerClosed    time.Time // when the peer's FIN was noticed
	Site          Site      // dial or accept; the last use where the standard library did that on its own goroutine
	Sites         []Site    // every place that had to do with it, Site first
	Finding       Kind      // open now; empty: none
}

// snapshot reads e, and the kernel's view of it with ask.
func (e *entry) snapshot(ask bool) Snapshot {
	t := e.t
	s := Snapshot{
		ID: e.id, Role: e.role, Name: e.name, Local: e.local, Remote: e.remote,
		Opened: e.born, Wrapped: e.flags.Load()&flagWrapped != 0,
	}
	var hist history
	var made bool // for MPTCP
	t.judge.mu.Lock()
	s.State = e.state
	if sus := e.sus; sus != nil {
		hist, made = sus.hist, sus.made
		s.PeerClosed, s.MPTCP = t.wall(sus.finAt), sus.mptcp
		if sus.finding != nil {
			s.Finding = sus.finding.kind
		}
	}
	t.judge.mu.Unlock()

	e.mu.Lock()
	raw := e.raw
	s.Open, s.Uses, s.Target = raw != nil, e.useCount, e.target
	for u := e.uses; u != nil; u = u.next {
		s.InUse++
	}
	use := e.oldestUseLocked()
	if use == nil {
		if use = e.lastUse; use != nil {
			s.IdleSince = t.wall(use.endedAt)
		}
	}
	if use != nil {
		s.Use = use.use.String()
	}
	s.Site = Site{Role: e.bornBy()}
	if s.Sites = e.sitesLocked(KindLeakCollected, t.cfg.Load().HideFrames); len(s.Sites) > 0 {
		s.Site = s.Sites[0]
	}
	e.mu.Unlock()

	if ask && raw != nil {
		var buf [tcpinfo.MaxSize]byte
		var n int
		var ierr error
		var mptcp bool
		err := raw.Control(func(fd uintptr) {
			if n, ierr = t.seam.info(fd, buf[:]); ierr == nil {
				s.RecvQueue, s.SendQueue, _ = tcpinfo.Queues(fd)
				mptcp = tcpinfo.MPTCP(fd)
				if mptcp {
					made, s.MPTCP = true, true
					hist = hist.observe(e.lookMPTCP(State(buf[0]), epoll.Peek(fd)))
				}
				if hist.fin && made && epoll.Peek(fd)&epoll.ReadHup != 0 {
					s.RecvQueue = max(s.RecvQueue-1, 0) // see sample.correct
				}
			}
		})
		switch {
		case errors.Is(err, net.ErrClosed):
			s.Open = false
		case err == nil && ierr == nil:
			s.Info = decodeInfo(buf[:n])
			s.State = shownState(hist, s.Info.State)
			if mptcp {
				s.State = e.mptcpState(hist, s.Info.State, s.SendQueue)
			}
		}
	}
	if !s.Open {
		s.State = Closed
	}
	s.Phase = s.State.Phase()
	return s
}

// tellClosed tells the observers that e has ended.
func (t *Tracker) tellClosed(e *entry) {
	subs := t.observers.Load()
	if subs == nil {
		return
	}
	e.mu.Lock()
	f := e.final()
	c := ClosedInfo{
		ID: e.id, Role: e.role, Name: e.name, Target: e.target, Local: e.local, Remote: e.remote,
		Opened: e.born, Ended: e.endedAt(), DialStart: e.dialStart(),
		State: f.state, BytesIn: f.bytesReceived, BytesOut: f.bytesSent, Unread: int(f.recvQueue),
		Retransmits: f.totalRetrans, RTT: f.rtt, Uses: e.useCount,
	}
	if e.sus != nil {
		c.PeerClosed, c.Findings = t.wall(e.sus.finAt), e.sus.kinds
		if fs := e.sus.site.Owner(t.cfg.Load().HideFrames); len(fs) > 0 {
			c.Frame = &publicFrames(fs[:1])[0]
		}
	}
	c.Reason = closeReason(e.leaked, e.finalHistory(e.sus))
	use := e.oldestUseLocked()
	if use == nil {
		use = e.lastUse
	}
	c.Aborted = !e.leaked && !e.forgotten && e.end != nil && e.discards()
	c.ClosedFirst = c.Reason == CloseLocal && !c.Aborted
	tokens, useTokens := e.tokens, (*token)(nil)
	if use != nil {
		useTokens = use.tokens
	}
	e.mu.Unlock()
	if !f.ok {
		// Closed behind our back: the last sample is what is known.
		c.State, c.BytesIn, c.BytesOut, c.Retransmits = e.state, e.last.in, e.last.out, e.last.retransmits
	}
	for _, s := range *subs {
		if s.o.Closed == nil {
			continue
		}
		c.DialToken, c.UseToken = tokens.of(s), useTokens.of(s)
		s.pushClosed(&c, e)
	}
}

// closeReason says how a connection ended, from its history up to Close.
func closeReason(leaked bool, h history) CloseReason {
	switch {
	case leaked:
		return CloseCollected
	case h.end == endTimeout:
		return CloseTimeout
	case h.end == endReset, h.end == endUnknown && !h.closeWrite && !h.fin:
		return CloseReset // unknown without a FIN of either side: hardly anything else
	case h.finFirst:
		return ClosePeerFIN
	}
	return CloseLocal
}
