package tcpstate

import (
	"slices"
	"time"
)

// sweepBatch is how many connections are looked at between two looks at the
// clock, and at t.mu.
const sweepBatch = 16

// lookAtSuspects looks at those that are due, for no longer than most.
func (t *Tracker) lookAtSuspects(now int64, most time.Duration) {
	j, a := &t.judge, &t.judge.agenda
	due := j.suspects
	j.suspects, j.spare = j.spare[:0], nil
	for _, e := range due {
		e.sus.queued = false
	}
	a.suspects = 0
	start := time.Now()
	n := 0
	for ; n < len(due) && (n == 0 || n%sweepBatch != 0 || time.Since(start) < most); n++ {
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

// sweepOn looks at the next part of all connections, for no longer than most.
func (t *Tracker) sweepOn(now int64, most time.Duration) {
	j, a := &t.judge, &t.judge.agenda
	start, looks := time.Now(), 0
	if a.left == 0 {
		t.mu.Lock()
		a.left = len(t.slots)
		t.mu.Unlock()
		a.cursor = 0
		j.sweepStart, j.sweepWork = now, 0
	}
	for a.left > 0 {
		batch, n, slow := t.nextBatch()
		looks += n
		for _, e := range batch[:n] {
			if slow && e.slow {
				t.arm(e) // there may be room by now
			}
			if e.slow || e.sus != nil {
				t.look(e, now, 0)
			} else if err := e.glance(j.sampler); err != nil || !j.sampler.quiet {
				t.lookOn(e, now, err)
			} else if f := t.seam.looked; f != nil {
				f(e.id, 0)
			}
			j.paths.note(e)
		}
		if time.Since(start) >= most {
			break
		}
	}
	j.sweepWork += time.Since(start)
	if a.left > 0 {
		a.sweep = now + int64(busyDelay)
		return
	}
	t.count.sweeps.Add(1)
	t.lookAtAddresses(now)
	j.process.swept(now, looks)
	t.count.sweepNanos.Add(int64(j.sweepWork))
	if a.interval == off {
		a.sweep = after(now, off)
		return
	}
	// Jitter keeps many processes from sweeping in step.
	interval := int64(a.interval)
	a.sweep = max(j.sweepStart+interval-interval/10+t.jitter(interval/5), now+int64(busyDelay))
}

// nextBatch returns what is in the next slots of the sweep, but for what is new
// or a suspect, and whether epoll does not watch all of them.
// That it touches all of them at once, in each line of memory that a glance
// needs, is for the processor, which then waits for several entries' in one go.
func (t *Tracker) nextBatch() (batch [sweepBatch]*entry, n int, slow bool) {
	a := &t.judge.agenda
	t.mu.Lock()
	defer t.mu.Unlock()
	for range min(a.left, sweepBatch) {
		i := a.cursor
		a.cursor++
		a.left--
		if i >= len(t.slots) {
			continue
		}
		e := t.slots[i].e
		if e != nil && e.youngAt == 0 && (e.sus == nil || !e.sus.queued) {
			batch[n] = e
			n++
			slow = slow || e.slow
		}
	}
	return batch, n, slow
}

// budget returns a function that reports whether a tick's work is done.
func budget() (spent func() bool) {
	start := time.Now()
	return func() bool { return time.Since(start) > tickBudget }
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
