package tcpstate

import (
	"net/netip"
	"syscall"
	"time"
)

// attemptLook is what the loop knows of an attempt.
type attemptLook struct {
	th    *thing // nil: was never judged
	asked bool   // the kernel was, and has answered
	state State
	local netip.AddrPort
	to    netip.AddrPort
}

// lookAtAttempt asks the kernel about attempt i of d, where there is a socket
// to ask, and judges it.
func (c *dialingChore) lookAtAttempt(t *Tracker, d *dial, i int, now int64) {
	d.mu.Lock()
	a := d.attemptLocked(i)
	raw, ended, start := a.raw, a.ended || d.over, t.loopTime(a.start)
	resent := a.resent
	if a.look == nil {
		a.look = &attemptLook{to: parseAddrPort(a.address)}
	}
	l := a.look
	d.mu.Unlock()
	if raw != nil && !ended {
		l.state, l.asked = Unknown, false
		p, err := askAttempt(t, raw)
		switch {
		case err != nil:
			ended = true // closed: its place is another address's now
		case p.sample.ok:
			l.asked, l.state, l.local = true, p.sample.state, p.local
			resent = max(resent, p.sample.retransmits)
		default:
			t.judge.noInfo(p.err)
		}
	}
	d.mu.Lock()
	a.resent = resent
	d.mu.Unlock()

	f := attemptFacts{
		now: now, start: start, asked: l.asked, resent: resent,
		open:   !ended && (!l.asked || l.state == SynSent),
		limits: &t.cfg.Load().limits,
	}
	c.mu.Lock()
	f.reachable = l.to.IsValid() && d.dest.index != sharedTarget && d.dest.reachedSince(l.to, start)
	c.mu.Unlock()
	v := f.verdict()
	if v.kind != "" && (d.origin.Expect.ignores(v.kind) || t.cfg.Load().Off) {
		v = verdict{}
	}
	if v.kind == "" && l.th == nil {
		return
	}
	if l.th == nil {
		l.th = d.thing(SubjectDial)
		l.th.facts = func(pub *Finding, now int64) { d.describeAttempt(t, a, pub, now) }
	}
	l.th.judge(t, v, now)
	c.await(d)
}

// await asks to be told of the end of d.
func (c *dialingChore) await(d *dial) {
	if _, ok := c.judged[d]; ok {
		return
	}
	d.mu.Lock()
	over := d.over
	d.awaited = true
	d.mu.Unlock()
	if c.judged == nil {
		c.judged = make(map[*dial]struct{})
	}
	c.judged[d] = struct{}{}
	if over {
		c.mu.Lock()
		c.over = append(c.over, d)
		c.mu.Unlock()
	}
}

// attemptFacts is what a verdict on an attempt rests on.
type attemptFacts struct {
	now, start int64
	asked      bool  // the kernel was
	open       bool  // nothing has come back, as far as is known
	resent     uint8 // SYNs, if asked
	reachable  bool  // another dial has reached the same address meanwhile
	limits     *Thresholds
}

const (
	// synRetries is how many SYNs sent again are more than chance.
	synRetries = 2
	// blindDial is how old an attempt is by which the SYN has been sent again
	// twice, where nobody can say how often it was: after 1 s and 3 s (RFC
	// 6298, section 2), or each second (net.ipv4.tcp_syn_linear_timeouts).
	blindDial = 4 * time.Second
)

func (f *attemptFacts) verdict() verdict {
	age := time.Duration(f.now - f.start)
	switch {
	case !f.open || age < f.limits.Dial:
		return verdict{}
	case f.asked && f.resent < synRetries, !f.asked && age < blindDial:
		return verdict{}
	}
	v := verdict{kind: KindDialNoAnswer, since: f.start}
	if f.reachable {
		v.kind = KindDialTupleStuck
	}
	return v
}

// attemptProbe reads the socket of an attempt inside RawConn.Control.
type attemptProbe struct {
	sample sample
	local  netip.AddrPort
	err    error // why there is no sample
}

func askAttempt(t *Tracker, raw syscall.RawConn) (p attemptProbe, err error) {
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	err = raw.Control(func(fd uintptr) {
		var n int
		if n, p.err = t.seam.info(fd, s.buf[:]); p.err == nil {
			p.sample.parse(s.buf[:n])
			if !p.sample.ok {
				p.err = errShortInfo
			}
		}
		p.local = localAddr(fd)
	})
	return p, err
}

func parseAddrPort(s string) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// thing returns a subject that stands for d or its target.
func (d *dial) thing(kind SubjectType) *thing {
	return &thing{
		kind: kind, role: d.origin.Role, name: d.origin.Name, target: d.origin.Target,
		series: d.t.judge.seriesOf(d.origin.Role, d.origin.Name), opened: d.start,
		site: d.site, siteRole: "dial", tokens: d.tokens,
	}
}

// describeAttempt adds to a finding what is known of a.
func (d *dial) describeAttempt(t *Tracker, a *attempt, pub *Finding, now int64) {
	d.mu.Lock()
	start, deadline, resent := a.start, a.deadline, a.resent
	if deadline.IsZero() {
		deadline, _ = d.ctx.Deadline()
	}
	d.mu.Unlock()
	l, ev := a.look, &pub.Evidence
	pub.Subject.Remote = a.address
	if l.asked {
		pub.State, ev.Retransmits = SynSent, uint32(resent)
		if l.local.Port() != 0 {
			pub.Subject.Local = l.local.String()
			ev.note(noteFrom, pub.Subject.Local)
		}
		ev.note(noteResent, counted(int(resent), "time"))
	} else {
		ev.note(noteResent, "an unknown number of times")
	}
	wall := t.wall(now)
	ev.note(noteAge, age(wall.Sub(start)))
	switch left := deadline.Sub(wall); {
	case deadline.IsZero():
		ev.note(noteDeadline, "none")
	case left > 0:
		ev.note(noteDeadline, "in "+age(left))
	default:
		ev.note(noteDeadline, "over")
	}
}

// Names of notes, which the words of a finding refer to.
const (
	noteFrom     = "from"
	noteResent   = "SYN sent again"
	noteAge      = "age"
	noteDeadline = "deadline"
)
