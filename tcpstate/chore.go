package tcpstate

// chore is work of the loop beside the connections: dials in progress,
// listeners, closed connections whose socket lingers, the process. Its methods
// are called by the loop with judgement.mu held.
type chore interface {
	// next returns when the chore has something to do; 0: not before somebody
	// calls kick.
	next() int64
	// run does what is due, for about a millisecond at most.
	run(t *Tracker, now int64)
}

func (j *judgement) chores() [7]chore {
	return [...]chore{&j.dialing, &j.listening, &j.closing, &j.tunnels, &j.process, &j.pooling, &j.churning}
}

// doChores runs those that are due.
func (t *Tracker) doChores(now int64) {
	for _, c := range t.judge.chores() {
		if at := c.next(); at != 0 && now >= at {
			c.run(t, now)
		}
	}
}

// nextChore returns when the first chore is due; 0: none.
func (j *judgement) nextChore() int64 {
	var first int64
	for _, c := range j.chores() {
		if at := c.next(); at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// pin keeps the loop running although no connection is tracked, until the same
// number is taken back. The loop acts within d.
func (t *Tracker) pin(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pins += n
	if t.pins == 0 && t.live == 0 {
		t.kickIdleLocked()
	} else if n > 0 {
		t.kickLocked(youngDelay)
	}
}

// pin keeps the loop running for one reason. The zero value does not.
type pin struct{ held bool }

// hold begins or ends it.
func (p *pin) hold(t *Tracker, want bool) {
	if want == p.held {
		return
	}
	p.held = want
	if want {
		t.pin(+1)
	} else {
		t.pin(-1)
	}
}
