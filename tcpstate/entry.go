package tcpstate

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// entry is what the tracker knows of one connection. It holds plain data and
// the RawConn, which does not point back to the *net.TCPConn: never the
// connection, its wrapper or a context, so that an unreachable connection is
// collected as if nobody watched it.
type entry struct {
	// What a sweep asks for lies in the first 192 bytes, three lines of cold
	// memory: of many idle connections that is what a look costs, beside the
	// kernel's part.
	t *Tracker

	// Written by the data path, read by the loop.
	readEpoch atomic.Uint64 // epoch of the last Read; 0 never, or a mark below
	moved     atomic.Uint64 // epoch of the last Usage.Progress
	flags     atomic.Uint32
	copying   atomic.Int32         // io.Copy calls that read from this connection now
	lent      atomic.Pointer[lent] // nil: it is of no pool that has to be asked; never nil again

	series  *series // never nil; immutable after Track
	youngAt uint32  // place in Tracker.young from 1, 0: none; guarded by Tracker.mu

	useCount uint32                 // guarded by mu
	mu       sync.Mutex             // guards what says so; held over non-blocking calls only
	raw      syscall.RawConn        // nil once closed or collected; guarded by mu
	uses     *Usage                 // in progress, newest first; guarded by mu
	expect   atomic.Pointer[Expect] // nil: nothing declared

	// Owned by the loop.
	sus  *suspicion // nil while there is nothing to suspect
	last traffic
	// ctxDone is that of the context that the connection was dialed with, until it is used; nil: not asked about.
	ctxDone <-chan struct{}
	state   State
	slow    bool // epoll does not watch it: only the sweep sees it
	audited bool // its settings were looked at
	plain   bool // it was not made for MPTCP; false: not known. Guarded by mu
	drained bool // all of the last.in bytes that had come were taken

	role    Role // immutable after Track
	mayMove bool // the local address may leave the machine; immutable after Track

	// Guarded by mu.
	readErr   readResult
	closed    bool
	leaked    bool // collected without Close
	forgotten bool // let go of while open
	armed     bool // watched by epoll

	dialTook uint32     // microseconds and one more; 0: not dialed through BeginDial; immutable after Track
	listener *Listening // that accepted it, or nil; immutable after Track

	// Immutable after Track, but for target, which mu guards.
	id            uint64
	born          time.Time
	local, remote *net.TCPAddr // never nil
	name, target  string
	cleanup       runtime.Cleanup
	site          sites.ID // dial or accept

	// fd is an index into Tracker.byFD, never an operand of a system call. The
	// handles of Windows fit, too: it promises 32 significant bits.
	fd uint32

	slot, gen uint32 // guarded by Tracker.mu
	dest      uint16 // index of the target that was dialed; immutable after Track

	// Guarded by mu.
	readEnd uint64 // epoch when the last Read ended with an error or EOF
	tokens  *token
	lastUse *Usage // ended last
	end     *ending
	eofSite sites.ID
	errSite sites.ID
}

// ending is what is known of the end of a connection. It is apart from the
// entry because most entries are of connections that are open.
type ending struct {
	sample sample // taken at Close or collection
	at     time.Time
	closer sites.ID // the call of Close, where it left data behind; else 0

	http bool // it was used for HTTP

	// reusedAfter is how long the connection had lain idle before the one use
	// that was in progress then, in ns; 0: there was none, or it was the first.
	reusedAfter int64
}

var endings = sync.Pool{New: func() any { return new(ending) }}

// final returns the sample taken when the connection ended: not one that is ok
// while it is open, or when it was closed behind our back.
func (e *entry) final() sample {
	if e.end == nil {
		return sample{}
	}
	return e.end.sample
}

// endedAt returns when the connection ended.
func (e *entry) endedAt() time.Time {
	if e.end == nil {
		return time.Time{}
	}
	return e.end.at
}

// dialStart returns when the dial began, and the zero time for a connection
// that was not dialed through BeginDial.
func (e *entry) dialStart() time.Time {
	if e.dialTook == 0 {
		return time.Time{}
	}
	return e.born.Add(-time.Duration(e.dialTook-1) * time.Microsecond)
}

