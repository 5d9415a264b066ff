package tcpstate

import "time"

// This file judges. It is pure: facts in, verdict out, no clock and no I/O.

// facts is everything that is known of one connection at one moment. Times are
// nanoseconds of the loop's clock.
type facts struct {
	now   int64
	born  int64
	role  Role
	blind bool // not wrapped: the application's reads are not seen
	hist  history

	finAt, deadAt int64
	halfAt        int64 // when our direction alone was closed
	heardAt       int64 // last byte that came since
	progressAt    int64 // last progress, of the application or of the peer's acknowledgements
	askedAt       int64 // first look that had a question; of the two after it, 0: never
	ackedAt       int64 // the peer acknowledged bytes
	aliveAt       int64 // the application said that the peer is there
	wait          answerWait
	sample        sample
	addrGone      int64 // when the local address had left the machine, unless something came since

	everRead  bool
	everWrote bool
	copying   bool       // io.Copy reads from the connection now
	lastRead  readResult // how the last Read ended, when none followed
	readErr   readResult // the gravest end of a Read so far
	using     bool       // a use is in progress
	upgraded  bool       // and has no answer to be read to the end
	open      Kind       // of the finding that is open already; empty: none
	expect    *Expect
	near      bool // the peer is on this host
	pooled    bool
	parted    bool // the FIN came right after what may be a close_notify, to an idle connection
	halfClose bool
	request   requestFacts // of an accepted connection
	shakeAt   int64        // begin of the handshake that goes on; 0: none
	ctxEnded  int64        // when the context of the dial was seen to have ended, of a connection not used since; 0: not so

	limits *Thresholds
}

// verdict is the judgement of one connection. An empty kind means that nothing
// is wrong, or not yet. due, unless 0, is when to look again although no event
// will come.
type verdict struct {
	kind     Kind
	severity Severity // 0: that of the kind
	cause    string
	since    int64
	due      int64
}

// weight is the severity of the finding that v makes.
func (v *verdict) weight() Severity {
	if v.severity != 0 {
		return v.severity
	}
	return v.kind.Severity()
}

// inventoryDelay keeps a connection that is closed as soon as its owner gets
// round to it out of the inventory.
const inventoryDelay = int64(time.Second)

func diagnose(f *facts) verdict {
	switch {
	case f.hist.dead:
		return f.dead()
	case f.hist.fin:
		return f.passiveClose()
	}
	return f.bothOpen()
}

// passiveClose judges a connection whose peer has sent its FIN.
func (f *facts) passiveClose() verdict {
	switch {
	case f.halfClose:
		return verdict{}
	case f.idle():
		return f.inventory(f.finAt, "")
	case f.copying:
		// io.Copy waits for its destination; it will see the end when that has
		// taken what came before.
		return f.lookAgain()
	}
	v := verdict{since: f.finAt}
	switch {
	case f.using && !f.upgraded && f.role == Client && (f.readErr != readEOF || f.sample.recvQueue > 0):
		v.kind = KindCloseWaitUnreadBody
	case f.readErr == readEOF:
		v.kind = KindCloseWaitEOFSeen
	case f.lastRead != readNothing && (!f.using || f.upgraded):
		v.kind, v.cause = KindCloseWaitErrorPath, f.lastRead.String()
	case f.role == Server && !f.blind && !f.everRead && !f.everWrote:
		v.kind = KindCloseWaitNeverRead
	default:
		v.kind = KindCloseWaitNotReading
	}
	if v.kind == KindCloseWaitNeverRead && (f.open == KindAcceptNeverRead || f.open == v.kind) && f.limits.CloseWait != off {
		return v // the same bug as before, and now the client has given up
	}
	return f.afterGrace(f.finAt, f.limits.CloseWait, v)
}

// dead judges a connection that the kernel has ended while its descriptor is
// held.
func (f *facts) dead() verdict {
	if f.hist.pending {
		// Whatever is open stays open until it is known what it has become.
		v := f.lookAgain()
		v.kind, v.since = f.open, f.since()
		return v
	}
	cause := f.hist.end.String()
	switch {
	case f.idle():
		return f.inventory(f.deadAt, cause)
	case f.copying:
		return f.lookAgain() // it reads what came before the end
	}
	v := verdict{kind: KindLeakDeadSocket, cause: cause, since: f.since()}
	if f.alarmed() {
		if f.limits.DeadSocket == off {
			v.kind = f.open
		}
		return v // the same bug as before, seen more sharply
	}
	return f.afterGrace(f.deadAt, f.limits.DeadSocket, v)
}

// alarmed reports whether somebody was told already that this connection is
// forgotten. That a pool lets a dead connection lie says nothing of who takes
// it out next.
func (f *facts) alarmed() bool { return f.open != "" && f.open.Severity() > Inventory }

// since is when the peer closed, or else when the connection died.
func (f *facts) since() int64 {
	if f.hist.fin && f.finAt != 0 {
		return f.finAt
	}
	return f.deadAt
}

// idle reports whether the connection lies in a pool, as declared, or looks
// like it: a client whose exchange is complete and who is not told of by
// anybody. A deadline that ended the last Read is no sign of an owner: pools
// check their connections that way.
func (f *facts) idle() bool {
	if f.role != Client || f.using || f.copying {
		return false
	}
	if f.pooled {
		return true
	}
	return (f.sample.complete() || f.parted && f.sample.recvQueue > 0) && f.readErr != readEOF && f.lastRead <= readDeadline
}

// inventory is the verdict on an idle connection whose end came at from.
func (f *facts) inventory(from int64, cause string) verdict {
	return f.after(from+inventoryDelay, verdict{kind: KindCloseWaitIdleInPool, cause: cause, since: f.since()})
}

// afterGrace returns v once grace has passed since from and since the last
// progress.
func (f *facts) afterGrace(from int64, grace time.Duration, v verdict) verdict {
	if grace == off {
		return verdict{}
	}
	return f.after(max(from, f.progressAt)+int64(grace), v)
}

func (f *facts) after(due int64, v verdict) verdict {
	if f.now < due {
		return verdict{due: due}
	}
	return v
}

// lookAgain says that nothing can be said now.
func (f *facts) lookAgain() verdict { return verdict{due: f.now + int64(suspectInterval)} }
