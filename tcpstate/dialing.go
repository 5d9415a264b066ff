package tcpstate

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Dialing is a dial in progress. Dialers call BeginDial before and Done after
// they dial, and in between tell what they know of it; package dialer does it
// for applications. Every method works on nil and may be called from any
// goroutine.
type Dialing struct {
	t       *Tracker
	ctx     context.Context
	network string
	origin  Origin
	site    sites.ID
	tokens  *token
	start   time.Time
	ended   time.Time
	dest    *target

	next, prev *Dialing // in dialingChore; guarded by its mu

	mu       sync.Mutex // guards following fields
	first    attempt    // most dials make one
	more     []*attempt
	tried    int // attempts, first included
	dns      *lookup
	over     bool
	awaited  bool // the loop wants to know of the end
	starving bool // failed before the second family of addresses was tried
}

// attempt is the try of one address.
type attempt struct {
	address  string          // "host:port" of the address
	raw      syscall.RawConn // nil: not known, or the dial has ended
	start    time.Time
	deadline time.Time // zero: none
	resent   uint8     // SYNs, as far as somebody has looked
	ended    bool      // as far as it was told

	look *attemptLook // owned by the loop; nil before it has looked
}

// lookup is the resolution of the name that is dialed.
type lookup struct {
	start, end time.Time // end is zero while it goes on
	v4, v6     int       // addresses found
	failed     bool
	told       bool // a finding was made of it
}

// maxAttempts bounds the addresses of one dial that are remembered.
const maxAttempts = 32

// dialed is an ended dial, or a handshake or wait, on its way to the observers.
type dialed struct {
	dial   DialInfo
	shake  *HandshakeInfo // nil: something else
	wait   *WaitInfo      // likewise
	tokens *token
	e      *entry
}

// BeginDial notes that a dial to o.Target begins: when, for which line of code,
// which is the calling one unless WithCallSite says another, and what observers
// take from ctx. It returns nil, which Done accepts, while the tracker is off.
func (t *Tracker) BeginDial(ctx context.Context, network string, o Origin) *Dialing {
	t.init()
	if t.cfg.Load().Off {
		return nil
	}
	d := &Dialing{t: t, ctx: ctx, network: network, origin: o, site: siteOfDial(ctx), tokens: t.takeTokens(ctx), start: t.seam.now()}
	t.judge.dialing.begin(t, d)
	return d
}

// DialHooks says which hooks of a dial are worth to be set, so that Trying,
// Tried, Resolving and Resolved are called.
type DialHooks struct {
	Control bool // net.Dialer.ControlContext, which hands out the socket
	Trace   bool // httptrace: names and addresses
}

// Hooked returns the context to dial with, which is ctx but for
// DialingFromContext, and the hooks to set. ctx is that of BeginDial.
func (d *Dialing) Hooked(ctx context.Context) (context.Context, DialHooks) {
	if d == nil {
		return ctx, DialHooks{}
	}
	return (*dialContext)(d), DialHooks{Control: d.t.seam.dialHooks == nil, Trace: d.t.seam.dialTrace == nil}
}

// DialingFromContext returns the dial that ctx, or a context that it is derived
// from, was made for by Hooked, or nil.
func DialingFromContext(ctx context.Context) *Dialing {
	d, _ := ctx.Value(dialingKey{}).(*Dialing)
	return d
}

type dialingKey struct{}

// dialContext is a Dialing in its role as a context, which saves an allocation.
type dialContext Dialing

func (d *dialContext) Deadline() (time.Time, bool) { return d.ctx.Deadline() }
func (d *dialContext) Done() <-chan struct{}       { return d.ctx.Done() }
func (d *dialContext) Err() error                  { return d.ctx.Err() }
func (d *dialContext) Value(key any) any {
	if key == (dialingKey{}) {
		return (*Dialing)(d)
	}
	return d.ctx.Value(key)
}