// suspicion is what the loop remembers of a connection that is no longer
// simply open.
type suspicion struct {
	hist       history
	finAt      int64 // when the peer's FIN was noticed
	deadAt     int64
	progressAt int64 // last progress seen since the FIN
	ackedAt    int64 // when the peer was last seen to have acknowledged bytes, since the first look
	askedAt    int64 // first look that had a question
	readEpoch  uint64
	moved      uint64
	uses       uint32 // as at the last look
	using      bool
	counted    bool   // uses and using were set
	sentOut    uint64 // bytes acknowledged at the last look
	consumed   uint64 // bytes the application had taken at the last look
	sample     sample
	sampledAt  int64
	sampled    bool
	mptcp      bool // the kernel has called the connection MPTCP
	made       bool // the socket was made for MPTCP, whatever became of it
	finding    *finding
	kinds      []Kind     // of all findings so far
	site       sites.ID   // of the group of the last one
	queued     bool       // on the list of suspects
	shake      *handshake // nil: none that lasts
	ctxEnded   int64      // as in facts
	waiting    waiting

	// At the peer's FIN, if nothing else had happened when it was noticed.
	finFresh bool
	finSent  uint64        // bytes sent
	finIdle  time.Duration // since anything was sent or came
	parted   bool          // it came right after what may be a close_notify, to an idle connection
	finRead  uint64        // lastRead

	// In FIN-WAIT-2, with the descriptor held.
	halfAt, heardAt int64 // seen first, last byte that came since
	heard           uint64

	addrGone  int64  // when the local address was seen to have left the machine; 0: it has not
	heardThen uint64 // bytes received and acknowledged by then
}

// Flags of entry.
const (
	flagWrapped uint32 = 1 << iota
	flagCloseRead
	flagCloseWrite
	flagFile       // File made a duplicate of the descriptor
	flagKeepAlive  // the application configures keepalive itself
	flagLinger     // the application set SO_LINGER
	flagLingerZero // so that Close discards what was not sent
	flagCopyFailed
	flagClosed     // as closed, for the data path
	flagProbing    // a probe has changed the keepalive settings; guarded by mu
	flagPaired     // part of a Tunnel
	flagRawConn    // the application has asked for the RawConn
	flagUseFailed  // no answer came to a use, because the connection ended
	flagArmed      // as armed, for those who do not hold mu
	flagPeerClosed // see Watch.PeerClosed
	flagPeerWatch  // somebody is to be told of that; see peerWatchers
)

// Marks in readEpoch: nothing was read since Read ended like this. A later
// Read overwrites the mark, at no cost to the data path.
const (
	markEOF   uint64 = math.MaxUint64
	markErr   uint64 = math.MaxUint64 - 1
	markFirst        = markErr // marks are at or above
)

// everyRead is a bit in readEpoch by which it never equals the present epoch:
// so every Read of a connection that is lent takes the way of the first one in
// an epoch, and those of all others pay nothing for the question.
const everyRead uint64 = 1 << 62

// entered notes that the application reads. It reports whether the connection is
// lent by a pool that does not tell to whom.
func (e *entry) entered() (lent bool) {
	return e.readEpoch.Load() != e.t.epoch.Load() && e.enteredAnew()
}

// enteredAnew is apart so that the compiler inlines entered.
func (e *entry) enteredAnew() (lent bool) {
	epoch := e.t.epoch.Load()
	if e.readEpoch.Load() == 0 {
		e.firstRead()
	}
	if lent = e.lent.Load().noted(); lent {
		epoch |= everyRead
	}
	e.readEpoch.Store(epoch)
	return lent
}

// lastRead returns the epoch of the last Read, 0 for none, or a mark.
func (e *entry) lastRead() uint64 {
	re := e.readEpoch.Load()
	if re < markFirst {
		re &^= everyRead
	}
	return re
}

// readEnded notes the error of a Read.
func (e *entry) readEnded(err error) { e.note(classifyRead(err)) }

