package tcpstate

import (
	"errors"
	"sync/atomic"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
)

// armedEverywhere counts the epoll watches of all trackers in the process,
// which share one allowance with Go's own poller.
var armedEverywhere atomic.Int64

// readLimit decides how many epoll watches we may take: a quarter of what the
// user has.
func (j *judgement) readLimit(maxWatches func() (int, error)) {
	n, err := maxWatches()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.limit, j.limitErr = int64(n)/4, err
	if err != nil {
		j.limit = -1
	}
}

// meet takes in the connections that are new, accounts for those that ended,
// and the dials. The caller holds judgement.mu.
func (t *Tracker) meet(now int64) {
	j := &t.judge
	t.mu.Lock()
	ends, untold := t.ends, t.untold
	t.ends, t.untold = j.spareEnds, 0
	var young []*entry
	if t.poller.Load() != nil {
		// Without a loop they wait for one.
		young, t.young = t.young, nil
		for _, e := range young {
			e.youngAt = 0
		}
	}
	t.since, t.urgent = 0, false
	t.mu.Unlock()
	j.agenda.young = 0
	if subs := t.observers.Load(); untold > 0 && subs != nil {
		for _, s := range *subs {
			s.start()
		}
	}
	for _, e := range young {
		t.arm(e)
	}
	for _, e := range ends {
		if e.slow {
			e.slow = false
			j.unarmed--
		}
		e.settleFinal()
		t.account(e, now)
		if d, ok := e.departure(); ok {
			j.closing.add(t, d)
		}
		t.legEnded(e, now)
		e.release()
	}
	j.closing.arrange(t.idle(), now)
	clear(ends)
	j.spareEnds = nil
	if cap(ends) <= maxEnds/16 {
		j.spareEnds = ends[:0]
	}
}

// settleFinal corrects the last sample by what the loop knew.
func (e *entry) settleFinal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.end != nil && e.sus != nil {
		s := &e.end.sample
		s.mptcp = s.mptcp || e.sus.mptcp
		s.correct(e.sus.hist)
	}
}

// arm begins to watch e by epoll, if the limit allows it. A FIN that has come
// before is reported at once.
func (t *Tracker) arm(e *entry) {
	j := &t.judge
	e.mu.Lock()
	defer e.mu.Unlock()
	p := t.poller.Load()
	if e.closed || e.armed || p == nil {
		return
	}
	err := epoll.ErrFull
	if j.limit < 0 || armedEverywhere.Load() < j.limit {
		if cerr := e.raw.Control(func(fd uintptr) { err = p.Add(fd, watchToken(e)) }); cerr != nil {
			return // closed behind our back: the sweep will see it
		}
		if errors.Is(err, epoll.ErrFull) {
			// Others use the allowance. What is left is for them.
			j.limit = armedEverywhere.Load()
		}
	}
	if slow := err != nil; slow != e.slow {
		e.slow = slow
		if slow {
			j.unarmed++
		} else {
			j.unarmed--
		}
	}
	if err == nil {
		e.armed = true
		e.flags.Or(flagArmed)
		armedEverywhere.Add(1)
		t.watched.Add(1)
	}
}

// unwatch ends the epoll watch of fd. It is called inside RawConn.Control.
func (t *Tracker) unwatch(fd uintptr) {
	if p := t.poller.Load(); p != nil {
		_ = p.Del(fd)
	}
}

// disarmAll leaves every connection to the sweep: the watches went with their
// poller.
func (t *Tracker) disarmAll() {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range t.entries() {
		e.mu.Lock()
		if e.armed {
			e.armed, e.slow = false, true
			e.flags.And(^flagArmed)
			j.unarmed++
			t.disarmed()
		}
		e.mu.Unlock()
	}
}

// disarmed accounts for a watch that has ended.
func (t *Tracker) disarmed() {
	armedEverywhere.Add(-1)
	t.watched.Add(-1)
}

func watchToken(e *entry) uint64 { return uint64(e.gen)<<32 | uint64(e.slot) }

// byToken returns the entry that an event is about, or nil when its connection
// has left the slot.
func (t *Tracker) byToken(tok uint64) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, gen := uint32(tok), uint32(tok>>32)
	if int(i) >= len(t.slots) || t.slots[i].gen != gen {
		return nil
	}
	return t.slots[i].e
}
