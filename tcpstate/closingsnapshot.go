package tcpstate

import (
	"cmp"
	"iter"
	"net"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// ClosingSnapshot is one socket that this program has closed and that still
// waits for the peer's acknowledgement, as it was when it was last looked up.
type ClosingSnapshot struct {
	ID            uint64 // of the connection
	Role          Role
	Name, Target  string
	Local, Remote net.Addr
	State         State     // FinWait1, Closing or LastAck
	Closed        time.Time // when Close was called
	Looked        time.Time // at most some seconds ago
	SendQueue     int       // bytes not acknowledged; our FIN counts as one, as in ss
	Retries       int       // retransmissions, or window probes, without an answer
	NoWindow      bool      // the peer does not read: Retries are window probes
	Site          Site      // the call of Close where data was left to send, else as in Snapshot
	Finding       Kind      // open now; empty: none
}

// Closing returns the sockets of closed connections that wait for their peer in
// FIN-WAIT-1, CLOSING or LAST-ACK, oldest connection first. No descriptor shows
// them. They appear a second after Close, at most 4,096 of them, on Linux only.
// Sockets in FIN-WAIT-2 and TIME-WAIT are not among them: the kernel ends those
// by itself within a minute.
func (t *Tracker) Closing() iter.Seq[ClosingSnapshot] {
	return func(yield func(ClosingSnapshot) bool) {
		t.init()
		for _, s := range t.closingNow() {
			if !yield(s) {
				return
			}
		}
	}
}

func (t *Tracker) closingNow() []ClosingSnapshot {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make([]ClosingSnapshot, 0, len(j.closing.open))
	for _, l := range j.closing.open {
		s := ClosingSnapshot{
			ID: l.e.id, Role: l.e.role, Name: l.e.name, Local: l.e.local, Remote: l.e.remote,
			State: l.state, Closed: t.wall(l.closedAt), Looked: t.wall(l.seenAt),
			SendQueue: int(l.sendQueue), Retries: int(l.retrans), NoWindow: l.timer == sockdiag.ZeroWindow,
			Site: Site{Role: l.e.bornBy()},
		}
		l.e.mu.Lock()
		s.Target = l.e.target
		if places := l.e.sitesLocked(KindLeakCollected, j.hide); len(places) > 0 {
			s.Site = places[0]
		}
		l.e.mu.Unlock()
		if ownLine(l.closer, j.hide) {
			s.Site = Site{Role: "close", Frames: publicFrames(l.closer.Owner(j.hide))}
		}
		if l.finding != nil {
			s.Finding = l.finding.kind
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b ClosingSnapshot) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
