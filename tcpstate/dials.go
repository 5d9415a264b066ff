package tcpstate

import (
	"iter"
	"net/netip"
	"time"
)

// DialSnapshot is one dial in progress at one moment.
type DialSnapshot struct {
	Role                  Role
	Name, Target, Network string
	Start                 time.Time
	Age                   time.Duration
	Deadline              time.Time     // of the dial's context; zero: none
	Resolving             bool          // the name, now
	Resolution            time.Duration // what it took, or has taken so far; 0: none was seen
	Attempts              []AttemptSnapshot
	Site                  Site
}

// AttemptSnapshot is the try of one address. Local, State and Retransmits are
// known where the kernel can be asked about its socket.
type AttemptSnapshot struct {
	Local, Remote netip.AddrPort // zero: not known
	Start         time.Time
	Ended         bool // in vain
	State         State
	Retransmits   int // SYNs sent again; negative: not known
}

// Dials returns the dials in progress, oldest first, each read from the kernel
// when the iteration reaches it.
func (t *Tracker) Dials() iter.Seq[DialSnapshot] {
	t.init()
	return func(yield func(DialSnapshot) bool) {
		for _, d := range t.judge.dialing.all() {
			if s, ok := d.snapshot(); ok && !yield(s) {
				return
			}
		}
	}
}

func (c *dialingChore) all() (all []*dial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := c.first; d != nil; d = d.next {
		d.shared = true
		all = append(all, d)
	}
	return all
}

// snapshot reports false when the dial has ended.
func (d *dial) snapshot() (s DialSnapshot, ok bool) {
	t := d.t
	now := t.seam.now()
	s = DialSnapshot{
		Role: d.origin.Role, Name: d.origin.Name, Target: d.origin.Target, Network: d.network,
		Start: d.start, Age: now.Sub(d.start), Site: Site{Role: "dial"},
	}
	s.Deadline, _ = d.ctx.Deadline()
	if fs := d.site.Owner(t.cfg.Load().HideFrames); len(fs) > 0 {
		s.Site.Frames = publicFrames(fs)
	}
	d.mu.Lock()
	if d.dns != nil {
		s.Resolving, s.Resolution = d.dns.end.IsZero(), d.dns.took(now)
	}
	tried := make([]attempt, d.tried)
	for i := range tried {
		tried[i] = *d.attemptLocked(i)
	}
	over := d.over
	d.mu.Unlock()
	for _, a := range tried {
		s.Attempts = append(s.Attempts, a.snapshot(t))
	}
	return s, !over
}

func (a *attempt) snapshot(t *Tracker) AttemptSnapshot {
	s := AttemptSnapshot{Remote: parseAddrPort(a.address), Start: a.start, Ended: a.ended, Retransmits: -1}
	if a.raw == nil || a.ended {
		return s
	}
	p, err := askAttempt(t, a.raw)
	switch {
	case err != nil:
		s.Ended = true
	case p.sample.ok:
		s.Local, s.State, s.Retransmits = p.local, p.sample.state, int(p.sample.retransmits)
	}
	return s
}
