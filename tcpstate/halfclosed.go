package tcpstate

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// This file is about peers that keep their direction open after we have closed
// ours: by CloseWrite, while the descriptor is held, and by Close.

// halfClosed asks about connections that we have closed in our direction. The
// peer has acknowledged that: as long as it has not, its silence is what
// matters.
func (o *openLook) halfClosed() bool { return o.sample.state == FinWait2 && !o.sample.mptcp }

// halfClosed notes whether the peer has sent anything since our direction was
// closed.
func (sus *suspicion) halfClosed(s *sample, now int64) {
	switch {
	case s.state != FinWait2 || s.mptcp || sus.mptcp:
		sus.halfAt = 0
	case sus.halfAt == 0:
		sus.halfAt, sus.heardAt, sus.heard = now, now, s.bytesReceived
	case s.bytesReceived != sus.heard:
		sus.heardAt, sus.heard = now, s.bytesReceived
	}
}

// halfClosedVerdict judges a connection of which we have closed our direction.
func (f *facts) halfClosedVerdict() verdict {
	if f.halfAt == 0 || f.halfClose || f.limits.HalfOpen == off {
		return verdict{}
	}
	if f.using {
		return verdict{} // an answer is awaited
	}
	v := verdict{kind: KindClosingPeerOpen, since: f.halfAt}
	if f.role == Client && (f.sample.bytesSent > 0 || f.sample.lacks(bytesEnd)) && (f.sample.bytesReceived == 0 || f.sample.dataSent < f.sample.dataRecv) {
		// It may be at work on an answer to what was sent last.
		v.cause, v.severity = "answer_pending", Inventory
	}
	grace := f.limits.HalfOpen
	if f.expect != nil {
		grace = max(grace, f.expect.Silence)
	}
	return f.after(max(f.heardAt, f.progressAt)+int64(grace), v)
}

const (
	// pollsPerRun is how many of the connections that we closed first are
	// looked up again, at random.
	pollsPerRun = 16
	// pollAfter is when: long after a healthy peer has closed, and before the
	// kernel forgets the socket (net.ipv4.tcp_fin_timeout, 60 s).
	pollAfter = 15 * time.Second
	maxPolls  = 512

	// What makes a finding: that many of those polled, and at least half.
	minHalfOpen    = 8
	maxPollTargets = 64
	pollMemory     = int64(2 * time.Minute)
)

// halfOpenPolls finds the targets that do not close when we do. What single
// sockets in FIN-WAIT-2 cost is nothing, so a sample is enough.
type halfOpenPolls struct {
	picked  [pollsPerRun]departed // of this run
	seen    int
	polls   []departed // in order of Close; at is when to ask
	targets map[pollKey]*pollTarget
}

type pollKey struct {
	name, target string
}

type pollTarget struct {
	thing
	asked, held int
	since, at   int64 // of the first held, of the last poll
}

// consider gives d, which is looked up no more, a chance to be polled.
func (h *halfOpenPolls) consider(d departed) {
	if !d.first || d.e.role != Client {
		return
	}
	h.seen++
	if h.seen <= pollsPerRun {
		h.picked[h.seen-1] = d
	} else if i := rand.IntN(h.seen); i < pollsPerRun {
		h.picked[i] = d
	}
}

// choose ends the choice of this run.
func (h *halfOpenPolls) choose(now int64) {
	for i := range min(h.seen, pollsPerRun) {
		if len(h.polls) < maxPolls {
			d := h.picked[i]
			d.at = now + int64(pollAfter)
			h.polls = append(h.polls, d)
		}
	}
	if h.seen > 0 {
		h.seen, h.picked = 0, [pollsPerRun]departed{}
	}
}

func (h *halfOpenPolls) next() int64 {
	if len(h.polls) > 0 {
		return h.polls[0].at
	}
	var first int64
	for _, p := range h.targets {
		if at := p.at + pollMemory + 1; first == 0 || at < first {
			first = at
		}
	}
	return first
}

// ask polls those that are due.
func (h *halfOpenPolls) ask(q *questions, now int64) {
	n := 0
	for n < len(h.polls) && h.polls[n].at <= now {
		n++
	}
	if n == 0 {
		return
	}
	left := ask(q, h.polls[:n], func(d departed) *entry { return d.e }, func(d departed, r *sockdiag.Result) {
		if r.Status != sockdiag.Unknown {
			h.count(d.e, halfOpen(r), now)
		}
	})
	h.polls = append(left, h.polls[n:]...)
}

// halfOpen reports whether the peer of a socket that no descriptor shows keeps
// its direction open.
func halfOpen(r *sockdiag.Result) bool {
	return r.Status == sockdiag.Found && r.Socket.Inode == 0 && State(r.Socket.State) == FinWait2
}

func (h *halfOpenPolls) count(e *entry, held bool, now int64) {
	e.mu.Lock()
	key := pollKey{e.name, e.target}
	e.mu.Unlock()
	if key.target == "" {
		key.target = e.remote.String()
	}
	p := h.targets[key]
	if p == nil {
		if len(h.targets) >= maxPollTargets {
			return
		}
		if h.targets == nil {
			h.targets = make(map[pollKey]*pollTarget)
		}
		p = &pollTarget{thing: thing{
			kind: SubjectTarget, role: Client, name: e.name, target: key.target, series: e.series,
			opened: e.born, site: e.site, siteRole: "dial",
		}}
		p.facts = p.evidence
		h.targets[key] = p
	}
	if p.asked >= 8*minHalfOpen {
		p.asked, p.held = p.asked/2, p.held/2 // what is long ago counts for less
	}
	p.at = now
	p.asked++
	if held {
		if p.held == 0 {
			p.since = now - int64(pollAfter)
		}
		p.held++
	}
}

// judge opens and clears findings, and forgets targets that nobody dials.
func (h *halfOpenPolls) judge(t *Tracker, now int64) {
	on := t.cfg.Load().limits.HalfOpen != off
	for key, p := range h.targets {
		var v verdict
		if on && (p.held >= minHalfOpen && 2*p.held >= p.asked || p.finding != nil && 4*p.held >= p.asked) {
			v = verdict{kind: KindPeerKeepsHalfOpen, since: p.since}
		}
		if now-p.at > pollMemory {
			v = verdict{}
			delete(h.targets, key)
		}
		p.judge(t, v, now)
	}
}

func (h *halfOpenPolls) forget(t *Tracker, now int64) {
	for _, p := range h.targets {
		p.judge(t, verdict{}, now)
	}
	*h = halfOpenPolls{}
}

func (p *pollTarget) evidence(pub *Finding, _ int64) {
	pub.State = FinWait2
	pub.Evidence.note("half-closed after "+age(pollAfter), fmt.Sprintf("%d of %d looked up", p.held, p.asked))
}
