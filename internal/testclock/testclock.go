// Package testclock lets a test move the time of one tracker by hand, with
// real sockets: the tracker's loop runs as always, but its clock stands still
// until Advance.
package testclock

import (
	"sync"
	"time"
)

// Clock is the time of one tracker.
type Clock struct {
	mu    sync.Mutex // guards following fields
	moved sync.Cond
	now   time.Time
	wake  func() // nil while the loop does not run
	runs  bool   // the loop runs, or is about to
	seen  uint64 // passes made
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

// Advance moves the clock by d in steps of at most a second. After each step
// the tracker's loop has seen the new time and everything that was ready.
func (c *Clock) Advance(d time.Duration) {
	for d > 0 {
		step := min(d, time.Second)
		d -= step
		c.mu.Lock()
		c.now = c.now.Add(step)
		c.mu.Unlock()
		c.Settle()
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

// Passed is called by the loop after each pass.
func (c *Clock) Passed() {
	c.mu.Lock()
	c.seen++
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
