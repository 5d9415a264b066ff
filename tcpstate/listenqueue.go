package tcpstate

import (
	"math/bits"
	"time"
)

// This file judges accept queues. It is pure, as diagnose is.

// queueLook is an accept queue at one moment, and who takes from it.
type queueLook struct {
	queue, limit int
	accepting    bool   // somebody is in Accept
	accepted     uint64 // connections so far
	failed       uint64 // calls so far
	serving      bool   // somebody is to accept
	reading      *entry // that an outer Accept reads from in vain
}

const (
	// overflowLooks is how many looks are kept, a second apart, and overflowMin
	// how many of them have to find the queue over its limit: one burst between
	// two calls of Accept is no overflow.
	overflowLooks = 5
	overflowMin   = 3

	// maxLookGap is the most that passes between two looks that follow each
	// other. When it was more, the whole process stood still, and those who
	// accept had no chance either.
	maxLookGap = 2 * suspectInterval
)

// queueHistory is what the looks at one queue have found.
type queueHistory struct {
	lookedAt int64
	accepted uint64 // at the last look
	failed   uint64 // when nobody accepted any more

	since int64         // since when connections wait and nobody accepts; 0: that is not so
	stuck time.Duration // for how long, as far as it was looked at

	over      uint8 // over the limit: newest look in bit 0
	overSince int64
	rate      [overflowLooks]acceptCount // at the last looks, newest first
}

type acceptCount struct {
	at int64
	n  uint64
}

// observe takes in a look at the queue.
func (h *queueHistory) observe(now int64, q queueLook) {
	gap := min(time.Duration(now-h.lookedAt), maxLookGap)
	switch {
	case q.queue == 0 || q.accepting || !q.serving || q.accepted != h.accepted && h.lookedAt != 0:
		h.since, h.stuck = 0, 0
	case h.since == 0:
		h.since, h.failed = now, q.failed
	default:
		h.stuck += gap
	}
	h.over = h.over << 1 & (1<<overflowLooks - 1)
	if q.queue > q.limit {
		if h.over == 0 {
			h.overSince = now
		}
		h.over |= 1
	}
	copy(h.rate[1:], h.rate[:])
	h.rate[0] = acceptCount{now, q.accepted}
	h.lookedAt, h.accepted = now, q.accepted
}

// verdict judges the queue after a look. open is the kind of the finding that
// is open.
func (h *queueHistory) verdict(q *queueLook, open Kind, limits *Thresholds) verdict {
	overMin := overflowMin
	if open != "" {
		overMin = 1 // it ends when the queue had room for all looks
	}
	switch {
	case h.since != 0 && q.reading != nil && h.stuck >= limits.BlockedAccept:
		return verdict{kind: KindListenerBlockedInAccept, since: h.since}
	case h.since != 0 && h.stuck >= limits.Accept:
		v := verdict{kind: KindListenerNotAccepting, since: h.since}
		switch {
		case q.failed != h.failed:
			v.cause = causeAcceptFails
		case q.accepted == 0:
			v.cause = causeNeverAccepted
		}
		return v
	case bits.OnesCount8(h.over) >= overMin && limits.Accept != off:
		return verdict{kind: KindListenerOverflow, since: h.overSince}
	}
	return verdict{}
}

// The causes of listener.not_accepting.
const (
	causeAcceptFails   = "accept_fails"
	causeNeverAccepted = "never_accepted"
)

// perSecond returns how many connections were accepted per second over the last
// looks. It is not known at first.
func (h *queueHistory) perSecond() (rate float64, known bool) {
	newest := h.rate[0]
	for i := len(h.rate) - 1; i > 0; i-- {
		if old := h.rate[i]; old.at != 0 && newest.at > old.at {
			return float64(newest.n-old.n) / time.Duration(newest.at-old.at).Seconds(), true
		}
	}
	return 0, false
}
