package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// watchQueue feeds looks, a second apart, and returns the kind after each.
func watchQueue(h *queueHistory, at *int64, gap time.Duration, looks ...queueLook) (kinds []Kind) {
	limits := DefaultThresholds()
	open := Kind("")
	for _, q := range looks {
		*at += int64(gap)
		h.observe(*at, q)
		open = h.verdict(&q, open, &limits).kind
		kinds = append(kinds, open)
	}
	return kinds
}

func times(n int, q queueLook) (looks []queueLook) {
	for range n {
		looks = append(looks, q)
	}
	return looks
}

func TestQueuesAreJudgedByTheirLooks(t *testing.T) {
	waiting := queueLook{queue: 3, limit: 128, accepted: 7, serving: true}
	with := func(f func(*queueLook)) queueLook { q := waiting; f(&q); return q }
	last := func(looks []queueLook) Kind {
		h, at := queueHistory{}, int64(1)
		kinds := watchQueue(&h, &at, time.Second, looks...)
		return kinds[len(kinds)-1]
	}
	for name, tt := range map[string]struct {
		looks []queueLook
		want  Kind
	}{
		"for 9 s":               {times(10, waiting), ""},
		"for 10 s":              {times(11, waiting), KindListenerNotAccepting},
		"somebody is in Accept": {times(60, with(func(q *queueLook) { q.accepting = true })), ""},
		"not served yet":        {times(60, with(func(q *queueLook) { q.serving = false })), ""},
		"one was accepted":      {append(times(9, waiting), times(9, with(func(q *queueLook) { q.accepted++ }))...), ""},
		"the queue was empty":   {append(append(times(9, waiting), with(func(q *queueLook) { q.queue = 0 })), times(9, waiting)...), ""},
		"read inside Accept":    {times(6, with(func(q *queueLook) { q.reading = new(entry) })), KindListenerBlockedInAccept},
		"read for 4 s":          {times(5, with(func(q *queueLook) { q.reading = new(entry) })), ""},
		"twice over the limit":  {times(2, with(func(q *queueLook) { q.queue = 129 })), ""},
		"three times":           {times(3, with(func(q *queueLook) { q.queue, q.accepting = 129, true })), KindListenerOverflow},
		"at the limit":          {times(9, with(func(q *queueLook) { q.queue = 128 })), ""},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, last(tt.looks)) })
	}
}

func TestAProcessThatStoodStillIsNotBlamed(t *testing.T) {
	var h queueHistory
	at := int64(1)
	waiting := queueLook{queue: 3, limit: 128, serving: true}
	require.Equal(t, []Kind{"", "", "", ""}, watchQueue(&h, &at, time.Hour, times(4, waiting)...))
	require.Equal(t, KindListenerNotAccepting, watchQueue(&h, &at, 2*time.Second, times(3, waiting)...)[2])
}

func TestAnOverflowEndsWhenTheQueueHadRoomForAWhile(t *testing.T) {
	var h queueHistory
	at := int64(1)
	full, room := queueLook{queue: 3, limit: 2, accepting: true}, queueLook{queue: 2, limit: 2, accepting: true}
	looks := append(times(3, full), times(4, room)...)
	require.Equal(t, KindListenerOverflow, watchQueue(&h, &at, time.Second, looks...)[6])
	last := append(times(3, full), times(5, room)...)
	h, at = queueHistory{}, 1
	require.Empty(t, watchQueue(&h, &at, time.Second, last...)[7])
}

func TestOffIsOff(t *testing.T) {
	limits := (Thresholds{Accept: -1, BlockedAccept: -1}).resolved()
	h := queueHistory{since: 1, stuck: time.Hour, over: 1<<overflowLooks - 1}
	v := h.verdict(&queueLook{queue: 9, limit: 8, reading: new(entry)}, "", &limits)
	require.Empty(t, v.kind)
}
