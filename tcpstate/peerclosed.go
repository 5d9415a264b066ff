package tcpstate

import (
	"sync"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
)

// PeerClosed reports whether the peer is known to have ended its direction of
// the stream, or the connection to be dead. It is two loads from memory and no
// system call, for pools and others that are about to use a connection.
//
// watched says that the kernel tells of such an end by an event: then what is
// not known yet came within microseconds, unless EventsHandled says otherwise.
// Without it, in the first second of a connection, beyond Linux, where the
// events are used up, closed is what the last sweep saw. Both are false for a nil
// Watch, and watched after the connection was closed at this end or the tracker
// was switched off.
func (w *Watch) PeerClosed() (closed, watched bool) {
	if w == nil {
		return false, false
	}
	f := w.e.flags.Load()
	return f&flagPeerClosed != 0, f&(flagArmed|flagClosed) == flagArmed
}

// OnPeerClosed has f called once when PeerClosed becomes true, at once if it is
// already, and not after the connection has been closed at this end. Only the
// latest f counts; nil ends it. An f that was due already may still be called.
// See WatchPeer for how soon that is.
//
// f runs on the tracker's goroutine, which must not wait, or within OnPeerClosed:
// it leaves word with somebody else. The tracker holds f until the connection has
// ended, so f must not refer to the connection, or one that the application drops
// would never be found.
func (w *Watch) OnPeerClosed(f func()) {
	if w == nil {
		return
	}
	e, t := w.e, w.e.t
	t.peers.set(e, f)
	switch fl := e.flags.Load(); {
	case f == nil:
		return
	case fl&flagClosed != 0:
		t.peers.drop(e)
	case fl&flagPeerClosed != 0:
		t.peers.take(e)
		t.tellPeers()
	}
}

// WatchPeer makes the kernel tell of the peer's end by an event from now on,
// instead of from the second after the connection was made, and reports whether
// it does. False may be so for a moment only: the tracker is about to start, or
// busy, and is not waited for.
func (w *Watch) WatchPeer() bool {
	if w == nil {
		return false
	}
	e, t := w.e, w.e.t
	if e.flags.Load()&(flagArmed|flagClosed) == 0 && t.poller.Load() != nil && t.judge.mu.TryLock() {
		defer t.judge.mu.Unlock()
		t.meetOne(e)
	}
	return e.flags.Load()&flagArmed != 0
}

// meetOne takes in a new connection ahead of the others. The caller holds
// judgement.mu, so the loop does not end meanwhile.
func (t *Tracker) meetOne(e *entry) {
	if t.poller.Load() == nil {
		return // it has ended: e is young until the next one
	}
	t.mu.Lock()
	t.notYoungLocked(e)
	t.mu.Unlock()
	t.arm(e)
}

// EventsHandled reports whether everything that the kernel had to tell of
// watched connections when it was called is known by now, so that PeerClosed is
// exact for that moment. It costs one system call, which asks for all
// connections of the tracker at once. False means that the tracker's goroutine
// has not come round to all of it yet, or that there are no events.
func (t *Tracker) EventsHandled() bool {
	p := t.poller.Load()
	return p != nil && p.Quiet()
}

// Tracker returns the tracker that watches the connection, nil for a nil Watch.
func (w *Watch) Tracker() *Tracker {
	if w == nil {
		return nil
	}
	return w.e.t
}

// peersClosed marks the connections of which the kernel tells something, before
// anything else is done about them.
func (t *Tracker) peersClosed(evs []epoll.Event) {
	for _, ev := range evs {
		e := t.byToken(ev.Token)
		if e == nil || ev.Flags&^epoll.ReadHup == 0 && e.flags.Load()&flagCloseRead != 0 {
			continue // the application's own CloseRead shows the same bit
		}
		t.peerClosed(e)
	}
	t.tellPeers()
}

// peerClosed marks e. Who is to be told learns it with the next tell.
func (t *Tracker) peerClosed(e *entry) {
	if e.flags.Load()&flagPeerClosed != 0 {
		return
	}
	if old := e.flags.Or(flagPeerClosed); old&flagPeerWatch != 0 {
		t.peers.take(e)
	}
}

// peerWatchers are the functions of OnPeerClosed. They are apart from the
// entries because most connections have none.
type peerWatchers struct {
	mu  sync.Mutex // guards following fields; taken after all others
	of  map[*entry]func()
	due []func()
}

// set registers f for e, or nothing when f is nil.
func (p *peerWatchers) set(e *entry, f func()) {
	if f == nil {
		p.drop(e)
		return
	}
	p.mu.Lock()
	if p.of == nil {
		p.of = make(map[*entry]func())
	}
	p.of[e] = f
	p.mu.Unlock()
	e.flags.Or(flagPeerWatch)
}

func (p *peerWatchers) drop(e *entry) {
	p.mu.Lock()
	delete(p.of, e)
	p.mu.Unlock()
}

// take makes the function of e due, if it has one.
func (p *peerWatchers) take(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.of[e]; f != nil {
		delete(p.of, e)
		p.due = append(p.due, f)
	}
}

// tellPeers calls what is due. The caller holds no lock.
func (t *Tracker) tellPeers() {
	p := &t.peers
	p.mu.Lock()
	due := p.due
	p.due = nil
	p.mu.Unlock()
	for _, f := range due {
		func() {
			defer func() {
				if r := recover(); r != nil {
					t.panicked(r)
				}
			}()
			f()
		}()
	}
}
