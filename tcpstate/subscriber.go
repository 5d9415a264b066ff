package tcpstate

import (
	"runtime/debug"
	"sync"
	"time"
)

// subscriber is an attached observer and its queue.
type subscriber struct {
	o *Observer
	t *Tracker

	told map[*group]told // guarded by judge.mu

	mu      sync.Mutex // guards following fields
	queue   fifo[event]
	dials   fifo[DialInfo]   // of the events about them, in the same order
	closes  fifo[ClosedInfo] // likewise
	running bool
	stopped bool
}

// event is one call of an observer.
type event struct {
	what    eventKind
	finding *Finding
	shake   *HandshakeInfo
	wait    *WaitInfo
	tokens  *token // of wait
	e       *entry // of dial, shake, wait and closed
}

// news is an event with what lies in queues of its own, because there is one for
// every dial and connection.
type news struct {
	event
	dial   DialInfo
	closed ClosedInfo
}

type eventKind uint8

const (
	eventDial eventKind = iota
	eventHandshake
	eventWait
	eventClosed
	eventOpened
	eventChanged
	eventReminded
	eventCleared
)

const (
	// maxQueue bounds the events about single dials and connections.
	maxQueue = 4096
	// maxFindings is the room for findings on top: they come in groups, so
	// they are few, and they are what observers are for.
	maxFindings = 1024
)

// push queues ev, or drops and counts it and returns false. The end of a group
// is never dropped: there are not more of them than beginnings.
func (s *subscriber) push(ev event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pushLocked(ev)
}

// pushDial queues the end of a dial.
func (s *subscriber) pushDial(d *DialInfo, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushLocked(event{what: eventDial, e: e}) {
		s.dials.push(d)
	}
}

// pushClosed queues the end of a connection.
func (s *subscriber) pushClosed(c *ClosedInfo, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushLocked(event{what: eventClosed, e: e}) {
		s.closes.push(c)
	}
}

func (s *subscriber) pushLocked(ev event) bool {
	limit := maxQueue
	if ev.what >= eventOpened {
		limit += maxFindings
	}
	if s.stopped || s.queue.len() >= limit && ev.what != eventCleared {
		s.t.count.queueFull.Add(1)
		return false
	}
	s.queue.push(&ev)
	if !s.running {
		s.running = true
		time.AfterFunc(0, s.drain) // without the pprof labels of the caller
	}
	return true
}

// drain tells the observer until the queue is empty.
func (s *subscriber) drain() {
	done := false
	defer func() {
		if !done {
			// The observer has ended this goroutine: runtime.Goexit, which is
			// what t.FailNow does. Go on with the next event.
			time.AfterFunc(0, s.drain)
		}
	}()
	var ev news
	for s.pop(&ev) {
		s.tell(&ev)
	}
	done = true
}

// pop takes the next event off the queue, and ends running when there is none.
func (s *subscriber) pop(ev *news) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*ev = news{}
	if !s.queue.pop(&ev.event) {
		s.running = false
		if s.t.poller.Load() == nil {
			s.restLocked()
		}
		return false
	}
	switch ev.what {
	case eventDial:
		s.dials.pop(&ev.dial)
	case eventClosed:
		s.closes.pop(&ev.closed)
	}
	return true
}

// rest gives back what an empty queue keeps: the loop has ended.
func (s *subscriber) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restLocked()
}

func (s *subscriber) restLocked() {
	if s.queue.len() == 0 {
		s.queue, s.dials, s.closes = fifo[event]{}, fifo[DialInfo]{}, fifo[ClosedInfo]{}
	}
}

// stop ends the subscription and waits until the queue is empty. It polls: a
// channel made here could not be closed from the goroutine that drains, if this
// one runs in a bubble of testing/synctest.
func (s *subscriber) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		running := s.running
		s.mu.Unlock()
		if !running {
			return
		}
	}
}

// stopTimeout is how long stop waits for an observer that hangs.
const stopTimeout = 5 * time.Second

func (s *subscriber) tell(ev *news) {
	defer s.caught()
	o := s.o
	call := func(f func(Finding)) {
		if f != nil {
			f(*ev.finding)
		}
	}
	switch ev.what {
	case eventDial:
		if o.DialDone == nil {
			return
		}
		if v := o.DialDone(ev.dial); v != nil && ev.e != nil {
			ev.e.mu.Lock()
			ev.e.tokens = &token{sub: s, v: v, next: ev.e.tokens}
			ev.e.mu.Unlock()
		}
	case eventHandshake:
		if o.HandshakeDone != nil {
			info := *ev.shake
			ev.e.mu.Lock()
			info.DialToken = ev.e.tokens.of(s)
			ev.e.mu.Unlock()
			o.HandshakeDone(info)
		}
	case eventWait:
		s.tellWait(&ev.event)
	case eventClosed:
		if o.Closed != nil {
			// A token that DialDone returned came after the event was queued.
			if ev.e != nil {
				ev.e.mu.Lock()
				ev.closed.DialToken = ev.e.tokens.of(s)
				ev.e.mu.Unlock()
			}
			o.Closed(ev.closed)
		}
	case eventOpened:
		call(o.Opened)
	case eventChanged:
		call(o.Changed)
	case eventReminded:
		call(o.Reminded)
	case eventCleared:
		call(o.Cleared)
	}
}

// caught keeps a panic of an observer from the application. The first one is
// logged, if the logger is not what panics.
func (s *subscriber) caught() {
	r := recover()
	if r == nil {
		return
	}
	if s.t.count.panics.Add(1) == 1 {
		defer func() { _ = recover() }()
		s.t.logger().Error("tcpstate: an observer panicked", "panic", r, "stack", string(debug.Stack()))
	}
}
