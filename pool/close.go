package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Loan is a connection that is lent out.
type Loan struct {
	Network, Address string // as they were asked for
	For              time.Duration
	// Site is the call of Get or, in a program that calls it many thousand times
	// a second, the loan's first Read or Write. It is 0 when neither is known.
	Site tcpstate.CallSite
}

// LeakError is the error of Close when connections did not come back.
type LeakError struct {
	Name  string // of the pool
	Loans []Loan // the longest first

	// What else has not ended.
	Dials    int // connections that are being dialed
	Checks   int // those of a Get that asks whether the peer is still there
	Closings int // sockets whose close takes long: with SO_LINGER, for one
}

// Error names the lines that have borrowed connections, each with their number.
func (e *LeakError) Error() string {
	var b strings.Builder
	b.WriteString("pool")
	if e.Name != "" {
		fmt.Fprintf(&b, " %q", e.Name)
	}
	fmt.Fprintf(&b, ": %d not returned", len(e.Loans))
	for _, x := range [...]struct {
		n    int
		what string
	}{{e.Dials, "dialed"}, {e.Checks, "checked"}, {e.Closings, "closed"}} {
		if x.n > 0 {
			fmt.Fprintf(&b, ", %d still being %s", x.n, x.what)
		}
	}
	type line struct {
		at      string
		n       int
		longest time.Duration
	}
	var lines []line
	for _, l := range e.Loans {
		at := "an unknown line"
		if f := l.Site.Frames(); len(f) > 0 {
			at = fmt.Sprintf("%s (%s:%d)", f[0].Function, f[0].File, f[0].Line)
		}
		i := slices.IndexFunc(lines, func(l line) bool { return l.at == at })
		if i < 0 {
			i = len(lines)
			lines = append(lines, line{at: at, longest: l.For})
		}
		lines[i].n++
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.n, a.n) })
	for i, l := range lines {
		sep := ";"
		if i == 0 {
			sep = ":"
		}
		fmt.Fprintf(&b, "%s %d borrowed by %s, for up to %s", sep, l.n, l.at, tcpstate.Duration(l.longest))
	}
	return b.String()
}

// Close closes the idle connections and waits up to CloseTimeout for those that
// are lent out, which are closed when they come back. Dials in progress are
// cancelled, and calls of Get that wait return ErrClosed. When connections are
// still lent out by then, the error is a *LeakError that says who has them. They
// belong to their borrowers, go on working, and are closed by Close of the Conn.
// So it is when an idle connection takes longer to close; it goes on closing.
//
// After a Close without error no goroutine of the pool is left. Close may be
// called again, to see whether the rest came back.
func (p *Pool) Close() error {
	p.init()
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	targets := make([]*target, 0, len(p.targets))
	for _, t := range p.targets {
		targets = append(targets, t)
		p.shedLocked(t.shut()...)
	}
	p.mu.Unlock()
	p.cancel()
	p.untell()
	if err := p.wait(targets); err != nil {
		return err
	}
	for _, t := range targets {
		t.engine.Close()
	}
	p.background.Wait()
	return nil
}

// wait waits until nothing is lent out or dialed.
func (p *Pool) wait(targets []*target) error {
	late := make(<-chan time.Time)
	if d := p.limits.closing; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	for {
		p.mu.Lock()
		returned := p.returned
		p.mu.Unlock()
		left := p.leaks(targets)
		if left == nil {
			return nil
		}
		if p.limits.closing < 0 {
			return left
		}
		select {
		case <-returned:
		case <-late:
			if left = p.leaks(targets); left != nil {
				return left
			}
			return nil
		}
	}
}

// progressed says that something may have come back, to a Close that waits.
func (p *Pool) progressed() {
	if p.closing.Err() == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progressedLocked()
}

func (p *Pool) progressedLocked() {
	if p.closed {
		close(p.returned)
		p.returned = make(chan struct{})
	}
}

// leaks says what is lent out, dialed or closed, nil for nothing.
func (p *Pool) leaks(targets []*target) *LeakError {
	e := &LeakError{Name: cmp.Or(p.Name, p.Dialer.Name)}
	if p.limits.closing > 0 {
		p.mu.Lock()
		e.Closings = p.closings
		p.mu.Unlock()
	}
	now := p.now()
	for _, t := range targets {
		t.mu.Lock()
		e.Dials += t.dialing
		for _, s := range t.slips {
			switch c := s.conn; {
			case c == nil:
			case !c.handedOutLocked():
				e.Checks++
			default:
				e.Loans = append(e.Loans, Loan{
					Network: t.key.network, Address: t.key.address,
					For: time.Duration(now - c.lentAt.Load()), Site: tcpstate.CallSite(c.site.Load()),
				})
			}
		}
		t.mu.Unlock()
	}
	if len(e.Loans)+e.Dials+e.Checks+e.Closings == 0 {
		return nil
	}
	slices.SortStableFunc(e.Loans, func(a, b Loan) int { return cmp.Compare(b.For, a.For) })
	return e
}

// shut lets no connection come back, and returns those that were idle.
func (t *target) shut() (idle []*conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for c := t.idle.pop(true); c != nil; c = t.idle.pop(true) {
		t.total.left(poolClosed)
		idle = append(idle, c)
	}
	return idle
}
