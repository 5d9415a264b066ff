package tcpstate

import (
	"fmt"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// This file audits, once for each line that makes connections, how soon a peer
// that has vanished would be noticed.

// middleboxIdle is the shortest of the well-known times after which a load
// balancer or NAT forgets an idle connection without telling anybody.
const middleboxIdle = 4 * time.Minute

// maxAudits bounds the lines that are audited.
const maxAudits = 256

type auditKey struct {
	line uint64
	name string
	role Role
}

// auditable reports whether e is a connection whose settings matter: one that
// lies idle, to another host, and whose peer is not expected to be heard anyway.
func (o *openLook) auditable() bool {
	return !o.e.audited && o.sample.dataRecv > o.limits.Idle/20 && o.seen.expect.Heartbeat == 0
}

// audit looks at the timers of e, unless its line was audited before. Multipath
// TCP does not tell them and is left out. It is called by the loop.
func (t *Tracker) audit(e *entry, now int64) {
	e.audited = true
	j := &t.judge
	site := e.ownerSite(KindKeepaliveOff, j.hide)
	key := auditKey{site.OwnerKey(j.hide), e.series.name, e.role}
	if _, done := j.audits[key]; done || len(j.audits) >= maxAudits || t.seam.near(e.remote.IP) {
		return
	}
	p, ok := e.patience()
	if !ok {
		return
	}
	if j.audits == nil {
		j.audits = make(map[auditKey]*thing)
	}
	v := verdict{kind: auditOf(p), since: now}
	if v.kind == "" {
		j.audits[key] = nil
		return
	}
	th := t.auditThing(e, site, p)
	j.audits[key] = th
	th.judge(t, v, now)
}

// patience returns the timers of an open connection, where they are known.
func (e *entry) patience() (p tcpinfo.Patience, ok bool) {
	raw := e.rawConn()
	if raw == nil {
		return p, false
	}
	err := raw.Control(func(fd uintptr) { p, ok = tcpinfo.PatienceOf(fd) })
	return p, ok && err == nil
}

func (t *Tracker) auditThing(e *entry, site sites.ID, p tcpinfo.Patience) *thing {
	return &thing{
		kind: SubjectSite, role: e.role, name: e.name, target: e.target, series: e.series,
		opened: t.seam.now(), site: site, siteRole: e.bornBy(),
		facts: func(pub *Finding, _ int64) {
			ev := &pub.Evidence
			if p.KeepAlive {
				ev.note("keepalive", fmt.Sprintf("after %s, then %d times every %s", age(p.Idle), p.Count, age(p.Interval)))
			} else {
				ev.note("keepalive", "off")
			}
			if p.User > 0 {
				ev.note("user timeout", age(p.User))
			}
			found := "never"
			if d, ok := detection(p); ok {
				found = "after " + age(d)
			}
			ev.note("idle dead peer noticed", found)
		},
	}
}

// auditOf returns what is wrong with the timers, if anything.
func auditOf(p tcpinfo.Patience) Kind {
	switch {
	case !p.KeepAlive:
		return KindKeepaliveOff
	case p.User > 0 && p.User <= p.Idle:
		return KindKeepaliveContradictory
	case p.User > 0 && p.User <= p.Idle+p.Interval:
		return KindKeepaliveUserTimeout
	case p.Idle > middleboxIdle:
		return KindKeepaliveSlow
	}
	return ""
}

// detection returns how long an idle connection outlives its peer at most. The
// timer looks at TCP_USER_TIMEOUT only when it fires, and from the first probe
// on; with that, the number of probes does not count (tcp_keepalive_timer in
// net/ipv4/tcp_timer.c).
func detection(p tcpinfo.Patience) (d time.Duration, ok bool) {
	switch {
	case !p.KeepAlive:
		return 0, false
	case p.User == 0 || p.Interval <= 0:
		return p.Idle + time.Duration(p.Count)*p.Interval, true
	}
	d = p.Idle + p.Interval
	if p.User > d {
		d += (p.User - d + p.Interval - 1) / p.Interval * p.Interval
	}
	return d, true
}
