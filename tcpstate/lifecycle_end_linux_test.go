package tcpstate_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// An ending is one way a connection can reach CLOSE while its descriptor is
// held.
type ending struct {
	reset      bool
	attach     bool
	reader     string // none, parked, before
	closeWrite string // never, before, meanwhile
	client     bool   // which end is ours
	seed       uint64
}

func (e ending) String() string {
	return fmt.Sprintf("reset=%v attach=%v reader=%s CloseWrite=%s client=%v", e.reset, e.attach, e.reader, e.closeWrite, e.client)
}

func endings() (all []ending) {
	for _, reset := range []bool{false, true} {
		for _, attach := range []bool{false, true} {
			for _, reader := range []string{"none", "parked", "before"} {
				for _, cw := range []string{"never", "before", "meanwhile"} {
					if !reset && cw == "never" {
						continue // then it is no end
					}
					for _, client := range []bool{false, true} {
						all = append(all, ending{reset: reset, attach: attach, reader: reader, closeWrite: cw, client: client})
					}
				}
			}
		}
	}
	return all
}

// play brings a connection to its end and returns the cause that was found.
func (e ending) play(t *testing.T, tr *tcpstate.Tracker, clk *testclock.Clock) string {
	rng := rand.New(rand.NewPCG(e.seed, 1))
	dawdle := func(r *rand.Rand) {
		for range r.IntN(200) {
			runtime.Gosched()
		}
	}
	inner, peer := tcptest.Pair(t)
	if !e.client {
		inner, peer = peer, inner
	}
	var near interface {
		net.Conn
		CloseWrite() error
	} = inner
	o := tcpstate.Origin{Role: tcpstate.Server, Name: "end"}
	if e.attach {
		require.True(t, tr.Attach(inner, o))
	} else {
		near = tr.Track(inner, o)
	}
	clk.Advance(1100 * time.Millisecond)
	var wg sync.WaitGroup
	buf := make([]byte, 1)
	switch e.reader {
	case "before":
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		_, err = near.Read(buf)
		require.NoError(t, err)
	case "parked":
		wg.Go(func() { _, _ = near.Read(buf) })
		dawdle(rng)
	}
	if e.closeWrite == "before" {
		require.NoError(t, near.CloseWrite())
		dawdle(rng)
	}
	if e.closeWrite == "meanwhile" {
		own := rand.New(rand.NewPCG(e.seed, 2))
		wg.Go(func() {
			dawdle(own)
			_ = near.CloseWrite() // fails after a reset
		})
	}
	dawdle(rng)
	if e.reset {
		tcptest.Reset(t, peer)
	} else {
		require.NoError(t, peer.Close())
	}
	if rng.IntN(2) == 0 {
		clk.Settle()
	}
	tcptest.WaitState(t, inner, tcptest.Closed)
	wg.Wait()
	clk.Advance(5 * time.Second)
	var cause string
	for _, f := range tr.Findings() {
		require.Equal(t, tcpstate.KindLeakDeadSocket, f.Kind)
		require.Empty(t, cause)
		cause = f.Cause
	}
	require.NotEmpty(t, cause, "the dead socket was found")
	require.NoError(t, near.Close())
	if e.attach {
		clk.Advance(3 * time.Second) // the sweep
	} else {
		clk.Advance(1100 * time.Millisecond)
	}
	require.Empty(t, tr.Findings())
	return cause
}

func TestTheWayAConnectionEndedIsNeverMistaken(t *testing.T) {
	rounds := 12
	if testing.Short() || raceEnabled {
		rounds = 3
	}
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprintf("epoll=%v", watched), func(t *testing.T) {
			tr := &tcpstate.Tracker{
				Logger: slog.New(slog.DiscardHandler),
				Config: tcpstate.Config{SweepInterval: time.Second, Thresholds: tcpstate.Thresholds{DeadSocket: 10 * time.Millisecond}},
			}
			clk := testclock.Install(tr)
			t.Cleanup(func() { tr.Close(); testclock.Remove(tr) })
			if !watched {
				tcpstate.SetSeam(tr, tcpstate.Seam{MaxWatches: func() (int, error) { return 0, nil }})
			}
			leaktest.Check(t, tr, leaktest.IgnoreFindings())
			counts := make(map[string]int)
			for _, e := range endings() {
				for round := range rounds {
					e.seed = uint64(round)
					// A test of its own ends its sockets before the next one.
					if !t.Run(e.String(), func(t *testing.T) {
						got := e.play(t, tr, clk)
						kind := map[bool]string{true: "reset", false: "clean"}[e.reset]
						if e.attach {
							kind += ", attached"
						}
						counts[kind+": "+got]++
						want, mistake := "clean_end", "reset"
						if e.reset {
							want, mistake = mistake, want
						}
						require.NotEqual(t, mistake, got, "round %d", round)
						if !e.attach {
							require.Equal(t, want, got, "round %d", round)
						}
					}) {
						return
					}
				}
			}
			t.Log(counts)
		})
	}
}

