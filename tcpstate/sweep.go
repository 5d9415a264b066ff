package tcpstate

import (
	"slices"
	"time"
)

// lookAtSuspects looks at those that are due, for at most a tick's budget.
func (t *Tracker) lookAtSuspects(now int64) {
	j, a := &t.judge, &t.judge.agenda
	due := j.suspects
	j.suspects, j.spare = j.spare[:0], nil
	for _, e := range due {
		e.sus.queued = false
	}
	a.suspects = 0
	spent := budget()
	n := 0
	for ; n < len(due) && (n%16 != 15 || !spent()); n++ {
		t.look(due[n], now, 0) // queues it again if it is to be looked at again
	}
	if n < len(due) {
		// Those that were not reached come first next time.
		for _, e := range due[n:] {
			e.sus.queued = true
		}
		j.suspects = slices.Insert(j.suspects, 0, due[n:]...)
		a.suspects = now + int64(busyDelay)
	}
	clear(due)
	j.spare = due[:0]
}

// sweepOn looks at the next part of all connections, for at most a tick's
// budget.
func (t *Tracker) sweepOn(now int64) {
	j, a := &t.judge, &t.judge.agenda
	start := time.Now()
	spent := budget()
	if a.left == 0 {
		t.mu.Lock()
		a.left = len(t.slots)
		t.mu.Unlock()
		a.cursor = 0
		j.sweepStart, j.sweepWork = now, 0
	}
	for n := 0; a.left > 0 && (n%32 != 31 || !spent()); n++ {
		e := t.inSlot(a.cursor) // nil as long as it is new
		a.cursor++
		a.left--
		if e == nil || e.sus != nil && e.sus.queued {
			continue
		}
		if e.slow {
			t.arm(e) // there may be room by now
		}
		t.look(e, now, 0)
		j.paths.note(e)
	}
	j.sweepWork += time.Since(start)
	if a.left > 0 {
		a.sweep = now + int64(busyDelay)
		return
	}
	t.count.sweeps.Add(1)
	t.lookAtAddresses(now)
	j.process.at = now
	t.count.sweepNanos.Add(int64(j.sweepWork))
	if a.interval == off {
		a.sweep = after(now, off)
		return
	}
	// Jitter keeps many processes from sweeping in step.
	interval := int64(a.interval)
	a.sweep = max(j.sweepStart+interval-interval/10+t.jitter(interval/5), now+int64(busyDelay))
}

// budget returns a function that reports whether a tick's work is done.
func budget() (spent func() bool) {
	start := time.Now()
	return func() bool { return time.Since(start) > tickBudget }
}

func (t *Tracker) inSlot(i int) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.slots) || t.slots[i].e == nil || t.slots[i].e.youngAt != 0 {
		return nil
	}
	return t.slots[i].e
}

// suspect puts e on the list that is looked at every second, and when the
// verdict on one of it is due, unless that is 0.
func (t *Tracker) suspect(e *entry, now, due int64) {
	j := &t.judge
	if !e.sus.queued {
		e.sus.queued = true
		j.suspects = append(j.suspects, e)
	}
	if at := lookAt(len(j.suspects), now, due); j.agenda.suspects == 0 || at < j.agenda.suspects {
		j.agenda.suspects = at
	}
}

// lookAt is when to look at n subjects again, of which one is due. Many are
// looked at once a second, whenever each of them is due.
func lookAt(n int, now, due int64) int64 {
	at := now + int64(suspectInterval)
	if due == 0 || n > fewSuspects {
		return at
	}
	return min(at, max(due, now+int64(dueDelay)))
}
