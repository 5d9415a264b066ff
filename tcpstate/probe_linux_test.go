package tcpstate_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// info reads what the kernel knows of c.
func info(t *testing.T, c syscall.Conn) tcpstate.Info {
	t.Helper()
	i, err := tcpstate.ReadInfo(c)
	require.NoError(t, err)
	return i
}

// patience reads the keepalive settings of c.
func patience(t *testing.T, c syscall.Conn) (p tcpinfo.Patience) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { p, _ = tcpinfo.PatienceOf(fd) }))
	return p
}

// awaitIdle waits until the peer of c was not heard of for a second, which is
// the kernel's resolution.
func awaitIdle(t *testing.T, c syscall.Conn) {
	t.Helper()
	tcptest.WaitUntil(t, "an idle connection", func() bool {
		i := info(t, c)
		return min(i.LastAckReceived, i.LastDataReceived) > time.Second
	})
}

// idlePair returns a tracked connection that is idle, and its peer.
func idlePair(t *testing.T, tr *tcpstate.Tracker, opts ...tcptest.Option) (*tcpstate.Conn, *net.TCPConn) {
	t.Helper()
	c, peer := tcptest.Pair(t, opts...)
	awaitIdle(t, c)
	return tr.Track(c, tcpstate.Origin{}), peer
}

// works proves that bytes go both ways.
func works(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		require.NoError(t, way[1].SetReadDeadline(time.Now().Add(tcptest.Deadline)))
		_, err := way[0].Write([]byte("x"))
		require.NoError(t, err)
		_, err = way[1].Read(make([]byte, 1))
		require.NoError(t, err)
	}
}

// keepAlives are the settings that a connection may come with.
var keepAlives = map[string]net.KeepAliveConfig{
	"keepalive of Go": {Enable: true},
	"keepalive off":   {Enable: false, Idle: -1, Interval: -1, Count: -1},
	"frequent":        {Enable: true, Idle: 8 * time.Second, Interval: time.Second, Count: 3},
}

func TestProbeOfALivingPeer(t *testing.T) {
	t.Parallel()
	for name, keep := range keepAlives {
		for family, opts := range map[string][]tcptest.Option{"IPv4": nil, "IPv6": {tcptest.IPv6()}} {
			t.Run(name+"/"+family, func(t *testing.T) {
				t.Parallel()
				c, peer := idlePair(t, leaktest.Tracker(t), opts...)
				require.NoError(t, c.SetKeepAliveConfig(keep))
				before, settings := info(t, c), patience(t, c)
				began := time.Now()
				r := c.Watch().Probe(t.Context())
				after := info(t, c)
				assert.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
				assert.Empty(t, r.Reason)
				assert.Equal(t, tcpstate.Established, r.State)
				assert.Less(t, r.Heard, r.Took+probeLate)
				assert.Zero(t, r.Unanswered)
				assert.Equal(t, before.SegmentsOut+1, after.SegmentsOut, "one probe")
				assert.Equal(t, before.SegmentsIn+1, after.SegmentsIn, "one answer")
				assert.Equal(t, before.BytesSent, after.BytesSent)
				assert.Equal(t, before.DataSegmentsOut, after.DataSegmentsOut)
				assert.Zero(t, info(t, peer).BytesReceived, "no byte of the stream")
				assert.Equal(t, settings, patience(t, c))

				r = c.Watch().Probe(t.Context())
				assert.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
				if time.Since(began) < time.Second {
					assert.Zero(t, r.Took, "it was heard of just now")
					assert.Equal(t, after.SegmentsOut, info(t, c).SegmentsOut)
				}
				works(t, c, peer)
			})
		}
	}
}

// probeLate is how long after an answer the probe of a busy machine may return.
const probeLate = time.Second

func TestProbeOfASilentPeer(t *testing.T) {
	t.Parallel()
	for name, keep := range keepAlives {
		if name == "frequent" {
			continue // the kernel would be asking before us
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := idlePair(t, leaktest.Tracker(t))
			require.NoError(t, c.SetKeepAliveConfig(keep))
			settings := patience(t, c)
			heal := tcptest.Deafen(t, peer)
			began := time.Now()
			r := c.Watch().Probe(t.Context())
			assert.Equal(t, tcpstate.ProbeNoAnswer, r.Outcome, "%+v", r)
			assert.GreaterOrEqual(t, time.Since(began), time.Second)
			assert.Equal(t, 1, r.Unanswered)
			assert.GreaterOrEqual(t, r.Heard, 2*time.Second)
			assert.Equal(t, settings, patience(t, c))

			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			sent := info(t, c).SegmentsOut
			r = c.Watch().Probe(ctx)
			if keep.Enable {
				assert.Equal(t, tcpstate.ProbePending, r.Outcome, "%+v", r)
				assert.Equal(t, sent, info(t, c).SegmentsOut, "the kernel goes on with it")
			} else {
				assert.Equal(t, tcpstate.ProbeNoAnswer, r.Outcome, "%+v", r)
				assert.Equal(t, sent+1, info(t, c).SegmentsOut, "nobody else asks")
			}
			heal()
			works(t, c, peer)
			awaitIdle(t, c)
			r = c.Watch().Probe(t.Context())
			assert.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
			assert.Positive(t, r.Took)
		})
	}
}