// note notes how a Read or a copy ended, and the line that called the method
// that calls note through one other function.
func (e *entry) note(r readResult) {
	if r == readNothing || e.flags.Load()&flagClosed != 0 {
		return
	}
	mark, site := markErr, &e.errSite
	if r == readEOF {
		mark, site = markEOF, &e.eofSite
	}
	e.mu.Lock()
	if *site == 0 || r > e.readErr {
		*site = sites.Capture(3)
	}
	// The gravest stays: after an error the kernel shows an orderly end.
	e.readErr = max(e.readErr, r)
	e.readEnd = e.t.epoch.Load()
	e.mu.Unlock()
	e.readEpoch.Store(mark)
}

func classifyRead(err error) readResult {
	switch {
	case err == nil:
		return readNothing
	case err == io.EOF:
		return readEOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return readDeadline
	case errors.Is(err, net.ErrClosed):
		return readNothing // the application closed, the connection did not end
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return classifyErrno(errno)
	}
	return readOther
}

// addCleanup asks to be told when the application drops the connection. The
// function captures nothing and the argument does not reach inner. It is called
// before anybody else knows of e.
func (e *entry) addCleanup(inner *net.TCPConn) {
	e.cleanup = runtime.AddCleanup(inner, collected, e)
}

// collected runs when inner was garbage collected. The kept RawConn tells a
// leak from a connection that was closed behind our back. It drops the RawConn
// itself: then Go's own finalizer closes the descriptor at the next
// collection, even if the loop is stalled.
func collected(e *entry) {
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	if e.endWith(s, true) {
		e.t.ended(e)
	}
}

// closing takes the last sample and ends the watch. It reports false when the
// connection is closed already.
func (e *entry) closing() bool {
	if e.flags.Load()&flagClosed != 0 {
		return false
	}
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	return e.endWith(s, false)
}

// endWith takes the last sample of e, for its Close or its collection. It
// reports false when e has ended before.
func (e *entry) endWith(s *sampler, dropped bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.endLoanLocked() // a duplicate of the descriptor may live on
	err := s.take(e, true)
	e.leaked = dropped && numbered && !errors.Is(err, net.ErrClosed)
	if !dropped {
		e.cleanup.Stop()
	}
	e.closeLocked()
	e.end.sample = s.sample
	if !dropped && s.sample.leavesData() {
		e.end.closer = sites.Capture(3)
	}
	return true
}

// gone notes that the descriptor was closed behind our back.
func (e *entry) gone() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.cleanup.Stop()
	e.closeLocked()
	e.mu.Unlock()
	e.t.ended(e)
}

// forget ends the watch of a connection that stays open. It reports false when
// the connection has ended before.
func (e *entry) forget() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	if e.armed {
		_ = e.raw.Control(func(fd uintptr) { e.t.unwatch(fd) })
	}
	e.cleanup.Stop()
	e.forgotten = true
	e.closeLocked()
	return true
}

// closeLocked ends e. The caller calls Tracker.ended next, without mu.
func (e *entry) closeLocked() {
	e.closed = true
	for u := e.uses; u != nil; u = u.next {
		u.pool.returned()
	}
	if e.flags.Or(flagClosed)&flagPeerWatch != 0 {
		e.t.peers.drop(e)
	}
	e.raw = nil
	if e.armed {
		// A descriptor that was closed behind our back took its watch along.
		e.armed = false
		e.flags.And(^flagArmed)
		e.t.disarmed()
	}
	e.end = endings.Get().(*ending)
	*e.end = ending{at: e.t.seam.now()}
	if u := e.uses; u != nil && u.next == nil {
		e.end.reusedAfter = u.idle
	}
	u := e.latestUseLocked()
	e.end.http = u != nil && isHTTP(u.use.Method)
}

// release gives back what only the account of e's end needed. The caller is the
// last to look at it.
func (e *entry) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leaked || e.end == nil {
		return // a finding shows it for some time
	}
	endings.Put(e.end)
	e.end = nil
}

// rawConn returns the RawConn while the connection is open.
func (e *entry) rawConn() syscall.RawConn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.raw
}

// expectation returns what is declared for the connection now: by its origin,
// then by the uses in progress. The caller holds mu.
func (e *entry) expectationLocked() Expect {
	var x Expect
	if p := e.expect.Load(); p != nil {
		x = *p
	}
	for u := e.uses; u != nil; u = u.next {
		if !u.use.Expect.isZero() {
			x = x.Merge(u.use.Expect)
		}
	}
	return x
}
