// Package testclock lets a test move the time of one tracker by hand, with
// real sockets: the tracker's loop runs as always, but its clock stands still
// until Advance.
package testclock

import (
	"sort"
	"sync"
	"time"
)

// Clock is the time of one tracker.
type Clock struct {
	mu    sync.Mutex // guards following fields
	moved sync.Cond
	now   time.Time
	wake  func()    // nil while the loop does not run
	runs  bool      // the loop runs, or is about to
	seen  uint64    // passes made
	due   time.Time // when the loop wants to pass again
	rate  int       // how much faster than real time Advance goes; 0: it jumps
	moves []move    // that Advance has made since Pace, oldest first
	ports [2]int    // see LimitPorts
}

// move is one step of Advance.
type move struct {
	at    time.Time     // real time
	total time.Duration // by which the clock had been moved after it
}

var clocks sync.Map // tracker -> *Clock

// Install gives tracker, which has not been used yet, a clock that starts at
// the present.
func Install(tracker any) *Clock {
	c := &Clock{now: time.Now()}
	c.moved.L = &c.mu
	clocks.Store(tracker, c)
	return c
}

// Remove forgets tracker.
func Remove(tracker any) { clocks.Delete(tracker) }

// For returns the clock installed for tracker, or nil.
func For(tracker any) *Clock {
	c, _ := clocks.Load(tracker)
	clock, _ := c.(*Clock)
	return clock
}

// Now returns the time of the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d, in steps of at most a second that end whenever
// something is due in the tracker, by what its loop knew when it passed last: see
// Settle. After each step the tracker's loop has seen
// the new time and everything that was ready.
func (c *Clock) Advance(d time.Duration) {
	for d > 0 {
		step := c.step(d)
		d -= step
		c.pause(step)
		c.mu.Lock()
		c.now = c.now.Add(step)
		if c.rate > 0 {
			c.moves = append(c.moves, move{time.Now(), c.movedLocked() + step})
		}
		c.mu.Unlock()
		c.Settle()
	}
}

// Pace lets the kernel keep up with the clock: Advance takes at least one part
// in rate of the time that it moves the clock by, in which the kernel's timers
// run, and to the tracker the kernel's ages grow with the clock, see Age. It is
// called before the tracker is used.
func (c *Clock) Pace(rate int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate = rate
}

// LimitPorts makes the tracker believe that the machine has only the local
// ports from lo to hi, which are in fact what the test's dials may use.
func (c *Clock) LimitPorts(lo, hi int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ports = [2]int{lo, hi}
}

// Ports returns what LimitPorts has set, or zeros.
func (c *Clock) Ports() (lo, hi int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ports[0], c.ports[1]
}

// Rate returns what Pace has set, or 0.
func (c *Clock) Rate() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rate
}

// Age returns how long ago, by the clock, something was that the kernel says
// was real ago: by as much more as the clock has been moved since. Of two ages
// the greater one stays the greater one.
func (c *Clock) Age(real time.Duration) time.Duration {
	at := time.Now().Add(-real)
	c.mu.Lock()
	defer c.mu.Unlock()
	before := sort.Search(len(c.moves), func(i int) bool { return c.moves[i].at.After(at) })
	moved := c.movedLocked()
	if before > 0 {
		moved -= c.moves[before-1].total
	}
	return real + moved
}

// movedLocked returns by how much Advance has moved the clock since Pace. The
// caller holds mu.
func (c *Clock) movedLocked() time.Duration {
	if len(c.moves) == 0 {
		return 0
	}
	return c.moves[len(c.moves)-1].total
}

// step is how far to move the clock of the d that are left.
func (c *Clock) step(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	d = min(d, time.Second)
	if !c.runs || !c.due.After(c.now) {
		return d
	}
	return min(d, c.due.Sub(c.now))
}

// pause lets the real time pass that belongs to a step of the clock.
func (c *Clock) pause(step time.Duration) {
	if rate := c.Rate(); rate > 0 {
		time.Sleep(step / time.Duration(rate))
	}
}

// Settle waits until the loop has made two more passes, or does not run: the
// first may have looked before what the caller has just done.
func (c *Clock) Settle() {
	for range 2 {
		c.mu.Lock()
		target := c.seen + 1
		for c.seen < target && c.runs {
			if wake := c.wake; wake != nil {
				c.mu.Unlock()
				wake()
				c.mu.Lock()
			}
			if c.seen < target && c.runs {
				c.moved.Wait()
			}
		}
		c.mu.Unlock()
	}
}

// Starting, Started, Passed and Ended are called by the tracker. Starting is
// called when the loop is about to run.
func (c *Clock) Starting() {
	c.mu.Lock()
	c.runs = true
	c.mu.Unlock()
}

// Started is called by the loop: wake makes it pass once more.
func (c *Clock) Started(wake func()) {
	c.mu.Lock()
	c.wake = wake
	c.moved.Broadcast()
	c.mu.Unlock()
}

// Passed is called by the loop after each pass, when the next one is due after
// wait if nothing happens.
func (c *Clock) Passed(wait time.Duration) {
	c.mu.Lock()
	c.seen++
	c.due = c.now.Add(wait)
	c.moved.Broadcast()
	c.mu.Unlock()
}

// Ended is called by the loop when it returns.
func (c *Clock) Ended() {
	c.mu.Lock()
	c.runs, c.wake = false, nil
	c.moved.Broadcast()
	c.mu.Unlock()
}
