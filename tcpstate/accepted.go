package tcpstate

import (
	"net/netip"
	"time"
)

// This file judges accepted connections that do not get going.

// Flags of entry, beside those of entry.go.
const (
	// flagRequests: a server reads requests one after the other, and tells of
	// each by Handle.
	flagRequests uint32 = 1 << (24 + iota)
	flagEncrypted
	flagSilent // counted in listenWatch.silent; owned by the loop
)

// AwaitRequests says that a server reads requests from the connection, one
// after the other, answers each, and tells of each by Handle: HTTP/1. Then a
// request that is begun and not completed can be told from a connection that
// lies idle. encrypted: what arrives is not only requests.
func (w *Watch) AwaitRequests(encrypted bool) {
	if w == nil {
		return
	}
	w.e.flags.Or(flagRequests)
	if encrypted {
		w.e.flags.Or(flagEncrypted)
	}
}

// AwaitNoRequests takes AwaitRequests back: the connection is of another
// protocol by now.
func (w *Watch) AwaitNoRequests() {
	if w != nil && w.e.flags.Load()&flagRequests != 0 {
		w.e.flags.And(^flagRequests)
	}
}

// accepted asks about accepted connections that do not get going.
func (o *openLook) accepted() bool {
	e, s := o.e, o.sample
	if e.role != Server || s.bytesReceived == 0 || o.seen.using {
		return false
	}
	fl := e.flags.Load()
	if fl&flagRequests != 0 {
		return s.bytesSent == 0 || s.dataRecv < s.dataSent
	}
	return fl&flagWrapped != 0 && s.bytesSent == 0 && e.readEpoch.Load() == 0
}

// waiting is what a client has sent that nobody has taken up.
type waiting struct {
	since int64  // 0: nothing
	uses  uint32 // when it began
	sent  uint64
	in    uint64 // at the last look
	grew  int    // looks at which more had come
}

// requestFacts is what judgement knows of a client's request.
type requestFacts struct {
	expected  bool // the next thing to come is one
	encrypted bool
	uses      uint32 // requests so far
	lastEnd   int64  // of the last one; 0: there was none
	waiting   waiting
}

// acceptedFacts adds to f what accepted connections are judged by.
func (e *entry) acceptedFacts(f *facts) {
	if f.role != Server || f.hist.fin || f.hist.dead {
		return
	}
	r, fl := &f.request, e.flags.Load()
	r.expected, r.encrypted = fl&flagRequests != 0, fl&flagEncrypted != 0
	e.mu.Lock()
	r.uses = e.useCount
	if e.lastUse != nil {
		r.lastEnd = e.lastUse.endedAt
	}
	e.mu.Unlock()
	w := &e.sus.waiting
	w.observe(f)
	r.waiting = *w
}

// observe takes in a look at the connection.
func (w *waiting) observe(f *facts) {
	s := &f.sample
	if !f.untouched() && !f.incomplete() {
		*w = waiting{}
		return
	}
	if w.since == 0 || w.uses != f.request.uses || w.sent != s.bytesSent {
		*w = waiting{since: f.now - int64(s.dataRecv), uses: f.request.uses, sent: s.bytesSent, in: s.bytesReceived}
		return
	}
	if s.bytesReceived > w.in {
		w.in = s.bytesReceived
		w.grew++
	}
}

// untouched reports whether bytes wait on an accepted connection that the
// application has neither read nor written.
func (f *facts) untouched() bool {
	return f.role == Server && !f.blind && !f.everRead && !f.everWrote && !f.copying && !f.using &&
		f.sample.recvQueue > 0
}

// incomplete reports whether a request has begun to arrive and has not reached
// a handler: bytes came after the last answer, and after its handler returned.
func (f *facts) incomplete() bool {
	s := &f.sample
	switch {
	case !f.request.expected || f.using || s.bytesReceived == 0:
		return false
	case s.bytesSent == 0:
		return true
	}
	return s.dataRecv < s.dataSent && f.now-int64(s.dataRecv) > f.request.lastEnd
}

// grewLooks is at how many looks more must have come before bytes over TLS
// count as a request: after the handshake a client may be silent for long.
const grewLooks = 3

// causeHandshake says of accept.trickle that it is the ClientHello which is not
// complete: a TLS server answers it.
const causeHandshake = "handshake"

func (f *facts) acceptedVerdict() verdict {
	r := &f.request
	w := &r.waiting
	if w.since == 0 {
		return verdict{}
	}
	v := verdict{kind: KindAcceptNeverRead, since: w.since}
	if !f.untouched() {
		v.kind = KindAcceptTrickle
		switch {
		case !r.encrypted || r.uses > 0:
		case f.sample.bytesSent == 0:
			v.cause = causeHandshake
		case w.grew < grewLooks:
			if f.sample.dataRecv > 2*defaultSweep {
				return verdict{} // the sweep sees when more comes
			}
			return f.lookAgain()
		}
	}
	if f.limits.Accepted == off {
		return verdict{}
	}
	return f.after(w.since+int64(f.limits.Accepted), v)
}