// However often it is called, two more probes may go unanswered before
// TCP_KEEPCNT is reached.
func TestProbesInVainAreLimited(t *testing.T) {
	t.Parallel()
	c, peer := idlePair(t, leaktest.Tracker(t))
	require.NoError(t, c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: false, Idle: -1, Interval: -1, Count: 5}))
	heal := tcptest.Deafen(t, peer)
	sent := info(t, c).SegmentsOut
	for i, want := range []tcpstate.ProbeOutcome{
		tcpstate.ProbeNoAnswer, tcpstate.ProbeNoAnswer, tcpstate.ProbeNoAnswer, tcpstate.ProbePending, tcpstate.ProbePending,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		r := c.Watch().Probe(ctx)
		cancel()
		assert.Equal(t, want, r.Outcome, "%d: %+v", i, r)
		assert.Equal(t, min(i+1, 3), r.Unanswered)
	}
	assert.Equal(t, sent+3, info(t, c).SegmentsOut)
	assert.Equal(t, tcpstate.Established, info(t, c).State)
	heal()
	works(t, c, peer)
}

// The peer restarted: it answers with a reset.
func TestProbeOfAPeerThatForgot(t *testing.T) {
	t.Parallel()
	c, peer := idlePair(t, leaktest.Tracker(t))
	heal := tcptest.Deafen(t, c.TCPConn)
	tcptest.Reset(t, peer) // is not heard
	heal()
	r := c.Watch().Probe(t.Context())
	assert.Equal(t, tcpstate.ProbeEnded, r.Outcome, "%+v", r)
	assert.Equal(t, tcpstate.Closed, r.State)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET, "the error is the application's")
}

// Where a probe could do harm or would add nothing, none is sent.
func TestProbeIsNotSent(t *testing.T) {
	t.Parallel()
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	none := func(*testing.T, *tcpstate.Conn, *net.TCPConn) {}
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, c *tcpstate.Conn, peer *net.TCPConn)
		opts    []tcptest.Option
		want    tcpstate.ProbeOutcome
		state   tcpstate.State
	}{
		"user timeout": {prepare: func(t *testing.T, c *tcpstate.Conn, _ *net.TCPConn) {
			tcptest.SetTimers(t, c, tcptest.Timers{UserTimeout: time.Minute})
		}, want: tcpstate.ProbeUnknown, state: tcpstate.Established},
		"too few probes": {prepare: func(t *testing.T, c *tcpstate.Conn, _ *net.TCPConn) {
			tcptest.SetTimers(t, c, tcptest.Timers{Count: 2})
		}, want: tcpstate.ProbeUnknown, state: tcpstate.Established},
		"unacknowledged data": {prepare: func(t *testing.T, c *tcpstate.Conn, peer *net.TCPConn) {
			tcptest.Deafen(t, peer)
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
		}, want: tcpstate.ProbePending, state: tcpstate.Established},
		"peer has closed": {prepare: func(t *testing.T, c *tcpstate.Conn, peer *net.TCPConn) {
			require.NoError(t, peer.CloseWrite())
			tcptest.WaitState(t, c, tcptest.CloseWait)
		}, want: tcpstate.ProbeEnded, state: tcpstate.CloseWait},
		"we have closed": {prepare: func(t *testing.T, c *tcpstate.Conn, _ *net.TCPConn) {
			require.NoError(t, c.Close())
		}, want: tcpstate.ProbeEnded, state: tcpstate.Closed},
		"let go of": {prepare: func(_ *testing.T, c *tcpstate.Conn, _ *net.TCPConn) {
			tcpstate.Forget(c)
		}, want: tcpstate.ProbeUnknown, state: tcpstate.Unknown},
		"Multipath TCP": {prepare: none, opts: []tcptest.Option{tcptest.MPTCP(true)},
			want: tcpstate.ProbeUnknown, state: tcpstate.Established},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := idlePair(t, leaktest.Tracker(t), tc.opts...)
			tc.prepare(t, c, peer)
			received, closed := info(t, peer).SegmentsIn, name == "we have closed"
			r := c.Watch().Probe(short(t))
			assert.Equal(t, tc.want, r.Outcome, "%+v", r)
			assert.Equal(t, tc.state, r.State)
			if name != "peer has closed" {
				assert.NotEmpty(t, r.Reason)
			}
			if !closed {
				assert.Equal(t, received, info(t, peer).SegmentsIn)
				assert.Zero(t, info(t, c.TCPConn).Probes)
			}
		})
	}
}

