package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAResetIsExplainedByWhatWasSeenBefore(t *testing.T) {
	dead := func(h history) history { h.dead, h.end = true, endReset; return h }
	// exchange is a request that was sent before, and an answer that came after it.
	exchange := sample{ok: true, state: Closed, bytesSent: 200, bytesReceived: 900, dataSent: 200 * time.Millisecond, dataRecv: 100 * time.Millisecond}
	awaiting := exchange
	awaiting.dataSent, awaiting.dataRecv = 100*time.Millisecond, 5*time.Second
	unread := func(n int32, change ...func(*sample)) sample {
		s := exchange
		s.state, s.recvQueue = Established, n
		for _, c := range change {
			c(&s)
		}
		return s
	}
	for _, tt := range []struct {
		name    string
		p       parting
		kind    Kind
		cause   string
		repeats bool
	}{
		{"an orderly end", parting{last: unread(0)}, "", "", false},
		{"nothing is known", parting{hist: dead(history{})}, "", "", false},
		{"a timeout", parting{hist: history{dead: true, end: endTimeout}, last: exchange}, "", "", false},
		{"a clean end that was held", parting{hist: history{dead: true, end: endClean}, last: exchange, discards: true}, "", "", false},

		{"nothing came", parting{hist: dead(history{}), last: sample{ok: true, state: Closed, bytesSent: 517}}, KindResetUnexplained, "before_handshake", true},
		{"no answer", parting{hist: dead(history{}), last: awaiting}, KindResetUnexplained, "after_request", true},
		{"no answer after a long pause", parting{hist: dead(history{}), last: func() sample {
			s := awaiting
			s.dataRecv = 6 * time.Minute
			return s
		}()}, KindResetUnexplained, "after_idle", true},
		{"a part of the answer", parting{hist: dead(history{}), last: exchange}, KindResetUnexplained, "partial_data", true},
		{"after our FIN", parting{hist: dead(history{closeWrite: true}), last: exchange}, KindResetUnexplained, "after_close_write", false},
		{"a client that leaves", parting{role: Server, hist: dead(history{}), last: exchange}, KindResetUnexplained, "partial_data", false},

		{"written after the FIN", parting{hist: dead(history{fin: true, finFirst: true}), last: awaiting, finSeen: true, finSent: 100}, KindResetReuseAfterFIN, "", true},
		{"a goodbye after the FIN", parting{hist: dead(history{fin: true, finFirst: true}), last: awaiting, finSeen: true, finSent: 100, goodbye: true}, "", "", false},
		{"not written after the FIN", parting{hist: dead(history{fin: true, finFirst: true}), last: awaiting, finSeen: true, finSent: 200}, "", "", false},
		{"a FIN that only the reader saw", parting{hist: dead(history{}), last: awaiting, read: readEOF}, KindResetReuseAfterFIN, "", true},
		{"a FIN after the answer", parting{hist: dead(history{}), last: exchange, read: readEOF}, "", "", false},
		{"an answer to a client that has left", parting{role: Server, hist: dead(history{fin: true}), last: awaiting, finSeen: true, finSent: 100}, "", "", false},

		{"reset in the accept queue", parting{role: Server, hist: dead(history{}), last: sample{ok: true, state: Closed, bytesReceived: 80, recvQueue: 80}}, KindResetBeforeAccept, "", false},
		{"read before", parting{role: Server, hist: dead(history{}), last: sample{ok: true, state: Closed, bytesReceived: 80}}, KindResetUnexplained, "partial_data", false},
		{"a while after accept", parting{role: Server, young: time.Minute, hist: dead(history{}), last: sample{ok: true, state: Closed}}, KindResetUnexplained, "before_handshake", false},

		{"the end of TLS", parting{last: unread(24), discards: true}, KindResetByUsUnread, "small", false},
		{"session tickets", parting{role: Server, last: unread(1024), discards: true}, KindResetByUsUnread, "small", false},
		{"a download is given up", parting{last: unread(70000), discards: true}, KindResetByUsUnread, "abort", false},
		{"a client is thrown out", parting{role: Server, last: unread(70000, func(s *sample) { s.bytesSent = 0 }), discards: true}, KindResetByUsUnread, "abort", false},
		{"an upload is refused", parting{role: Server, last: unread(70000), discards: true}, KindResetByUsUnread, "peer_sending", true},
		{"an upload is refused in order", parting{role: Server, last: unread(70000, func(s *sample) { s.state = FinWait2 }), discards: true}, KindResetByUsUnread, "", false},
		{"the client has ended", parting{role: Server, last: unread(70000, func(s *sample) { s.state = CloseWait }), discards: true}, KindResetByUsUnread, "", false},
		{"an upload that had stopped", parting{role: Server, last: unread(70000, func(s *sample) { s.dataRecv = 3 * time.Second }), discards: true}, KindResetByUsUnread, "", false},
		{"an answer long ago", parting{role: Server, last: unread(70000, func(s *sample) { s.dataSent = 500 * time.Millisecond }), discards: true}, KindResetByUsUnread, "", false},
		{"an answer long ago that is still under way", parting{role: Server, last: unread(70000, func(s *sample) { s.dataSent, s.sendQueue = time.Minute, 9 }), discards: true}, KindResetByUsUnread, "peer_sending", true},

		{"linger with nothing to lose", parting{last: unread(0), discards: true, linger: true}, "", "", false},
		{"linger with bytes unread", parting{last: unread(7), discards: true, linger: true}, KindResetByUsLinger, "", false},
		{"linger with bytes not delivered", parting{last: unread(0, func(s *sample) { s.sendQueue = 9 }), discards: true, linger: true}, KindResetByUsLinger, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind, cause, repeats := tt.p.reset()
			require.Equal(t, tt.kind, kind)
			require.Equal(t, tt.cause, cause)
			require.Equal(t, tt.repeats, repeats)
		})
	}
}

