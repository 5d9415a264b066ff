package tcpstate

import "time"

// setUp asks about handshakes, and dialed connections that nobody uses.
func (o *openLook) setUp() bool {
	e := o.e
	if sus := e.sus; sus != nil && sus.shake != nil {
		if !sus.shake.ended.Load() {
			return true
		}
		sus.shake = nil
	}
	return e.idleSince(o.sample, o.seen.uses, o.limits)
}

// idleSince reports whether nobody has touched e, which was dialed, although the
// context that it was dialed with has ended. What was used once is not asked
// about again.
func (e *entry) idleSince(s *sample, uses uint32, limits *Thresholds) bool {
	if e.ctxDone == nil || limits.UnusedDial == off {
		return false
	}
	if s.bytesSent > 0 || s.lacks(bytesEnd) || uses > 0 || e.readEpoch.Load() != 0 || e.copying.Load() > 0 || e.flags.Load()&flagsTouched != 0 {
		e.ctxDone = nil
		return false
	}
	select {
	case <-e.ctxDone:
		return true
	default:
		return false
	}
}

// flagsTouched are those that somebody has set who has the connection in hand,
// and may use it behind the wrapper's back.
const flagsTouched = flagCloseRead | flagCloseWrite | flagFile | flagRawConn

// setUp adds to f what is known of the setup of e.
func (f *facts) setUp(e *entry, sus *suspicion) {
	if h := sus.shake; h != nil && !h.ended.Load() {
		f.shakeAt = e.t.loopTime(h.start)
	}
	switch {
	case e.ctxDone == nil:
		sus.ctxEnded = 0
	case sus.ctxEnded == 0 && e.idleSince(&f.sample, 0, f.limits):
		sus.ctxEnded = f.now
	}
	f.ctxEnded = sus.ctxEnded
}

// setupVerdict judges a connection that is open, but not in use yet.
func (f *facts) setupVerdict() verdict {
	switch {
	case f.shakeAt != 0:
		return f.handshakeVerdict()
	case f.ctxEnded != 0:
		return f.unusedVerdict()
	}
	return verdict{}
}

// handshakeVerdict reports a handshake that has lasted too long and has not
// moved for half of that time: nothing was acknowledged, and nothing read.
func (f *facts) handshakeVerdict() verdict {
	limit := f.limits.Handshake
	if limit == off {
		return verdict{}
	}
	// A timeout of the same length has a moment to act.
	due := max(f.shakeAt+int64(limit+suspectInterval), f.progressAt+int64(limit/2))
	if f.now < due {
		return verdict{due: due}
	}
	return verdict{kind: KindHandshakeStalled, since: f.shakeAt, due: f.now + int64(time.Second)}
}

// unusedVerdict reports a dialed connection that nobody has touched since the
// context of its dial has ended.
func (f *facts) unusedVerdict() verdict {
	if f.everRead || f.everWrote || f.using || f.copying || f.pooled || f.expect.LongLived {
		return verdict{}
	}
	return f.after(f.ctxEnded+int64(f.limits.UnusedDial), verdict{kind: KindLeakUnusedDial, since: f.ctxEnded, due: f.now + int64(time.Second)})
}
