package tcpstate

import (
	"fmt"
	"runtime"
	"slices"
)

// Facility is something of the kernel that findings rest on.
type Facility struct {
	Name   string // "epoll", "tcp_info"
	OK     bool
	Detail string // what is missing and what follows from it
	Kinds  []Kind // the kinds that are affected
}

// Facilities says what this machine gives the tracker, and what it does without.
func (t *Tracker) Facilities() []Facility {
	t.init()
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()

	events := Facility{Name: "epoll", OK: true, Detail: "peer closes are noticed by event"}
	switch p := j.pollerErr.Load(); {
	case runtime.GOOS != "linux":
		events.OK, events.Detail = false, "there is no event source on "+runtime.GOOS+": connections are tracked, peer closes are not seen"
	case p != nil:
		events.OK, events.Detail = false, "epoll: "+(*p).Error()+"; peer closes are noticed by the sweep"
	case j.unarmed > 0:
		events.OK = false
		events.Detail = "the allowance of epoll watches is used up (fs.epoll.max_user_watches, of which a quarter is taken): " +
			"peer closes of some connections are noticed by the sweep"
	}
	if !events.OK {
		events.Kinds = restingOn(func(k *kindRow) bool { return k.Kind.noticedByEvent() })
	}
	info := Facility{Name: "tcp_info", OK: true, Detail: "states, ages and queues come from the kernel"}
	switch {
	case runtime.GOOS != "linux":
		info.OK, info.Detail = false, "TCP_INFO is not read on "+runtime.GOOS+": states, ages and queues are not known"
	case j.infoErr != nil:
		info.OK, info.Detail = false, "TCP_INFO: "+j.infoErr.Error()+"; states, ages and queues are not known"
	}
	if !info.OK {
		info.Kinds = restingOn(func(k *kindRow) bool { return !k.Kind.withoutInfo() })
	} else if n := j.infoShort; n != 0 {
		info.OK = false
		info.Detail = fmt.Sprintf("TCP_INFO has %d bytes here: %s", n, lackingIn(n))
		info.Kinds = restingOn(func(k *kindRow) bool { return k.Kind.restsBehind(n) })
	}
	limit := Facility{Name: "max_user_watches", OK: true, Detail: "at most a quarter of the user's epoll watches is taken"}
	if j.limitErr != nil {
		limit.OK, limit.Detail = runtime.GOOS != "linux", "the limit of epoll watches could not be read: "+j.limitErr.Error()
	}
	clock := Facility{Name: "clock", OK: true, Detail: "time is the machine's"}
	if t.count.unwatched.Load() > 0 {
		clock.OK, clock.Detail = false, "used in a bubble of testing/synctest: connections made there are counted, not watched"
	}
	noDiag := j.closing.unable(t)
	all := append([]Facility{events, info, limit, clock, j.process.facility(), j.paths.facility(t)}, j.closing.facilities(t, noDiag)...)
	all = append(all, j.dialing.facilities(t, noDiag)...)
	return append(all, j.listening.syn.facility(noDiag))
}

// restingOn lists the kinds of the table that f is true of.
func restingOn(f func(*kindRow) bool) []Kind {
	var all []Kind
	for i := range kinds {
		if f(&kinds[i]) {
			all = append(all, kinds[i].Kind)
		}
	}
	return all
}

// noticedByEvent reports whether an event is what shows the condition, so that
// without events it is noticed by the sweep, later and less exactly.
func (k Kind) noticedByEvent() bool {
	return Kind("close_wait").covers(k) || Kind("tunnel").covers(k) || k == KindLeakDeadSocket
}

// lackingIn says what a TCP_INFO of n bytes does not tell, and since when the
// kernel does.
func lackingIn(n uint16) string {
	switch {
	case n < bytesEnd:
		return "before Linux 4.1, bytes sent and received are not counted"
	case n < busyEnd:
		return "before Linux 4.10, it does not tell for how long data has been unacknowledged"
	case n < bytesSentEnd:
		return "before Linux 4.19, bytes count as sent only when they are acknowledged"
	}
	return "before Linux 5.4, the peer's window is not known"
}

// restsBehind reports whether the kind rests on a field that a TCP_INFO of n
// bytes does not have: it is not found then, or not told as exactly.
func (k Kind) restsBehind(n uint16) bool {
	switch {
	case k == KindPeerNotReading:
		return n < windowEnd
	case k == KindPeerUnresponsive:
		return n < deliveredEnd
	case Kind("reset").covers(k):
		return n < bytesSentEnd
	}
	return n < bytesEnd && anyCovers([]Kind{
		"accept", "tunnel", "handshake", KindCloseWaitNeverRead, KindCloseWaitIdleInPool, KindClosingPeerOpen,
		KindPeerNoResponse, KindLocalNotReading, KindLeakUnusedDial,
	}, k)
}

// withoutInfo reports whether the kind is found without TCP_INFO.
func (k Kind) withoutInfo() bool {
	return slices.Contains([]Kind{
		KindLeakCollected, KindLeakPoolPerCall, KindFDsPressure, KindListenerSYNRecv,
		KindDialFallbackStarved, KindDialDNSSlow, KindDialStorm, KindDialPorts,
		KindClosingFINUnacked, KindClosingDataUndelivered, KindPeerKeepsHalfOpen,
	}, k)
}