func TestAPeerThatDoesNotAnswerIsATimeout(t *testing.T) {
	for _, user := range []time.Duration{50 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond} {
		for _, reader := range []bool{false, true} {
			for _, closeWrite := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/reader=%v/CloseWrite=%v", user, reader, closeWrite), func(t *testing.T) {
					t.Parallel()
					r := newRig(t)
					c, peer := r.accepted()
					r.say(peer, "hello", c)
					tcptest.SetTimers(t, c, tcptest.Timers{UserTimeout: user})
					tcptest.Deafen(t, peer)
					var wg sync.WaitGroup
					if reader {
						wg.Go(func() {
							_, err := c.Read(make([]byte, 1))
							if err == nil || err == io.EOF {
								t.Errorf("Read returned %v", err)
							}
						})
					}
					_, err := c.Write([]byte("anybody there?"))
					require.NoError(t, err)
					if closeWrite {
						require.NoError(t, c.CloseWrite())
					}
					tcptest.WaitState(t, c, tcptest.Closed)
					wg.Wait()
					r.clk.Advance(33 * time.Second)
					f := r.one(tcpstate.KindLeakDeadSocket)
					require.Equal(t, "timeout", f.Cause)
					require.True(t, f.Evidence.PeerFIN < 0)
					if !reader {
						_, err := c.Read(make([]byte, 1))
						require.ErrorIs(t, err, syscall.ETIMEDOUT, "we left the error for the application")
						require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
					}
				})
			}
		}
	}
}

// An idle connection dies of its keepalive probes: of several, or with
// TCP_USER_TIMEOUT of one.
func TestAPeerThatVanishedWhileIdleIsATimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, timers := range map[string]tcptest.Timers{
		"two probes": {Idle: time.Second, Interval: time.Second, Count: 2},
		"one probe":  {Idle: time.Second, Interval: time.Second, Count: 9, UserTimeout: 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c, peer := r.accepted()
			tcptest.SetTimers(t, c, timers)
			tcptest.Deafen(t, peer)
			tcptest.WaitState(t, c, tcptest.Closed)
			r.clk.Advance(33 * time.Second)
			require.Equal(t, "timeout", r.one(tcpstate.KindLeakDeadSocket).Cause)
		})
	}
}

// The twins: the kernel has tried once in vain, then the peer says RST. It must
// not count as a timeout for there being one.
func TestAResetAfterATryInVainIsNoTimeout(t *testing.T) {
	t.Run("data", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		c, peer := r.accepted()
		r.say(peer, "hello", c)
		tcptest.SetTimers(t, c, tcptest.Timers{UserTimeout: 10 * time.Second})
		tcptest.Deafen(t, peer)
		_, err := c.Write([]byte("anybody there?"))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "a timeout of retransmission", func() bool {
			return c.Watch().Snapshot().Info.Retransmits == 1
		})
		tcptest.Reset(t, peer)
		tcptest.WaitState(t, c, tcptest.Closed)
		r.clk.Advance(33 * time.Second)
		require.Equal(t, "reset", r.one(tcpstate.KindLeakDeadSocket).Cause)
	})
	t.Run("probe", func(t *testing.T) {
		if testing.Short() {
			t.Skip("takes a second")
		}
		t.Parallel()
		r := newRig(t)
		c, peer := r.accepted()
		// The user timeout has passed when the first probe is sent.
		tcptest.SetTimers(t, c, tcptest.Timers{Idle: time.Second, Interval: 30 * time.Second, Count: 9, UserTimeout: 100 * time.Millisecond})
		tcptest.Deafen(t, peer)
		tcptest.WaitUntil(t, "a probe", func() bool { return c.Watch().Snapshot().Info.Probes == 1 })
		tcptest.Reset(t, peer)
		tcptest.WaitState(t, c, tcptest.Closed)
		r.clk.Advance(33 * time.Second)
		require.Equal(t, "reset", r.one(tcpstate.KindLeakDeadSocket).Cause)
	})
}
