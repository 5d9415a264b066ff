package tcpstate

import "sync/atomic"

// poolUses is what a Pool counts of its connections that are in use.
type poolUses struct {
	whole *Pool        // that the pool is a part of; nil: of none
	used  atomic.Int64 // uses in progress, on connections that are open
	peak  atomic.Int64 // most of them since Surplus was last told of
}

// Part returns a pool that is a part of p: whoever waits for one of its
// connections is not served by those of other parts, such as those to another
// host.
func (p *Pool) Part() *Pool {
	if p == nil {
		return nil
	}
	return &Pool{t: p.t, name: p.name, site: p.site, poolUses: poolUses{whole: p}}
}

// Lend says that whatever connection serves u belongs to p. It is called before
// u is attached.
//
// When somebody waits for a connection of p, and the application neither reads
// an answer that has begun, as Usage.Answered says, nor ends the use,
// leak.not_returned is reported at its line.
func (p *Pool) Lend(u *Usage) {
	if p == nil || u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.e == nil {
		u.pool = p
	}
}

// InUse returns the number of uses in progress of p's connections that were
// told of by Lend or Watch.Borrow. Parts count for themselves.
func (p *Pool) InUse() int {
	if p == nil {
		return 0
	}
	return int(p.used.Load())
}

// Connections returns how many connections of p, and of its parts, are open:
// those in use, and those that lie idle. One that has served nobody yet is not
// among them. It looks at each connection of the tracker.
func (p *Pool) Connections() (used, idle int) {
	if p == nil {
		return 0, 0
	}
	for _, e := range p.t.unsorted() {
		e.mu.Lock()
		switch u := e.oldestUseLocked(); {
		case e.closed:
		case u != nil && u.pool.within(p):
			used++
		case u == nil && e.lastUse != nil && e.lastUse.pool.within(p):
			idle++
		}
		e.mu.Unlock()
	}
	return used, idle
}

// within reports whether p is whole or a part of it.
func (p *Pool) within(whole *Pool) bool { return p != nil && (p == whole || p.whole == whole) }

// borrowed and returned count a use of an open connection.
func (p *Pool) borrowed() {
	if p == nil {
		return
	}
	n := p.used.Add(1)
	for {
		peak := p.peak.Load()
		if n <= peak || p.peak.CompareAndSwap(peak, n) {
			return
		}
	}
}

func (p *Pool) returned() {
	if p != nil {
		p.used.Add(-1)
	}
}
