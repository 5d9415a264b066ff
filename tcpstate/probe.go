package tcpstate

import (
	"context"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// ProbeOutcome is what a probe found out.
type ProbeOutcome uint8

const (
	// ProbeUnknown means that the connection was not probed, or not for long
	// enough; Reason says why. It says nothing of the connection.
	ProbeUnknown ProbeOutcome = iota
	// ProbeAlive means that the peer's kernel answered, or was heard of within
	// the last second. It says nothing of the program there.
	ProbeAlive
	// ProbeNoAnswer means that a probe went out and nothing came back. One lost
	// packet suffices for that: ask again before you believe it.
	ProbeNoAnswer
	// ProbePending means that the kernel was asking the peer already, that no
	// probe was added, and that nothing came back meanwhile. Unanswered says
	// how often it has asked; the pauses between may be long.
	ProbePending
	// ProbeEnded means that the connection is no longer established, possibly
	// because the peer answered with a reset. State says what it is now.
	ProbeEnded
)

var probeOutcomes = [...]string{"unknown", "alive", "no answer", "pending", "ended"}

// String returns "alive", "no answer" and so on.
func (o ProbeOutcome) String() string {
	if int(o) < len(probeOutcomes) {
		return probeOutcomes[o]
	}
	return probeOutcomes[ProbeUnknown]
}

// ProbeResult is the answer of Watch.Probe. The zero value is an unknown
// outcome.
type ProbeResult struct {
	Outcome ProbeOutcome
	// Reason says why no probe was sent or why its outcome is not known. It is
	// for people, and empty otherwise.
	Reason string
	// Took is the time from the request to the answer. The kernel sends the
	// probe with its next timer tick, so it is longer than the round trip by up
	// to 10 ms. It is 0 when no answer was waited for.
	Took time.Duration
	// Heard is how long ago the peer was last heard of, in steps of a few
	// milliseconds: by an acknowledgement or by data. It is 0 when not known.
	Heard time.Duration
	// Unanswered counts the probes and retransmissions in a row that the peer
	// has not answered.
	Unanswered int
	// State is the state of the endpoint afterwards, Unknown when not known.
	State State
}

const (
	probeWait  = time.Second            // for an answer, unless the context says
	probeFresh = time.Second            // heard of since: no need to ask; the resolution of TCP_KEEPIDLE
	probeSend  = 250 * time.Millisecond // for the kernel to send; it retries every 50 ms while the socket is in use
	probeShort = 200 * time.Millisecond // too short a wait to conclude anything
	probeSlack = 50 * time.Millisecond  // of the ages in TCP_INFO
	probeIdle  = time.Second            // what a loan sets TCP_KEEPIDLE to
	// probeSpare is how many probes must be left to the connection before the
	// kernel gives up, the one sent included.
	probeSpare = 3
)

// Probe asks the peer's kernel whether the connection still exists, by one
// keepalive probe: no byte of the stream, no privileges, an answer within a
// round trip. It waits for the answer until ctx ends, for a second if ctx has
// no deadline. A ctx that ends sooner than a usual answer would take gives
// ProbeUnknown, not ProbeNoAnswer.
//
// Nothing is sent when the peer was heard of in the last second: then it is
// alive. Nothing is sent either when the kernel is asking already, because data
// or a keepalive probe waits for its acknowledgement; then Probe only waits
// with it, see ProbePending.
//
// A probe does not endanger the connection. An unanswered one counts against
// TCP_KEEPCNT until the next acknowledgement, so none is sent that would leave
// fewer than two; the keepalive of the application may find a dead peer one
// interval earlier. Without keepalive that is also the limit for the probes in a
// row that go unanswered. With TCP_USER_TIMEOUT one lost probe could be fatal,
// and none is sent at all.
//
// For a few milliseconds SO_KEEPALIVE and TCP_KEEPIDLE have values of Probe. The
// keepalive methods of Conn wait for nobody and see the application's values.
// What is configured past them, on the descriptor, is left alone as far as it
// can be told: TCP_KEEPIDLE has changed.
//
// Probe may be called concurrently; one probe then serves all. There is no
// error: where it cannot work, beyond Linux and on Multipath TCP, the outcome
// is ProbeUnknown. (tcp_keepalive_timer in net/ipv4/tcp_timer.c, tcp(7).)
func (w *Watch) Probe(ctx context.Context) ProbeResult {
	if w == nil {
		return ProbeResult{Reason: "the connection is not tracked"}
	}
	e := w.e
	if e.t.seam.clock == nil && e.t.seam.fakeTime() {
		return ProbeResult{Reason: "time stands still in a bubble of testing/synctest"}
	}
	if err := ctx.Err(); err != nil {
		return ProbeResult{Reason: err.Error()}
	}
	p := &probe{e: e, began: time.Now()}
	p.control = p.look
	if p.begin() {
		return p.result
	}
	defer p.giveBack()
	p.wait(ctx)
	return p.result
}

// probe is one call of Probe.
type probe struct {
	e      *entry
	raw    syscall.RawConn // outlives that of the entry: there may be something to give back
	result ProbeResult

	began   time.Time
	heardAt time.Time // no later than this was the peer last heard of, at the beginning
	heard   time.Duration
	loan    *loan // nil: given back, or another probe's
	before  uint8 // unanswered probes at the beginning
	asked   bool  // a probe was ordered, by this call or by another one
	sent    bool  // and has gone out

	info    Info
	queued  int // bytes that the peer has not acknowledged, or will have to
	err     error
	control func(fd uintptr)
	buf     [tcpinfo.MaxSize]byte
}

// begin looks at the connection and sends a probe if it may. It reports true
// when the result is final.
func (p *probe) begin() bool {
	e := p.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.raw = e.raw; p.raw == nil {
		p.closed(e.forgotten)
		return true
	}
	if err := p.raw.Control(func(fd uintptr) { p.look(fd); p.decide(fd) }); err != nil {
		p.closed(false)
		return true
	}
	p.heardAt = time.Now().Add(-p.heard)
	return !p.asked && p.result.Outcome != ProbePending
}

// look reads what the kernel knows.
func (p *probe) look(fd uintptr) {
	var n int
	if n, p.err = p.e.t.seam.info(fd, p.buf[:]); p.err != nil {
		return
	}
	p.info = decodeInfo(p.buf[:n])
	if _, send, err := tcpinfo.Queues(fd); err == nil {
		p.queued = send
	} else {
		p.queued = int(p.info.Unacked) // only zero matters
	}
	p.heard = min(p.info.LastAckReceived, p.info.LastDataReceived)
}

// decide fills the result, lets the kernel send a probe, or finds that it is
// asking already. The caller holds the lock of the entry.
func (p *probe) decide(fd uintptr) {
	i, r := &p.info, &p.result
	if p.err != nil || i.n == 0 {
		r.Reason = fmt.Sprintf("no TCP_INFO: %v", p.err)
		return
	}
	p.note()
	switch {
	case i.State != Established:
		r.Outcome = ProbeEnded
		return
	case p.heard == 0 && i.SegmentsIn == 0:
		// Some emulations of Linux fill in neither.
		r.Reason = "the kernel does not tell when the peer was last heard of"
		return
	case p.heard < probeFresh:
		r.Outcome = ProbeAlive
		return
	case p.queued > 0:
		p.pending("data waits for its acknowledgement")
		return
	}
	if p.e.flags.Load()&flagProbing != 0 {
		p.asked = true
		return
	}
	p.before = i.Probes
	keep, ok := tcpinfo.PatienceOf(fd)
	switch probes := int(i.Probes); {
	case !ok || tcpinfo.MPTCPSocket(fd):
		r.Reason = "not possible on Multipath TCP, or the keepalive settings cannot be read"
	case probes > 0 && keep.KeepAlive:
		p.pending("keepalive is probing")
	case keep.User > 0:
		r.Reason = "TCP_USER_TIMEOUT is set: one lost probe could end the connection"
	case keep.Count < probeSpare:
		r.Reason = fmt.Sprintf("TCP_KEEPCNT is %d: too few to spend one", keep.Count)
	case probes+probeSpare > keep.Count:
		p.pending("more unanswered probes could end the connection")
	case keep.Idle > tcpinfo.MaxKeepIdle:
		r.Reason = "the system's keepalive time cannot be set on a socket" // nor be restored
	default:
		p.send(fd, keep)
	}
}

// note copies what the result tells in any case.
func (p *probe) note() {
	p.result.State, p.result.Heard = p.info.State, p.heard
	p.result.Unanswered = int(max(p.info.Probes, p.info.Retransmits))
}

func (p *probe) pending(reason string) {
	p.result.Outcome, p.result.Reason = ProbePending, reason
}

func (p *probe) closed(forgotten bool) {
	p.result = ProbeResult{Outcome: ProbeEnded, State: Closed, Reason: "closed by the application"}
	if forgotten {
		p.result = ProbeResult{Reason: "the connection is not tracked any more"}
	}
}

// send makes the kernel send a probe with its next tick. The order matters:
// TCP_KEEPIDLE sets the timer only while keepalive is on.
func (p *probe) send(fd uintptr, keep tcpinfo.Patience) {
	l := &loan{raw: p.raw, on: keep.KeepAlive, idle: keep.Idle}
	var err error
	if !l.on {
		err = tcpinfo.SetKeepAlive(fd, true)
	}
	if err == nil {
		err = tcpinfo.SetKeepIdle(fd, probeIdle)
	}
	if err != nil {
		if !l.on {
			_ = tcpinfo.SetKeepAlive(fd, false)
		}
		p.result.Reason = err.Error()
		return
	}
	p.loan, p.asked = l, true
	loans.Store(p.e, l)
	p.e.flags.Or(flagProbing)
}

// wait polls the kernel until the peer was heard of, the connection has ended,
// or ctx has.
func (p *probe) wait(ctx context.Context) {
	end := time.Duration(math.MaxInt64)
	if _, ok := ctx.Deadline(); !ok {
		end = max(probeWait, p.enough())
	}
	pause := 500 * time.Microsecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for over := false; ; {
		select {
		case <-timer.C:
		case <-ctx.Done():
			over = true
		}
		at := time.Now()
		waited := at.Sub(p.began)
		over = over || waited >= end
		// After the end there is one more look: the answer may have come while
		// this goroutine did not run.
		if p.again(at, waited) {
			return
		}
		if over {
			p.giveUp(waited)
			return
		}
		pause = min(2*pause, 20*time.Millisecond)
		timer.Reset(min(pause, end-waited))
	}
}

// again looks once more, at the time at. It reports true when the result is
// final.
func (p *probe) again(at time.Time, waited time.Duration) bool {
	r, was := &p.result, p.heard
	if err := p.raw.Control(p.control); err != nil {
		p.closed(false)
		return true
	}
	if p.err != nil {
		*r = ProbeResult{Reason: fmt.Sprintf("no TCP_INFO: %v", p.err)}
		return true
	}
	p.note()
	switch {
	case p.info.State != Established:
		r.Outcome, r.Reason = ProbeEnded, ""
		return true
	case p.heard < was || at.Add(-p.heard).After(p.heardAt.Add(probeSlack)):
		// An age that shrinks is proof. So is one that has not grown by as much
		// as the clock, for a goroutine that was away for longer than the age.
		r.Outcome, r.Reason, r.Took = ProbeAlive, "", max(waited-p.heard, 0)
		return true
	}
	// Data that was written meanwhile asks just as well.
	p.sent = p.sent || p.asked && (p.info.Probes > p.before || p.queued > 0)
	if p.loan != nil && (p.sent || waited >= probeSend) {
		p.giveBack() // for the answer they are not needed
	}
	return false
}

// giveUp fills the result when the time is over and the peer was not heard of.
func (p *probe) giveUp(waited time.Duration) {
	r := &p.result
	switch {
	case r.Outcome == ProbePending:
	case !p.sent:
		r.Reason = "the kernel has not sent the probe"
	case waited < p.enough():
		r.Reason = fmt.Sprintf("waited for %v only", waited.Round(time.Millisecond))
	default:
		r.Outcome = ProbeNoAnswer
	}
}

// enough is how long an answer must be waited for before its absence counts.
func (p *probe) enough() time.Duration { return max(probeShort, 3*p.info.RTT) }

// giveBack ends the loan of the keepalive settings, if it has not ended.
func (p *probe) giveBack() {
	if p.loan == nil {
		return
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if l, _ := loans.Load(p.e); l == p.loan {
		p.e.endLoanLocked()
	}
	p.loan = nil
}

// loan is the application's keepalive settings while a probe has its own.
type loan struct {
	raw  syscall.RawConn
	on   bool
	idle time.Duration
}

// loans holds the loans of the entries with flagProbing, under their locks: a
// handful at a time, which a field of every entry would be too much for.
var loans sync.Map // of *entry to *loan

// endLoanLocked gives the application its settings back, also before it changes
// them or closes the connection. A probe that was not sent yet is then not sent.
func (e *entry) endLoanLocked() {
	if e.flags.Load()&flagProbing == 0 {
		return
	}
	e.flags.And(^flagProbing)
	v, _ := loans.LoadAndDelete(e)
	l := v.(*loan)
	_ = l.raw.Control(func(fd uintptr) {
		if idle, err := tcpinfo.KeepIdle(fd); err != nil || idle != probeIdle {
			return // configured behind our back
		}
		if !l.on {
			// First, or a connection that was silent for longer than idle
			// would be probed once more.
			_ = tcpinfo.SetKeepAlive(fd, false)
		}
		_ = tcpinfo.SetKeepIdle(fd, l.idle)
	})
}

// setKeepAlive runs set, which changes the keepalive of the application.
func (c *Conn) setKeepAlive(set func() error) error {
	if c.e == nil {
		return set()
	}
	c.e.flags.Or(flagKeepAlive)
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.endLoanLocked()
	return set()
}
