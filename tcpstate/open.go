package tcpstate

import "time"

// This file judges connections that both ends keep open. Most of them are
// healthy, so one sample decides first whether there is anything to ask.

// openLook is what a look at an open connection found.
type openLook struct {
	e      *entry
	now    int64
	s      *sampler
	sample *sample // of s
	seen   *observation
	limits *Thresholds
	sweep  int64
	queues bool // sample has them
}

// lookOpen judges e, which is open in the direction from the peer.
func (t *Tracker) lookOpen(e *entry, now int64, hist history, seen *observation) {
	s, sus := t.judge.sampler, e.sus
	e.setState(s.sample.state)
	cfg := t.cfg.Load()
	o := openLook{
		e: e, now: now, s: s, sample: &s.sample, seen: seen,
		limits: &cfg.limits, sweep: int64(min(cfg.sweep(), time.Hour)), queues: s.full,
	}
	if s.sample.ok && o.auditable() {
		t.audit(e, now)
	}
	if d := cfg.ProbePooled; d > 0 && s.sample.ok && o.pooledIdle(d) {
		t.probePooled(e)
	}
	asked := s.sample.ok && o.questionable()
	if asked && !s.full {
		s.again(e)
		o.queues = true
		asked = s.sample.ok && o.questionable()
	}
	if sus == nil {
		if !asked && hist == (history{}) {
			return
		}
		sus = new(suspicion)
		e.sus = sus
	}
	sus.hist = hist
	if !asked && sus.finding == nil {
		if hist == (history{}) && !sus.queued && len(sus.kinds) == 0 {
			e.sus = nil // it was nothing
		}
		return
	}
	sus.mptcp, sus.made = sus.mptcp || s.sample.mptcp, sus.made || s.sample.made
	sus.progress(e, &s.sample, now)
	sus.used(seen.uses, seen.using, now)
	sus.halfClosed(&s.sample, now)
	sus.sample, sus.sampledAt = s.sample, now
	t.judgeEntry(e, now, seen)
}

// questionable reports whether a sample of an open connection gives reason to
// judge it. It is asked of every connection at every sweep, so it is quick. When
// it says yes, it is asked once more with the queues.
func (o *openLook) questionable() bool {
	return o.pathGone() || o.inTransfer() || o.halfClosed() || o.accepted() || o.setUp()
}

// bothOpen judges a connection whose peer has neither closed nor gone: the
// strongest verdict counts.
func (f *facts) bothOpen() verdict {
	return f.first(
		(*facts).pathVerdict, (*facts).halfClosedVerdict, (*facts).transferVerdict, (*facts).acceptedVerdict, (*facts).setupVerdict,
	)
}

// first returns the first verdict that names a kind, or else when to look again.
// What is to be ignored does not hide what comes after it.
func (f *facts) first(judges ...func(*facts) verdict) verdict {
	var due int64
	for _, judge := range judges {
		v := judge(f)
		if v.kind != "" && !f.expect.ignores(v.kind) {
			return v
		}
		if v.due != 0 && (due == 0 || v.due < due) {
			due = v.due
		}
	}
	return verdict{due: due}
}
