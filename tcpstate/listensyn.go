package tcpstate

import (
	"cmp"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// synWatch looks for clients that do not complete their handshakes: entries in
// SYN-RECV, which only a dump of the kernel's table shows. A dump walks the
// table of the whole host, so it is made on a goroutine of its own, seldom, and
// only when something in the network namespace was sent again lately.
type synWatch struct {
	counting sync.WaitGroup

	// Owned by the loop.
	due     int64
	retrans uint64 // SYNs and SYN-ACKs sent again, as at the last look
	known   bool   // retrans is
	err     error  // why there is nothing to know; nil: there is

	mu     sync.Mutex // guards following fields
	busy   bool       // a dump is being made
	after  int64      // the next one is not before
	counts map[*Listening]synCount
	dumped error
}

// synCount is the handshakes of one listener that do not get on.
type synCount struct {
	entries int // whose SYN-ACK was sent again twice or more
	retries int // of the most stubborn one
	network netip.Prefix
	most    int // entries from network
}

const (
	// synAckRetries is how often the SYN-ACK of an entry was sent again before it
	// counts, which each SYN of the client and each timeout here brings about:
	// a second is enough. An entry of TCP_DEFER_ACCEPT, which waits for the
	// client's data, has none.
	synAckRetries = 2
	// synFromOne is how many such entries from one network, and synInAll how
	// many in all, are no noise: scanners leave single ones from everywhere.
	synFromOne = 3
	synInAll   = 10
	// dumpShare: for as many times its own length nothing is dumped after a dump.
	dumpShare = 100
)

func (n *synCount) stalled() bool { return n.most >= synFromOne || n.entries >= synInAll }

// look asks for a dump if there is reason to, at most once per sweep.
func (w *synWatch) look(t *Tracker, all []*Listening, now int64) {
	if now < w.due {
		return
	}
	w.due = t.judge.agenda.sweep
	n, err := t.seam.synRetransmits()
	w.err = err
	moved := w.known && n != w.retrans
	w.retrans, w.known = n, err == nil
	if err != nil || t.cfg.Load().limits.Accept == off {
		return
	}
	var of []*Listening
	for _, l := range all {
		if l.drain(now) == notDraining {
			of = append(of, l)
			moved = moved || l.watch.synSince != 0
		}
	}
	if moved && len(of) > 0 {
		w.dump(t, of, now)
	}
}

// dump counts on a goroutine of its own.
func (w *synWatch) dump(t *Tracker, of []*Listening, now int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy || now < w.after {
		return
	}
	w.busy = true
	w.counting.Go(func() {
		counts, cost, err := t.seam.countSYNs(of)
		w.mu.Lock()
		w.busy, w.counts, w.dumped = false, counts, err
		w.after = t.now() + int64(cost)*dumpShare
		w.mu.Unlock()
		t.judge.listening.soon(t.now())
		t.kick(youngDelay)
	})
}

// take returns the outcome of a dump, once, or nil.
func (w *synWatch) take() map[*Listening]synCount {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := w.counts
	w.counts = nil
	return counts
}

// facility says whether there is anything to know. noDiag is why nothing can be
// dumped, nil where it can.
func (w *synWatch) facility(noDiag error) Facility {
	f := Facility{Name: "syn_recv", OK: true, Detail: "handshakes that clients do not complete are seen"}
	w.mu.Lock()
	err := cmp.Or(w.err, w.dumped, noDiag)
	w.mu.Unlock()
	if err != nil {
		f.OK, f.Detail = false, "handshakes that clients do not complete are not seen: "+err.Error()
		f.Kinds = []Kind{KindListenerSYNRecv}
	}
	return f
}

// judgeSYNs judges what a dump has found for l. One alone is not enough: what
// was lost for a moment is made up for by the next SYN-ACK.
func (l *Listening) judgeSYNs(n synCount, now int64) {
	w := &l.watch
	s := l.subject(aboutSYNs)
	v := verdict{}
	switch {
	case !n.stalled():
		w.synSince = 0
	case w.synSince == 0:
		w.synSince = now
	default:
		v = verdict{kind: KindListenerSYNRecv, since: w.synSince}
	}
	w.syns = n
	l.t.settle(s, &s.finding, v, now)
}

// countSYNs counts the entries in SYN-RECV of the listeners. The cost is what a
// dump took.
func countSYNs(of []*Listening) (map[*Listening]synCount, time.Duration, error) {
	conn, err := sockdiag.Open()
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	at := make(map[*Listening]netip.AddrPort, len(of))
	ports := make(map[uint16]bool)
	q := sockdiag.Query{States: 1 << SynRecv}
	for _, l := range of {
		a, ok := l.addr.(*net.TCPAddr)
		if !ok {
			continue
		}
		at[l] = a.AddrPort()
		ports[uint16(a.Port)] = true
		q.LocalPort = uint16(a.Port)
	}
	if len(ports) > 1 {
		q.LocalPort = 0
	}
	tallies := make(map[*Listening]map[netip.Prefix]int)
	counts := make(map[*Listening]synCount, len(of))
	d, err := conn.Dump(q, func(s *sockdiag.Socket) bool {
		if s.Retrans < synAckRetries || !ports[s.Local.Port()] {
			return true
		}
		for l, a := range at {
			if !listensOn(a, s.Local) {
				continue
			}
			if tallies[l] == nil {
				tallies[l] = make(map[netip.Prefix]int)
			}
			n := counts[l]
			n.add(s, tallies[l])
			counts[l] = n
		}
		return true
	})
	for _, l := range of {
		if _, ok := counts[l]; !ok && err == nil {
			counts[l] = synCount{}
		}
	}
	return counts, d.Cost, err
}

// add counts one entry. nets are the entries by network.
func (n *synCount) add(s *sockdiag.Socket, nets map[netip.Prefix]int) {
	n.entries++
	n.retries = max(n.retries, int(s.Retrans))
	p, ok := network(s.Remote.Addr())
	if !ok || len(nets) >= maxNetworks && nets[p] == 0 {
		return
	}
	nets[p]++
	if nets[p] > n.most {
		n.most, n.network = nets[p], p
	}
}

// listensOn reports whether a listener at a gets connections to local.
func listensOn(a, local netip.AddrPort) bool {
	if a.Port() != local.Port() {
		return false
	}
	switch ip := a.Addr().Unmap().WithZone(""); {
	case !ip.IsValid(), ip == netip.IPv6Unspecified():
		return true
	case ip == netip.IPv4Unspecified():
		return local.Addr().Is4()
	default:
		return ip == local.Addr().Unmap()
	}
}
