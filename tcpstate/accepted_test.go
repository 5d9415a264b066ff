package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lookAtAccepted judges an accepted connection every second for d, after change
// has had its say, and returns the verdict at the end.
func lookAtAccepted(d time.Duration, change func(second int, f *facts)) verdict {
	limits := DefaultThresholds()
	var w waiting
	var v verdict
	for s := range int(d/time.Second) + 1 {
		f := facts{now: int64(time.Minute) + int64(s)*int64(time.Second), role: Server, limits: &limits, expect: new(Expect)}
		f.sample.ok = true
		change(s, &f)
		w.observe(&f)
		f.request.waiting = w
		v = f.acceptedVerdict()
	}
	return v
}

func TestAcceptedConnectionsAreJudgedByWhatWaits(t *testing.T) {
	const long = 40 * time.Second
	waits := func(f *facts) { f.sample.recvQueue, f.sample.bytesReceived = 5, 5 }
	partial := func(f *facts) { f.request.expected, f.everRead, f.sample.bytesReceived = true, true, 5 }
	for name, tt := range map[string]struct {
		d      time.Duration
		change func(s int, f *facts)
		want   Kind
	}{
		"untouched":              {long, func(s int, f *facts) { waits(f) }, KindAcceptNeverRead},
		"untouched for 29 s":     {29 * time.Second, func(s int, f *facts) { waits(f) }, ""},
		"nothing waits":          {long, func(s int, f *facts) {}, ""},
		"dialed":                 {long, func(s int, f *facts) { waits(f); f.role = Client }, ""},
		"attached":               {long, func(s int, f *facts) { waits(f); f.blind = true }, ""},
		"read once":              {long, func(s int, f *facts) { waits(f); f.everRead = true }, ""},
		"read at last":           {long, func(s int, f *facts) { waits(f); f.everRead = s > 38 }, ""},
		"written to":             {long, func(s int, f *facts) { waits(f); f.everWrote = true }, ""},
		"copied from":            {long, func(s int, f *facts) { waits(f); f.copying = true }, ""},
		"a trickle of bytes":     {long, func(s int, f *facts) { waits(f); f.sample.bytesReceived += uint64(s) }, KindAcceptNeverRead},
		"a part of a request":    {long, func(s int, f *facts) { partial(f) }, KindAcceptTrickle},
		"not of HTTP":            {long, func(s int, f *facts) { partial(f); f.request.expected = false }, ""},
		"a handler runs":         {long, func(s int, f *facts) { partial(f); f.using = true }, ""},
		"another one each time":  {long, func(s int, f *facts) { partial(f); f.request.uses = uint32(s / 20) }, ""},
		"answered without a use": {long, func(s int, f *facts) { partial(f); f.sample.bytesSent, f.sample.dataRecv = 9, time.Second }, ""},
		"after the last answer": {long, func(s int, f *facts) {
			partial(f)
			f.sample.bytesSent, f.sample.dataSent, f.request.uses, f.request.lastEnd = 9, time.Hour, 1, 1
		}, KindAcceptTrickle},
		"before the last handler returned": {long, func(s int, f *facts) {
			partial(f)
			f.sample.bytesSent, f.sample.dataSent, f.request.uses, f.request.lastEnd = 9, time.Hour, 1, f.now
		}, ""},
		"a part of a ClientHello": {long, func(s int, f *facts) { partial(f); f.request.encrypted = true }, KindAcceptTrickle},
		"silence after a TLS handshake": {long, func(s int, f *facts) {
			partial(f)
			f.request.encrypted, f.sample.bytesSent, f.sample.dataSent = true, 9, time.Hour
		}, ""},
		"bytes after a TLS handshake": {long, func(s int, f *facts) {
			partial(f)
			f.request.encrypted, f.sample.bytesSent, f.sample.dataSent = true, 9, time.Hour
			f.sample.bytesReceived += uint64(s / 5)
		}, KindAcceptTrickle},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, lookAtAccepted(tt.d, tt.change).kind) })
	}
}

func TestAFewSilentClientsAreNoAlarm(t *testing.T) {
	for _, tt := range []struct {
		silent, conns int
		want          Severity
	}{
		{0, 9, 0}, {1, 1, Inventory}, {9, 9, Inventory}, {10, 50, Inventory}, {10, 49, Warning}, {100, 1000, Inventory}, {101, 1000, Warning},
	} {
		v := silenceVerdict(tt.silent, tt.conns, 1)
		if tt.want == 0 {
			require.Empty(t, v.kind)
			continue
		}
		require.Equal(t, tt.want, v.weight(), "%d of %d", tt.silent, tt.conns)
	}
}

func TestADrainSilencesWhatIsNormalThen(t *testing.T) {
	tr := new(Tracker)
	defer tr.Close()
	tr.init()
	l := &Listening{t: tr}
	require.False(t, (*Listening)(nil).drains(KindCloseWaitEOFSeen, 1))
	require.False(t, l.drains(KindAcceptNeverRead, 1))
	l.draining.Store(1)
	l.grace.Store(100)
	for _, declared := range []bool{false, true} {
		l.declared.Store(declared)
		for _, k := range []Kind{KindAcceptNeverRead, KindCloseWaitEOFSeen, KindLeakDeadSocket, "closing.fin_unacked", "local.not_reading"} {
			require.True(t, l.drains(k, 100), k)
		}
		for _, k := range []Kind{KindLeakCollected, "peer.unresponsive"} {
			require.False(t, l.drains(k, 100), k)
		}
		require.Equal(t, declared, l.drains("closing.fin_unacked", 101))
		require.False(t, l.drains(KindCloseWaitEOFSeen, 101))
		require.False(t, l.drains(KindLeakDeadSocket, 101))
	}
}
