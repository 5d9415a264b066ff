package tcpstate

import (
	"context"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// Observer is told what a tracker finds. Nil functions are not called.
//
// All functions but Token are called one at a time, in order, on a goroutine
// that exists while there is something to tell, with no lock held. They may be
// slow: a bounded queue lies in between, and what does not fit is dropped and
// counted in Stats. A panic is caught and counted.
type Observer struct {
	// Token is called on the application's goroutine when a dial or a use
	// begins. What it returns, nil or a small value such as a span context,
	// comes back with everything that concerns that dial or use. It must be
	// quick, and must not return ctx: the value lives as long as the
	// connection.
	Token func(ctx context.Context) any

	// DialDone is told of every dial that has ended. What it returns, unless
	// nil, replaces the dial's token.
	DialDone func(DialInfo) (token any)

	// Closed is told of every connection that has ended.
	Closed func(ClosedInfo)

	// Opened is told of the first finding of a group: one kind at one line of
	// code. Those that join it later show in the counts of Reminded and
	// Cleared, and one by one in Tracker.Findings.
	Opened func(Finding)

	// Changed is told when a finding becomes another kind and opens a group by
	// that: Finding.Was is the kind it had.
	Changed func(Finding)

	// Reminded is told, at growing intervals, that a group is still open and
	// has changed.
	Reminded func(Finding)

	// Cleared is told when the last finding of a group has ended.
	Cleared func(Finding)
}

// DialInfo describes a dial that has ended.
type DialInfo struct {
	Name, Target, Network string
	Start, End            time.Time
	Err                   error    // as returned to the application; nil when connected
	Local, Remote         net.Addr // nil when not connected
	Retransmits           uint32   // SYNs sent again
	ID                    uint64   // of the connection, 0 when not connected or not tracked
	Token                 any      // from Observer.Token
}

// CloseReason says how a connection ended.
type CloseReason string

// The close reasons, as they stand on metrics.
const (
	CloseLocal     CloseReason = "local"     // we closed first
	ClosePeerFIN   CloseReason = "peer_fin"  // the peer had closed before us
	CloseReset     CloseReason = "reset"     // RST
	CloseTimeout   CloseReason = "timeout"   // the kernel gave up
	CloseCollected CloseReason = "collected" // dropped without Close
)

// ClosedInfo describes a connection that has ended.
type ClosedInfo struct {
	ID            uint64
	Role          Role
	Name, Target  string
	Local, Remote net.Addr
	Opened, Ended time.Time
	DialStart     time.Time // zero for an accepted connection
	PeerClosed    time.Time // when the peer's FIN was noticed; zero if it was not
	Reason        CloseReason
	State         State // before Close
	BytesIn       uint64
	BytesOut      uint64
	Unread        int // bytes that nobody read
	Retransmits   uint32
	RTT           time.Duration // 0: not known
	Uses          uint32
	Findings      []Kind // kinds reported while it was open
	DialToken     any
	UseToken      any // of the use in progress, or the last one
}

// token is what one observer remembers of a context.
type token struct {
	sub  *subscriber
	v    any
	next *token
}

func (k *token) of(s *subscriber) any {
	for ; k != nil; k = k.next {
		if k.sub == s {
			return k.v
		}
	}
	return nil
}

// takeTokens asks every observer what to remember of ctx.
func (t *Tracker) takeTokens(ctx context.Context) *token {
	subs := t.observers.Load()
	if subs == nil {
		return nil
	}
	var list *token
	for _, s := range *subs {
		if s.o.Token == nil {
			continue
		}
		if v := s.token(ctx); v != nil {
			list = &token{sub: s, v: v, next: list}
		}
	}
	return list
}

func (s *subscriber) token(ctx context.Context) any {
	defer s.caught()
	return s.o.Token(ctx)
}

// Observe attaches o and first tells it of the findings that are open. stop
// detaches it: it returns when o has been told of everything that happened
// before, or after five seconds. It must not be called from a function of o.
func (t *Tracker) Observe(o *Observer) (stop func()) {
	t.init()
	if o == nil {
		return func() {}
	}
	s := &subscriber{o: o, t: t}
	t.judge.mu.Lock()
	t.setObservers(func(subs []*subscriber) []*subscriber { return append(subs, s) })
	t.replay(s)
	t.judge.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			t.judge.mu.Lock()
			t.meet(t.now(), t.bump(t.now()))
			t.setObservers(func(subs []*subscriber) []*subscriber {
				var rest []*subscriber
				for _, other := range subs {
					if other != s {
						rest = append(rest, other)
					}
				}
				return rest
			})
			t.judge.mu.Unlock()
			s.stop()
		})
	}
}

func (t *Tracker) setObservers(f func([]*subscriber) []*subscriber) {
	t.obsMu.Lock()
	defer t.obsMu.Unlock()
	var subs []*subscriber
	if p := t.observers.Load(); p != nil {
		subs = append(subs, *p...)
	}
	subs = f(subs)
	if len(subs) == 0 {
		t.observers.Store(nil)
		return
	}
	t.observers.Store(&subs)
}

// subscribers returns who is to be told: the observers, or else the logger.
func (t *Tracker) subscribers() []*subscriber {
	if p := t.observers.Load(); p != nil {
		return *p
	}
	return t.judge.fallback
}

func (t *Tracker) stopObservers() {
	subs := t.subscribers()
	t.setObservers(func([]*subscriber) []*subscriber { return nil })
	for _, s := range subs {
		s.stop()
	}
	for _, s := range t.judge.fallback {
		s.stop()
	}
}

// subscriber is an attached observer and its queue.
type subscriber struct {
	o *Observer
	t *Tracker

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
	e       *entry // of dial
}

type eventKind uint8

const (
	eventDial eventKind = iota
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

// push queues ev, or drops and counts it.
func (s *subscriber) push(ev event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := maxQueue
	if ev.what >= eventOpened {
		limit += maxFindings
	}
	if s.stopped || len(s.queue) >= limit {
		s.t.count.queueFull.Add(1)
		return
	}
	s.queue = append(s.queue, ev)
	if !s.running {
		s.running = true
		time.AfterFunc(0, s.drain) // without the pprof labels of the caller
	}
}

// drain tells the observer until the queue is empty.
func (s *subscriber) drain() {
	var batch []event
	for {
		s.mu.Lock()
		batch, s.queue = s.queue, nil
		if len(batch) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for i := range batch {
			s.tell(&batch[i])
		}
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

// caught keeps a panic of an observer from the application.
func (s *subscriber) caught() {
	if r := recover(); r != nil {
		if s.t.count.panics.Add(1) == 1 {
			s.t.logger().Error("tcpstate: an observer panicked", "panic", r, "stack", string(debug.Stack()))
		}
	}
}