// Trying notes that the dial tries an address, "host:port". ctx is that of the
// try, which may have a deadline of its own. c is the socket, where it is known:
// then the kernel can be asked how far it has come, else only time tells. A
// second call for the same address, before Tried, adds what the first did not
// know.
func (d *Dialing) Trying(ctx context.Context, address string, c syscall.RawConn) {
	if d == nil {
		return
	}
	deadline, _ := ctx.Deadline()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return
	}
	a := d.openLocked(address)
	if a == nil {
		if d.tried == maxAttempts {
			d.t.count.dialsMissed.Add(1)
			return
		}
		a = &d.first
		if d.tried > 0 {
			a = new(attempt)
			d.more = append(d.more, a)
			a.start = d.t.seam.now()
		} else if d.dns != nil {
			a.start = d.t.seam.now()
		} else {
			a.start = d.start // an address needs no resolution
		}
		a.address = address
		d.tried++
	}
	if c != nil {
		a.raw = c
	}
	if !deadline.IsZero() {
		a.deadline = deadline
	}
}

// Tried notes that the try of an address has ended with err, nil for success.
func (d *Dialing) Tried(address string, err error) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.openLocked(address); a != nil {
		a.ended = true
	}
}

// openLocked returns the attempt at address that has not ended. The caller
// holds mu.
func (d *Dialing) openLocked(address string) *attempt {
	for i := range d.tried {
		if a := d.attemptLocked(i); a.address == address && !a.ended {
			return a
		}
	}
	return nil
}

// attemptLocked returns attempt i of those that were tried. The caller holds
// mu.
func (d *Dialing) attemptLocked(i int) *attempt {
	if i == 0 {
		return &d.first
	}
	return d.more[i-1]
}

// Resolving notes that the name is being resolved.
func (d *Dialing) Resolving() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dns == nil {
		d.dns = &lookup{start: d.t.seam.now()}
	}
}

// Resolved notes to what the name was resolved.
func (d *Dialing) Resolved(addrs []net.IPAddr, err error) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dns == nil || d.over {
		return
	}
	d.dns.end, d.dns.failed = d.t.seam.now(), err != nil
	for _, a := range addrs {
		if a.IP.To4() != nil {
			d.dns.v4++
		} else {
			d.dns.v6++
		}
	}
}

// Done ends the dial with what it returned. With wrap a *net.TCPConn is
// returned as a *Conn, as Tracker.Wrap does; without, it is watched as by
// Tracker.Attach. A connection that is no TCP connection is returned untouched.
// The type does not depend on whether the tracker is off.
func (d *Dialing) Done(c net.Conn, err error, wrap bool) net.Conn {
	if d == nil {
		if tc, ok := c.(*net.TCPConn); ok && tc != nil && wrap && err == nil {
			return &Conn{TCPConn: tc}
		}
		return c
	}
	t := d.t
	d.ended = t.seam.now()
	t.count.dials.Add(1)
	if err != nil {
		t.count.dialErrors.Add(1)
		resent := t.judge.dialing.end(t, d, nil, err)
		t.tellDialSoon(d, nil, err, resent)
		return c
	}
	tc, below := tcpBelow(c)
	if tc == nil {
		t.judge.dialing.end(t, d, nil, nil)
		return c
	}
	e := t.add(tc, d.origin, wrap && !below, d)
	t.judge.dialing.end(t, d, tc, nil)
	t.tellDialSoon(d, e, nil, 0)
	if !wrap || below {
		return c
	}
	return &Conn{TCPConn: tc, e: e}
}

// socket returns the RawConn of the connection that the dial has made, where it
// is known. That of package net does not hold the connection, so that it serves
// the registry as one from SyscallConn would.
func (d *Dialing) socket() syscall.RawConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tried != 1 {
		return nil
	}
	return d.first.raw
}