func TestRecordsOfResetsAreBounded(t *testing.T) {
	d := newDocket(t, Config{})
	tab := &d.tr.judge.closing.resets
	fin := func(n int) {
		d.pass(time.Millisecond, func(now int64) {
			e := d.entry("db", line(1))
			e.target = string(rune('a'+n%26)) + string(rune('0'+n/26%10)) + string(rune('A'+n/260))
			e.flags.Store(flagWrapped)
			e.sus = nil
			e.end = &ending{at: d.clk.Now(), sample: sample{ok: true, state: Closed, bytesReceived: 5}}
			r, ok := e.reset(nil)
			require.True(t, ok)
			tab.add(d.tr, r, now)
		})
	}
	for n := range maxResets + 100 {
		fin(n)
	}
	require.Equal(t, maxResets+1, len(tab.m))
	require.Equal(t, uint64(100), d.tr.Stats().Unfollowed)
	judge := func(now int64) { tab.judge(d.tr, now) }
	d.pass(3*time.Second, judge)
	require.Empty(t, d.tr.Findings())
	require.Equal(t, maxEvents+1, len(d.tr.Counted()))
	require.Equal(t, uint64(maxResets+100), d.tr.Stats().Found)
	d.pass(11*time.Minute, judge)
	require.Empty(t, tab.m)
}

func TestAClosedSocketIsJudgedByItsTimer(t *testing.T) {
	limits := DefaultThresholds()
	const second = int64(time.Second)
	e := newDocket(t, Config{}).entry("db", line(1))
	at := func(change func(*lingerer)) (Kind, Severity) {
		l := lingerer{e: e, closedAt: 100 * second, state: FinWait1, timer: 1, retrans: 5, sendQueue: 1}
		change(&l)
		v := l.verdict(&limits, 140*second)
		if v.kind == "" {
			return "", 0
		}
		return v.kind, v.weight()
	}
	for _, tt := range []struct {
		name   string
		change func(*lingerer)
		kind   Kind
	}{
		{"a dead peer", func(*lingerer) {}, KindClosingFINUnacked},
		{"with data", func(l *lingerer) { l.sendQueue = 9000 }, KindClosingFINUnacked},
		{"losses", func(l *lingerer) { l.retrans = 2 }, ""},
		{"young", func(l *lingerer) { l.closedAt = 131 * second }, ""},
		{"progress", func(l *lingerer) { l.progressAt = 131 * second }, ""},
		{"no window", func(l *lingerer) { l.timer, l.sendQueue = 4, 9000 }, KindClosingDataUndelivered},
		{"no window, and only a FIN", func(l *lingerer) { l.timer = 4 }, ""},
		{"no window for a while", func(l *lingerer) { l.timer, l.sendQueue, l.progressAt = 4, 9000, 111*second }, ""},
		{"no timer", func(l *lingerer) { l.timer = 0 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, s := at(tt.change)
			require.Equal(t, tt.kind, k)
			require.Equal(t, tt.kind.Severity(), s)
		})
	}
	t.Run("off", func(t *testing.T) {
		limits = Thresholds{FINUnacked: -1, Undelivered: -1}.resolved()
		k, _ := at(func(*lingerer) {})
		require.Empty(t, k)
	})
	t.Run("a client from the internet", func(t *testing.T) {
		limits = DefaultThresholds()
		e.role, e.remote = Server, tcpAddrOf("192.0.2.7:4000")
		_, s := at(func(*lingerer) {})
		require.Equal(t, Inventory, s)
		e.remote = tcpAddrOf("10.1.2.3:4000")
		_, s = at(func(*lingerer) {})
		require.Equal(t, Warning, s)
	})
}
