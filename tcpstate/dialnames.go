package tcpstate

import (
	"fmt"
	"time"
)

// took returns how long the resolution lasted, or lasts at now.
func (l *lookup) took(now time.Time) time.Duration {
	if !l.end.IsZero() {
		now = l.end
	}
	return now.Sub(l.start)
}

// tellSlowDNS reports a resolution that took, or takes, too long.
func (c *dialingChore) tellSlowDNS(t *Tracker, d *dial, now int64) {
	if d.origin.Expect.ignores(KindDialDNSSlow) || t.cfg.Load().Off {
		return
	}
	d.mu.Lock()
	dns := *d.dns
	over := d.over
	d.mu.Unlock()
	v := verdict{kind: KindDialDNSSlow, since: t.loopTime(dns.start), cause: "slow"}
	took := dns.took(t.wall(now))
	switch {
	case dns.end.IsZero() && over:
		v.cause, took = "gave_up", d.ended.Sub(dns.start)
	case dns.end.IsZero():
		v.cause = "silent"
	case dns.failed:
		v.cause = "failed"
	}
	th := d.thing(SubjectTarget)
	th.facts = func(pub *Finding, _ int64) { pub.Evidence.note(noteLookup, age(took)) }
	t.event(th, v, now)
}

const noteLookup = "lookup"

// starvedLocked reports whether the dial has failed although half of what the
// name stands for was never tried. The caller holds mu.
func (d *dial) starvedLocked() bool {
	if d.network != "tcp" || d.dns == nil || d.dns.v4 == 0 || d.dns.v6 == 0 || d.tried == 0 {
		return false
	}
	first := parseAddrPort(d.first.address).Addr()
	for _, a := range d.more {
		if parseAddrPort(a.address).Addr().Is4() != first.Is4() {
			return false
		}
	}
	return first.IsValid()
}

// tellStarved reports a dial that never came to the second family of addresses.
func (c *dialingChore) tellStarved(t *Tracker, d *dial, now int64) {
	if d.origin.Expect.ignores(KindDialFallbackStarved) || t.cfg.Load().Off {
		return
	}
	th := d.thing(SubjectTarget)
	th.facts = func(pub *Finding, _ int64) {
		first, second, untried := "IPv6", "IPv4", d.dns.v4 // nothing changes any more
		if parseAddrPort(d.first.address).Addr().Is4() {
			first, second, untried = "IPv4", "IPv6", d.dns.v6
		}
		ev := &pub.Evidence
		ev.note(noteTried, fmt.Sprintf("%d %s", d.tried, first))
		ev.note(noteUntried, fmt.Sprintf("%d %s", untried, second))
		ev.note(noteBudget, age(d.ended.Sub(d.start)))
		if d.dns.took(d.ended) >= 10*time.Millisecond {
			ev.note(noteLookup, age(d.dns.took(d.ended)))
		}
		ev.note("last", d.attemptLocked(d.tried-1).address)
	}
	t.event(th, verdict{kind: KindDialFallbackStarved, since: t.loopTime(d.start)}, now)
}

const (
	noteTried   = "tried"
	noteUntried = "not tried"
	noteBudget  = "budget"
)
