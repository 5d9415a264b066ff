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
	queues  *queues    // nil: empty
	running bool
	stopped bool
}

// queues are what a subscriber is to be told of.
type queues struct {
	events fifo[event]
	dials  fifo[DialInfo]   // of the events about them, in the same order
	closes fifo[ClosedInfo] // likewise
}

// idleQueues are those that nobody needs at present: the next collections of
// garbage take them.
var idleQueues = sync.Pool{New: func() any { return new(queues) }}

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
	ok := s.pushLocked(ev)
	s.startLocked()
	return ok
}

// pushClosed queues the end of a connection.
func (s *subscriber) pushClosed(c *ClosedInfo, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushLocked(event{what: eventClosed, e: e}) {
		s.queues.closes.push(c)
	}
	s.startLocked()
}

// pushSoon queues ev for the next start.
func (s *subscriber) pushSoon(ev event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushLocked(ev)
}

// pushDial queues the end of a dial for the next start.
func (s *subscriber) pushDial(d *DialInfo, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushLocked(event{what: eventDial, e: e}) {
		s.queues.dials.push(d)
	}
}

func (s *subscriber) pushLocked(ev event) bool {
	if s.queues == nil {
		s.queues = idleQueues.Get().(*queues)
	}
	limit := maxQueue
	if ev.what >= eventOpened {
		limit += maxFindings
	}
	if s.stopped || s.queues.events.len() >= limit && ev.what != eventCleared {
		s.t.count.queueFull.Add(1)
		return false
	}
	s.queues.events.push(&ev)
	return true
}

// start begins to tell the observer of what is queued.
func (s *subscriber) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLocked()
}

func (s *subscriber) startLocked() {
	if !s.running && s.queues != nil && s.queues.events.len() > 0 {
		s.running = true
		time.AfterFunc(0, s.drain) // without the pprof labels of the caller
	}
}

// forget drops what is queued and nobody tells.
func (s *subscriber) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		s.queues = nil
	}
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
	if s.queues == nil || !s.queues.events.pop(&ev.event) {
		s.running = false
		if s.t.poller.Load() == nil {
			s.restLocked()
		}
		return false
	}
	switch ev.what {
	case eventDial:
		s.queues.dials.pop(&ev.dial)
	case eventClosed:
		s.queues.closes.pop(&ev.closed)
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
	if s.queues != nil && s.queues.events.len() == 0 {
		idleQueues.Put(s.queues)
		s.queues = nil
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
			ev.e.tokens = ev.e.tokens.with(s, v)
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
