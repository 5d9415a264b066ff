package tcpstate

import (
	"context"
	"net"
	"slices"
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

	// HandshakeDone is told of every handshake above TCP that has ended, where
	// something tells of it: Dialer.DialTLS, httppool.Transport,
	// Watch.Handshaking.
	HandshakeDone func(HandshakeInfo)

	// WaitDone is told of every wait for a connection of a pool that has ended,
	// where the pool tells of single ones, by Pool.Waiting.
	WaitDone func(WaitInfo)

	// Closed is told of every connection that has ended.
	Closed func(ClosedInfo)

	// Opened is told of the first finding of a group: one kind at one line of
	// code, of connections with one name. Those that join it later show in the
	// counts of Reminded and Cleared, and one by one in Tracker.Findings. A
	// group that opens again shortly after it was reported waits its turn as
	// for a reminder. Of what is only counted nobody is told, see
	// Tracker.Counted.
	Opened func(Finding)

	// Changed is told when a finding becomes another kind and opens a group by
	// that: Finding.Was is the kind it had. ID and Since stay.
	Changed func(Finding)

	// Reminded is told, at growing intervals, that a group is still open and
	// has changed.
	Reminded func(Finding)

	// Cleared is told when the last finding of a group has ended. Where
	// Finding.Became is set, it has become that kind instead, or, with the same
	// kind, moved to another line since HideFrames was changed.
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
	ClosedFirst   bool  // our FIN was first
	Aborted       bool  // Close sent an RST in place of a FIN
	BytesIn       uint64
	BytesOut      uint64
	Unread        int // bytes that nobody read
	Retransmits   uint32
	RTT           time.Duration // 0: not known
	Uses          uint32
	Findings      []Kind // kinds reported while it was open
	Frame         *Frame // the line to open for the last of them; nil when it is not known
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

// with returns the list with v in place of the token of s. k itself stays as it
// is: a dial and its target may hold it, too.
func (k *token) with(s *subscriber, v any) *token {
	list := &token{sub: s, v: v}
	for ; k != nil; k = k.next {
		if k.sub != s {
			list.next = &token{sub: k.sub, v: k.v, next: list.next}
		}
	}
	return list
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
	for _, f := range t.judge.fallback {
		f.told = nil // when its turn comes again, it begins anew
	}
	t.replay(s)
	t.judge.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			t.judge.mu.Lock()
			t.meet(t.now())
			t.flush(t.now())
			t.tellRest(s)
			t.setObservers(func(subs []*subscriber) []*subscriber {
				return slices.DeleteFunc(subs, func(other *subscriber) bool { return other == s })
			})
			s.told = nil
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

// everybody returns all subscribers, also those whose turn it is not.
func (t *Tracker) everybody() []*subscriber {
	all := slices.Clone(t.judge.fallback)
	if p := t.observers.Load(); p != nil {
		all = append(all, *p...)
	}
	return all
}

func (t *Tracker) stopObservers() {
	subs := t.everybody()
	t.setObservers(func([]*subscriber) []*subscriber { return nil })
	for _, s := range subs {
		s.stop()
	}
}