// countSilent keeps the count of connections whose clients have never sent a
// byte, while this end has not spoken first.
func (e *entry) countSilent(s *sample, h *history, now int64) {
	l := e.listener
	if l == nil || !s.ok || s.lacks(bytesEnd) {
		return
	}
	silent := s.bytesReceived == 0 && s.bytesSent == 0 && s.state == Established && !h.fin && !h.dead
	if silent {
		silent = now-int64(e.born.Sub(e.t.base)) >= int64(e.t.cfg.Load().limits.Accepted)
	}
	if silent {
		if x := e.expect.Load(); x != nil {
			silent = !x.LongLived && !x.ignores(KindAcceptPeerSilent)
		}
	}
	if !silent {
		e.notSilent()
		return
	}
	if e.flags.Or(flagSilent)&flagSilent == 0 {
		if l.watch.silent == 0 {
			l.watch.silentSince = now
		}
		l.watch.silent++
	}
}

// notSilent takes e out of the count.
func (e *entry) notSilent() {
	if e.flags.Load()&flagSilent != 0 && e.flags.And(^flagSilent)&flagSilent != 0 {
		e.listener.watch.silent--
	}
}

const (
	// A browser that connects ahead, or a load balancer that keeps connections
	// warm, makes a few silent connections. These make a crowd: so many of one
	// listener, or this share of its connections if they are not too few.
	silentMany  = 100
	silentShare = 5 // a fifth
	silentFew   = 10
)

// judgeSilence judges how many clients are silent.
func (l *Listening) judgeSilence(now int64) {
	n := l.watch.silent
	s := l.subject(aboutSilence)
	l.t.settle(s, &s.finding, silenceVerdict(n, int(l.conns.Load()), l.watch.silentSince), now)
}

func silenceVerdict(silent, conns int, since int64) verdict {
	if silent == 0 {
		return verdict{}
	}
	v := verdict{kind: KindAcceptPeerSilent, since: since}
	if silent > silentMany || silent >= silentFew && silent*silentShare > conns {
		v.severity = Warning
	}
	return v
}

// maxNetworks bounds the networks that silent clients are counted by.
const maxNetworks = 256

// silentClients returns how long the oldest silent connection is open, and how
// many there are by network.
func (l *Listening) silentClients(now int64) (oldest time.Duration, nets map[netip.Prefix]int) {
	nets = make(map[netip.Prefix]int)
	t := l.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.slots {
		e := t.slots[i].e
		if e == nil || e.listener != l || e.flags.Load()&flagSilent == 0 {
			continue
		}
		oldest = max(oldest, t.wall(now).Sub(e.born))
		if p, ok := network(e.remote.AddrPort().Addr()); ok && (len(nets) < maxNetworks || nets[p] > 0) {
			nets[p]++
		}
	}
	return oldest, nets
}

// network returns the network of a client, as telemetry shows it.
func network(a netip.Addr) (netip.Prefix, bool) {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	return p, err == nil && a.IsValid()
}

// drainState is how far a listener has taken its leave.
type drainState uint8

const (
	notDraining drainState = iota
	inGrace
	drained // as declared
)

func (l *Listening) drain(now int64) drainState {
	switch at := l.draining.Load(); {
	case at == 0:
		return notDraining
	case now-at < l.grace.Load():
		return inGrace
	case l.declared.Load():
		return drained
	}
	return notDraining
}

// What is normal for connections while their listener drains: for as long as
// nothing else is declared, and in the time of grace.
var (
	normalInDrain = []Kind{"accept", "closing", "handshake", "idle", "keepalive", "local", "peer.silent", "peer.no_response"}
	normalInGrace = []Kind{"close_wait", "leak.dead_socket", "reset", "tunnel"}
)

// drains reports whether k is not to be reported because the listener that
// accepted the connection drains.
func (l *Listening) drains(k Kind, now int64) bool {
	if l == nil {
		return false
	}
	state := l.drain(now)
	return state != notDraining && anyCovers(normalInDrain, k) || state == inGrace && anyCovers(normalInGrace, k)
}

func anyCovers(of []Kind, k Kind) bool {
	for _, o := range of {
		if o.covers(k) {
			return true
		}
	}
	return false
}

func (l *Listening) opened() {
	if l != nil {
		l.conns.Add(1)
	}
}

func (l *Listening) closed() {
	if l != nil {
		l.conns.Add(-1)
	}
}
