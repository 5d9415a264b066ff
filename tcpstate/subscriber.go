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
	queue   []event
	running bool
	stopped bool
}

// event is one call of an observer.
type event struct {
	what    eventKind
	finding Finding
	closed  ClosedInfo
	dial    DialInfo
	shake   *HandshakeInfo
	wait    *WaitInfo
	tokens  *token // of wait
	e       *entry // of dial, shake, wait and closed
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
	limit := maxQueue
	if ev.what >= eventOpened {
		limit += maxFindings
	}
	if s.stopped || len(s.queue) >= limit && ev.what != eventCleared {
		s.t.count.queueFull.Add(1)
		return false
	}
	s.queue = append(s.queue, ev)
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
	for {
		ev, ok := s.pop()
		if !ok {
			done = true
			return
		}
		s.tell(&ev)
	}
}

// pop takes the next event off the queue, and ends running when there is none.
func (s *subscriber) pop() (ev event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue, s.running = nil, false
		return ev, false
	}
	ev = s.queue[0]
	s.queue[0] = event{}
	s.queue = s.queue[1:]
	return ev, true
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

func (s *subscriber) tell(ev *event) {
	defer s.caught()
	o := s.o
	call := func(f func(Finding)) {
		if f != nil {
			f(ev.finding)
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
		s.tellWait(ev)
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
