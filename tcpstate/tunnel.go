package tcpstate

import (
	"net"
	"sync"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Tunnel is two connections that a program joins, such as those of a proxy:
// what comes on one leaves on the other. What is wrong with one of them is then
// judged by what happened to both. A Tunnel holds neither connection and does
// not touch them. Methods may be called from any goroutine and work on nil.
type Tunnel struct {
	t        *Tracker
	down, up *entry
	use      *Usage // that pairs them; nil: Pair does
	site     sites.ID
	siteRole string

	// Guarded by tunnelTable.mu.
	over       bool
	next, prev *Tunnel // with the same downstream

	// Owned by the loop.
	queued  bool
	pending bool // an end of one connection is being judged, or was reported
	seen    *tunnelSeen
	th      *thing
}

// Pair says that the program joins two connections: down, which came to it, and
// up, which it dialed for down's sake. Each is a Conn, a connection above one,
// like a *tls.Conn, or one that was attached. It returns nil, which every method
// of Tunnel accepts, unless both are tracked by one tracker. Connections that
// were attached are found in the default tracker only.
//
// The tunnel ends when both connections are closed, and at End. A connection
// has one downstream at a time: pairing up again ends the tunnel it was in.
func Pair(down, up net.Conn) *Tunnel { return pair(Of(down), Of(up), sites.Capture(1)) }

// Pair is like the function Pair, and also finds connections that were attached
// to t.
func (t *Tracker) Pair(down, up net.Conn) *Tunnel {
	return pair(t.Of(down), t.Of(up), sites.Capture(1))
}

// Pair is like the function Pair, for those who have no connection at hand but
// what FromContext returns.
func (w *Watch) Pair(up *Watch) *Tunnel { return pair(w, up, sites.Capture(1)) }

func pair(down, up *Watch, site sites.ID) *Tunnel {
	if down == nil || up == nil || down.e == up.e || down.e.t != up.e.t {
		return nil
	}
	tn := &Tunnel{t: down.e.t, down: down.e, up: up.e, site: site, siteRole: "pair"}
	if !tn.t.judge.tunnels.link(tn) {
		return nil
	}
	return tn
}

// End takes the two connections apart: from now on each is judged by itself. A
// program that closes them on purpose in the middle of a transfer calls it
// before. It may be called more than once.
func (tn *Tunnel) End() {
	if tn == nil {
		return
	}
	tt := &tn.t.judge.tunnels
	tt.mu.Lock()
	defer tt.mu.Unlock()
	tt.unlinkLocked(tn)
}

// tunnelTable finds the tunnels of a connection.
type tunnelTable struct {
	mu   sync.Mutex // guards following fields; taken after any other
	up   map[*entry]*Tunnel
	down map[*entry]*Tunnel // the newest of a list

	// Owned by the loop.
	suspects, spare []*Tunnel
	due             int64
}

// link puts tn into the table. It reports false when one of its connections is
// closed.
func (tt *tunnelTable) link(tn *Tunnel) bool {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	if tt.up == nil {
		tt.up, tt.down = make(map[*entry]*Tunnel), make(map[*entry]*Tunnel)
	}
	if old := tt.up[tn.up]; old != nil {
		tt.unlinkLocked(old)
	}
	tt.up[tn.up] = tn
	if tn.next = tt.down[tn.down]; tn.next != nil {
		tn.next.prev = tn
	}
	tt.down[tn.down] = tn
	// A connection that closes from now on finds the flag. One that did not
	// find it is closed by now.
	before := tn.down.flags.Or(flagPaired) | tn.up.flags.Or(flagPaired)
	if before&flagClosed != 0 {
		tt.unlinkLocked(tn)
		return false
	}
	return true
}

func (tt *tunnelTable) unlinkLocked(tn *Tunnel) {
	if tn.over {
		return
	}
	tn.over = true
	delete(tt.up, tn.up)
	if tn.prev != nil {
		tn.prev.next = tn.next
	} else if tt.down[tn.down] = tn.next; tn.next == nil {
		delete(tt.down, tn.down)
	}
	if tn.next != nil {
		tn.next.prev = tn.prev
	}
	tn.next, tn.prev = nil, nil
	for _, e := range [...]*entry{tn.down, tn.up} {
		if tt.up[e] == nil && tt.down[e] == nil {
			e.flags.And(^flagPaired)
		}
	}
}

func (tt *tunnelTable) unlink(tn *Tunnel) {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	tt.unlinkLocked(tn)
}

// drop ends the tunnels of e, which has ended and is not accounted for.
func (tt *tunnelTable) drop(e *entry) {
	if e.flags.Load()&flagPaired == 0 {
		return
	}
	tt.mu.Lock()
	defer tt.mu.Unlock()
	if tn := tt.up[e]; tn != nil {
		tt.unlinkLocked(tn)
	}
	for tt.down[e] != nil {
		tt.unlinkLocked(tt.down[e])
	}
}

// ended reports whether tn was ended.
func (tt *tunnelTable) ended(tn *Tunnel) bool {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tn.over
}

// each calls f, with mu held, for the tunnels that e is part of until f returns
// false.
func (tt *tunnelTable) each(e *entry, f func(*Tunnel) bool) {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	if tn := tt.up[e]; tn != nil && !f(tn) {
		return
	}
	for tn := tt.down[e]; tn != nil && f(tn); tn = tn.next {
	}
}

// forget drops everything when the tracker is closed.
func (tt *tunnelTable) forget() {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	clear(tt.up)
	clear(tt.down)
	tt.suspects, tt.spare, tt.due = nil, nil, 0
}
