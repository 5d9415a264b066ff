package tcpstate

import (
	"encoding/binary"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heldConn is a RawConn of a descriptor that nobody asks in earnest.
type heldConn struct{ syscall.RawConn }

func (heldConn) Control(f func(uintptr)) error {
	f(0)
	return nil
}

// idler makes up a connection that lies idle, and what the kernel says of it.
func idler(d *docket) (e *entry, info []byte) {
	e = d.entry("idle", line(1))
	e.state, e.sus, e.raw = Established, nil, heldConn{}
	e.flags.Store(flagWrapped)
	e.readEpoch.Store(1)
	e.last, e.drained, e.plain = traffic{in: 40, out: 30}, true, true
	e.born = d.tr.seam.now().Add(-time.Hour)
	info = make([]byte, 248)
	binary.NativeEndian.PutUint32(info[16:], 1460)
	info[0] = byte(Established)
	for off, ms := range map[int]uint32{44: 1100, 52: 1000, 56: 1000} {
		binary.NativeEndian.PutUint32(info[off:], ms)
	}
	binary.NativeEndian.PutUint64(info[128:], e.last.in)
	binary.NativeEndian.PutUint64(info[200:], e.last.out)
	binary.NativeEndian.PutUint32(info[windowEnd-4:], 65535)
	binary.NativeEndian.PutUint32(info[windowEnd:], 65535)
	return e, info
}

// What a glance passes over, a look would have left as it is: no suspicion, no
// traffic, no question to the kernel, no change of the entry.
func TestAGlancePassesOverOnlyWhatALookLeavesAsItIs(t *testing.T) {
	d := newDocket(t, Config{})
	asked := 0
	var info []byte
	size := 0 // of info, as the kernel fills it
	d.tr.seam.info = func(_ uintptr, b []byte) (int, error) { return copy(b, info), nil }
	d.tr.seam.queues = func(uintptr) (int, int, error) { asked++; return 0, 0, nil }
	d.tr.seam.unread = func(uintptr) (int, error) { asked++; return 0, nil }
	d.tr.seam.madeMPTCP = func(uintptr) bool { asked++; return false }

	done := make(chan struct{})
	close(done)
	put32 := func(off int, v uint32) func(*entry) {
		return func(*entry) { binary.NativeEndian.PutUint32(info[off:], v) }
	}
	put64 := func(off int, v uint64) func(*entry) {
		return func(*entry) { binary.NativeEndian.PutUint64(info[off:], v) }
	}
	flags := func(fl uint32) func(*entry) { return func(e *entry) { e.flags.Or(fl) } }
	expects := func(x Expect) func(*entry) { return func(e *entry) { e.expect.Store(&x) } }
	changes := []func(*entry){
		func(*entry) { info[0] = byte(CloseWait) }, func(*entry) { info[0] = byte(FinWait2) },
		func(*entry) { info[0] = byte(Closed) }, func(*entry) { info[2] = 1 }, func(*entry) { info[3] = 2 },
		func(*entry) { size = payloadEnd }, func(*entry) { size = windowEnd }, func(*entry) { size = 0 },
		put32(100, 1), put32(144, 9), put32(52, 700_000), put32(56, 700_000), put32(52, 40_000), put32(44, 900), put32(44, 800_000),
		put64(128, 41), put64(200, 31), put64(128, 0), put64(200, 0), put32(windowEnd, 0), put32(windowEnd-4, 0),
		func(e *entry) { e.role = Server }, func(e *entry) { e.drained = false }, func(e *entry) { e.plain = false },
		func(e *entry) { e.last = traffic{} }, func(e *entry) { e.state = SynSent }, func(e *entry) { e.ctxDone = done },
		func(e *entry) { e.readEpoch.Store(0) }, func(e *entry) { e.copying.Store(1) }, func(e *entry) { e.audited = true },
		func(e *entry) { e.readErr = readReset }, func(e *entry) { e.listener = &Listening{watch: listenWatch{}} },
		func(e *entry) { e.uses = &Usage{e: e, begun: 1, until: 2} }, func(e *entry) { e.useCount = 7 },
		flags(flagRequests), flags(flagSilent), flags(flagCloseWrite), flags(flagPaired),
		expects(Expect{Heartbeat: time.Second}), expects(Expect{Silence: time.Second}), expects(Expect{Pooled: true}), expects(Expect{LongLived: true}),
	}
	nothing := func(e *entry) { // it has neither sent nor heard anything
		put64(128, 0)(e)
		put64(200, 0)(e)
		e.last = traffic{}
	}
	changes = append(changes, nothing, nothing, func(e *entry) {
		nothing(e)
		e.listener = &Listening{watch: listenWatch{}}
	}, func(e *entry) { // a request that nobody has read
		put64(200, 0)(e)
		e.last.out, e.role = 0, Server
		e.readEpoch.Store(0)
	}, func(e *entry) { // the peer's window is closed
		put32(144, 9)(e)
		put32(windowEnd-4, 0)(e)
	})
	quiet := 0
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40_000 {
		var e *entry
		e, info = idler(d)
		size = len(info)
		for range rnd.IntN(4) {
			changes[rnd.IntN(len(changes))](e)
		}
		info = info[:size]
		if e.flags.Load()&flagSilent != 0 && e.listener == nil {
			continue // it is counted nowhere
		}
		e.mu.Lock()
		q := e.quiet(info)
		e.mu.Unlock()
		if !q {
			continue
		}
		quiet++
		before := d.facts(e)
		asked = 0
		d.pass(0, func(now int64) { d.tr.look(e, now, 0) })
		require.Equal(t, before, d.facts(e), "%v", info)
		require.Zero(t, asked)
	}
	require.Greater(t, quiet, 5000)
}

// facts is what a look may change of an entry.
func (d *docket) facts(e *entry) []any {
	j := &d.tr.judge
	return []any{
		e.sus == nil, e.last, e.state, e.audited, e.plain, e.drained, e.ctxDone != nil, e.flags.Load(), e.raw != nil,
		e.series.in.Load(), e.series.out.Load(), e.series.retransmits.Load(), len(j.suspects), len(j.findings), j.infoShort, j.infoErr,
	}
}

// Each sweep glances at what lies idle, and takes the long way when anything
// has happened.
func TestAnIdleConnectionIsGlancedAt(t *testing.T) {
	d := newDocket(t, Config{})
	e, info := idler(d)
	d.tr.seam.info = func(_ uintptr, b []byte) (int, error) { return copy(b, info), nil }
	s := d.tr.judge.sampler
	require.NoError(t, e.glance(s))
	require.True(t, s.quiet)

	info[0] = byte(CloseWait)
	require.NoError(t, e.glance(s))
	require.False(t, s.quiet)
	require.Equal(t, CloseWait, s.sample.state)

	// A pool may have to be asked, or the peer.
	info[0] = byte(Established)
	e.lent.Store(new(lent))
	require.NoError(t, e.glance(s))
	require.False(t, s.quiet)
	e.lent.Store(nil)
	e.expect.Store(&Expect{Pooled: true})
	require.NoError(t, e.glance(s))
	require.True(t, s.quiet)
	d.tr.cfg.Store(newSettings(Config{ProbePooled: 2 * time.Second}))
	require.NoError(t, e.glance(s))
	require.False(t, s.quiet)

	e.raw = nil
	require.Error(t, e.glance(s))
	require.False(t, s.quiet)
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = e.glance(s) }))
}
