package tcpstate

import (
	"context"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Dialing is a dial in progress. Dialers call BeginDial before and Done after
// they dial; package dialer does it for applications.
type Dialing struct {
	t       *Tracker
	network string
	origin  Origin
	site    sites.ID
	tokens  *token
	start   time.Time
	ended   time.Time
}

// dialed is an ended dial on its way to the observers.
type dialed struct {
	dial   DialInfo
	tokens *token
	e      *entry
}

// BeginDial notes that a dial to o.Target begins: when, for which line of code,
// and what observers take from ctx. It returns nil, which Done accepts, while
// the tracker is off.
func (t *Tracker) BeginDial(ctx context.Context, network string, o Origin) *Dialing {
	t.init()
	if t.cfg.Load().Off {
		return nil
	}
	return &Dialing{t: t, network: network, origin: o, site: sites.Capture(1), tokens: t.takeTokens(ctx), start: t.seam.now()}
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
		t.tellDialSoon(d, nil, err)
		return c
	}
	tc, below := tcpBelow(c)
	if tc == nil {
		return c
	}
	e := t.add(tc, d.origin, wrap && !below, d)
	t.tellDialSoon(d, e, nil)
	if !wrap || below {
		return c
	}
	return &Conn{TCPConn: tc, e: e}
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

// maxDials bounds the ended dials that wait for the loop.
const maxDials = maxQueue

// tellDialSoon hands the dial to the loop, which tells the observers: a dial
// does not wait for them.
func (t *Tracker) tellDialSoon(d *Dialing, e *entry, err error) {
	subs := t.observers.Load()
	if subs == nil {
		return
	}
	wanted := false
	for _, s := range *subs {
		wanted = wanted || s.o.DialDone != nil
	}
	if !wanted {
		return
	}
	dd := dialed{tokens: d.tokens, e: e, dial: DialInfo{
		Name: d.origin.Name, Target: d.origin.Target, Network: d.network,
		Start: d.start, End: d.ended, Err: err,
	}}
	if e != nil {
		dd.dial.ID, dd.dial.Local, dd.dial.Remote = e.id, e.local, e.remote
		dd.dial.Retransmits = e.synRetransmits()
	}
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

// tellDial queues an ended dial for the observers.
func (t *Tracker) tellDial(d *dialed) {
	subs := t.observers.Load()
	if subs == nil {
		return
	}
	for _, s := range *subs {
		if s.o.DialDone == nil {
			continue
		}
		ev := event{what: eventDial, dial: d.dial, e: d.e}
		ev.dial.Token = d.tokens.of(s)
		s.push(ev)
	}
}