func TestProbeWithAClosedWindow(t *testing.T) {
	t.Parallel()
	tr := leaktest.Tracker(t)
	c, peer := tcptest.Pair(t, tcptest.SmallBuffers())
	conn := tr.Track(c, tcpstate.Origin{})
	tcptest.FillWindow(t, c)
	tcptest.Deafen(t, peer)
	awaitIdle(t, c)
	settings := patience(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	r := conn.Watch().Probe(ctx)
	assert.Equal(t, tcpstate.ProbePending, r.Outcome, "%+v", r)
	assert.NotEmpty(t, r.Reason)
	assert.Equal(t, settings, patience(t, c))
}

// Data that is acknowledged while Probe waits is an answer.
func TestProbeWaitsWithTheKernel(t *testing.T) {
	t.Parallel()
	c, peer := idlePair(t, leaktest.Tracker(t))
	heal := tcptest.Deafen(t, peer)
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	time.AfterFunc(10*time.Millisecond, heal) // the retransmission comes after 200 ms
	ctx, cancel := context.WithTimeout(t.Context(), tcptest.Deadline)
	defer cancel()
	r := c.Watch().Probe(ctx)
	assert.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
}

func TestProbeOfNothing(t *testing.T) {
	var w *tcpstate.Watch
	r := w.Probe(t.Context())
	assert.Equal(t, tcpstate.ProbeUnknown, r.Outcome)
	assert.NotEmpty(t, r.Reason)
}

func TestProbeWithAContextThatEnds(t *testing.T) {
	t.Parallel()
	c, peer := idlePair(t, leaktest.Tracker(t))
	settings, sent := patience(t, c), info(t, c).SegmentsOut
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := c.Watch().Probe(ctx)
	assert.Equal(t, tcpstate.ProbeUnknown, r.Outcome, "%+v", r)
	assert.Equal(t, sent, info(t, c).SegmentsOut)

	tcptest.Deafen(t, peer)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	r = c.Watch().Probe(ctx)
	if time.Since(began) < 200*time.Millisecond { // and not the time that a busy machine took
		assert.Equal(t, tcpstate.ProbeUnknown, r.Outcome, "too soon to tell: %+v", r)
		assert.NotEmpty(t, r.Reason)
	}
	assert.Equal(t, settings, patience(t, c))
}

// during returns a tracker that calls f once, when a probe was ordered and its
// answer is not known.
func during(t *testing.T, f *func()) *tcpstate.Tracker {
	tr := newTracker(t)
	var probing atomic.Bool
	tcpstate.SetSeam(tr, tcpstate.Seam{Info: func(fd uintptr, buf []byte) (int, error) {
		// The settings are the probe's own.
		if on, err := tcpinfo.KeepIdle(fd); err == nil && on == time.Second && !probing.Swap(true) {
			(*f)()
		}
		return tcpinfo.Get(fd, buf)
	}})
	return tr
}

func TestTheApplicationMayConfigureKeepAliveDuringAProbe(t *testing.T) {
	t.Parallel()
	type settings = tcpinfo.Patience
	for name, tc := range map[string]struct {
		set    func(c *tcpstate.Conn) error
		change func(p *settings)
	}{
		"on": {
			func(c *tcpstate.Conn) error { return c.SetKeepAlive(true) },
			func(p *settings) { p.KeepAlive = true },
		},
		"off": {
			func(c *tcpstate.Conn) error { return c.SetKeepAlive(false) },
			func(*settings) {},
		},
		"period": {
			func(c *tcpstate.Conn) error { return c.SetKeepAlivePeriod(33 * time.Second) },
			func(p *settings) { p.Idle = 33 * time.Second },
		},
		"config": {
			func(c *tcpstate.Conn) error {
				return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: 44 * time.Second, Count: 7})
			},
			func(p *settings) { p.KeepAlive, p.Interval, p.Count = true, 44*time.Second, 7 },
		},
		"past us": {
			func(c *tcpstate.Conn) error {
				return c.TCPConn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 55 * time.Second, Interval: -1, Count: -1})
			},
			func(p *settings) { p.KeepAlive, p.Idle = true, 55*time.Second },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c *tcpstate.Conn
			var err error
			called := false
			f := func() { called, err = true, tc.set(c) }
			c, peer := idlePair(t, during(t, &f))
			require.NoError(t, c.TCPConn.SetKeepAlive(false))
			want := patience(t, c)
			tc.change(&want)
			r := c.Watch().Probe(t.Context())
			require.True(t, called)
			require.NoError(t, err)
			assert.Equal(t, want, patience(t, c), "%+v", r)
			works(t, c, peer)
		})
	}
}

