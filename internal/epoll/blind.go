package epoll

import (
	"errors"
	"time"
)

// Blind is a poller without an event source, for platforms and programs that
// have none: it only waits, and what happened shows by sampling.
type Blind struct {
	wake chan struct{}
	done chan struct{}
}

// NewBlind returns a Blind.
func NewBlind() *Blind {
	return &Blind{wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Wait returns after wait (negative: no limit), Wake or Close.
func (p *Blind) Wait(wait time.Duration, evs []Event) ([]Event, error) {
	var expired <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-expired:
	case <-p.wake:
	case <-p.done:
		return evs, ErrClosed
	}
	return evs, nil
}

// Wake makes the current or the next Wait return at once.
func (p *Blind) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Handled does nothing.
func (p *Blind) Handled() {}

// Quiet is always false: events that nobody sees are handled by nobody.
func (p *Blind) Quiet() bool { return false }

// Add always fails.
func (p *Blind) Add(uintptr, uint64) error { return errors.ErrUnsupported }

// Del does nothing.
func (p *Blind) Del(uintptr) error { return nil }

// Close ends Wait. It is called once.
func (p *Blind) Close() error {
	close(p.done)
	return nil
}