// tcpBelow returns the *net.TCPConn in c and whether c is only a wrapper of it.
// A Conn is not unwrapped: it is tracked already.
func tcpBelow(c net.Conn) (tc *net.TCPConn, below bool) {
	for i := range maxUnwrap {
		switch v := c.(type) {
		case *net.TCPConn:
			return v, i > 0
		case *Conn:
			return nil, true
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil, false
		}
	}
	return nil, false
}

// dialEnd says what became of a dial, as far as its target is concerned.
type dialEnd uint8

const (
	dialFailed  dialEnd = iota // the peer, the path or the resolver
	dialOK                     //
	dialTimeout                // we did not wait longer
	dialCancel                 // we did not want it any more
	dialNoPort                 // no local port was left
)

// classifyDial sorts the error of a dial. That the kernel gave up is not our
// own doing.
func classifyDial(err error) dialEnd {
	if err == nil {
		return dialOK
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return dialFailed
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if isNoPort(errno) {
			return dialNoPort
		}
		return dialFailed
	}
	switch {
	case errors.Is(err, context.Canceled):
		return dialCancel
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return dialTimeout
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return dialTimeout
	}
	return dialFailed
}

const (
	// maxDials bounds the ended dials that wait for the loop.
	maxDials = maxQueue
	// wakeQueue is how many ends of dials, or of connections that observers are to
	// be told of, come together before the loop is woken: their queues are
	// bounded, too.
	wakeQueue = maxQueue / 4
)

// tellDialSoon hands the dial to the loop, which tells the observers: a dial
// does not wait for them. resent is how often a SYN was seen to be sent again
// before the dial failed.
func (t *Tracker) tellDialSoon(d *Dialing, e *entry, err error, resent uint32) {
	if !t.anybody(func(o *Observer) bool { return o.DialDone != nil }) {
		return
	}
	dd := dialed{tokens: d.tokens, e: e, dial: DialInfo{
		Name: d.origin.Name, Target: d.origin.Target, Network: d.network,
		Start: d.start, End: d.ended, Err: err, Retransmits: resent,
	}}
	if e != nil {
		dd.dial.ID, dd.dial.Local, dd.dial.Remote = e.id, e.local, e.remote
		dd.dial.Retransmits = e.synRetransmits()
	}
	t.tellSoon(dd)
}

// anybody reports whether an observer is attached for whom want is true.
func (t *Tracker) anybody(want func(*Observer) bool) bool {
	subs := t.observers.Load()
	if subs == nil {
		return false
	}
	for _, s := range *subs {
		if want(s.o) {
			return true
		}
	}
	return false
}

func (t *Tracker) tellSoon(dd dialed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if len(t.dials) >= maxDials {
		t.count.queueFull.Add(1)
		return
	}
	t.dials = append(t.dials, dd)
	if len(t.dials)%wakeQueue == 0 {
		t.urgent = true
		t.kickLocked(0)
		return
	}
	t.kickLocked(youngDelay)
}

// synRetransmits returns how often the SYN of a fresh connection was sent again.
func (e *entry) synRetransmits() uint32 {
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	s.full, s.ask = false, false
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.take(e, false) != nil {
		return 0
	}
	return s.sample.totalRetrans
}

// tellDial queues an ended dial, handshake or wait for the observers.
func (t *Tracker) tellDial(d *dialed) {
	subs := t.observers.Load()
	if subs == nil {
		return
	}
	for _, s := range *subs {
		switch {
		case d.shake != nil && s.o.HandshakeDone != nil:
			s.push(event{what: eventHandshake, shake: d.shake, e: d.e})
		case d.wait != nil && s.o.WaitDone != nil:
			s.push(event{what: eventWait, wait: d.wait, tokens: d.tokens, e: d.e})
		case d.shake == nil && d.wait == nil && s.o.DialDone != nil:
			d.dial.Token = d.tokens.of(s)
			s.pushDial(&d.dial, d.e)
		}
	}
}