// A duplicate of the descriptor keeps the socket, and must not keep the
// settings of the probe.
func TestClosingDuringAProbe(t *testing.T) {
	t.Parallel()
	var c *tcpstate.Conn
	closed := make(chan error)
	f := func() {
		// Close waits for those who use the descriptor, as f's caller does.
		go func() { closed <- c.Close() }()
		tcptest.WaitUntil(t, "Close", func() bool { return !c.Watch().Open() })
	}
	c, peer := idlePair(t, during(t, &f))
	tcptest.Deafen(t, peer)
	file, err := c.File()
	require.NoError(t, err)
	defer file.Close()
	settings := patience(t, c)
	r := c.Watch().Probe(t.Context())
	require.NoError(t, <-closed)
	assert.Equal(t, tcpstate.ProbeEnded, r.Outcome, "%+v", r)
	assert.Equal(t, tcpstate.Closed, r.State)
	assert.Equal(t, settings, patience(t, file))
	assert.Equal(t, tcpstate.Established, info(t, file).State)
}

func TestManyProbesAtOnceAreOne(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"living": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := idlePair(t, leaktest.Tracker(t))
			require.NoError(t, c.SetKeepAlive(true))
			want := tcpstate.ProbeAlive
			if deaf {
				want = tcpstate.ProbeNoAnswer
				tcptest.Deafen(t, peer)
			}
			settings, sent, began := patience(t, c), info(t, c).SegmentsOut, time.Now()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					r := c.Watch().Probe(context.Background())
					// The kernel's own once it is out.
					if r.Outcome != tcpstate.ProbePending || !deaf {
						assert.Equal(t, want, r.Outcome, "%+v", r)
					}
				})
			}
			wg.Wait()
			if deaf || time.Since(began) < time.Second {
				assert.Equal(t, sent+1, info(t, c).SegmentsOut)
			}
			assert.Equal(t, settings, patience(t, c))
		})
	}
}

// Nothing of the tracker waits for a probe.
func TestAProbeBlocksNobody(t *testing.T) {
	t.Parallel()
	c, peer := idlePair(t, leaktest.Tracker(t))
	tcptest.Deafen(t, peer)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan tcpstate.ProbeResult, 1)
	go func() { done <- c.Watch().Probe(ctx) }()
	tcptest.WaitUntil(t, "a probe", func() bool { return info(t, c).Probes == 1 })
	c.Watch().Snapshot()
	require.NoError(t, c.SetKeepAlive(true))
	require.NoError(t, c.SetReadDeadline(time.Now()))
	assert.Empty(t, done, "the probe still waits")
	cancel()
	assert.NotEqual(t, tcpstate.ProbeAlive, (<-done).Outcome)
	assert.Equal(t, 1, option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE))
}

func TestProbeWhereTheKernelDoesNotTell(t *testing.T) {
	for name, get := range map[string]func(uintptr, []byte) (int, error){
		"error":       func(uintptr, []byte) (int, error) { return 0, syscall.EPERM },
		"nothing":     func(uintptr, []byte) (int, error) { return 0, nil },
		"no ages":     func(_ uintptr, b []byte) (int, error) { clear(b); b[0] = 1; return 232, nil },
		"a few bytes": func(_ uintptr, b []byte) (int, error) { clear(b); b[0] = 1; return 8, nil },
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(t)
			tcpstate.SetSeam(tr, tcpstate.Seam{Info: get})
			c, _ := tcptest.Pair(t)
			settings := patience(t, c)
			require.True(t, tr.Attach(c, tcpstate.Origin{}))
			r := tr.Of(c).Probe(t.Context())
			assert.Equal(t, tcpstate.ProbeUnknown, r.Outcome, "%+v", r)
			assert.NotEmpty(t, r.Reason)
			assert.Equal(t, settings, patience(t, c))
		})
	}
}
