package tcpstate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Lengths of struct tcp_info, by the first kernel that filled so much.
const (
	linux2632 = 104
	linux41   = 136
	linux46   = 160
	linux49   = 168
	linux410  = 192
	linux418  = 200
	linux419  = 224
	linux54   = 232
)

// oldKernel makes the tracker of l see n bytes of TCP_INFO; what lies behind is
// garbage, as nobody is to look at it.
func oldKernel(l *live, n int) {
	tcpstate.SetSeam(l.tr, tcpstate.Seam{Info: func(fd uintptr, buf []byte) (int, error) {
		got, err := tcpinfo.Get(fd, buf)
		for i := n; i < len(buf); i++ {
			buf[i] = 0xa5
		}
		return min(got, n), err
	}})
}

// onOldKernels runs f where the kernel fills each of these lengths.
func onOldKernels(t *testing.T, lengths []int, f func(l *live, n int)) {
	t.Parallel()
	for _, n := range lengths {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			l := newLive(t)
			oldKernel(l, n)
			f(l, n)
			require.Zero(t, l.tr.Stats().Panics)
		})
	}
}

// settled waits out every threshold, three times.
func (l *live) settled() {
	l.Helper()
	tcptest.WaitUntil(l, "sweeps", l.sweeps())
}

// sweeps returns what reports whether so many sweeps have passed since.
func (l *live) sweeps() (enough func() bool) {
	const n = 4 // of half a second each, with what comes between
	before := l.tr.Stats().Sweeps
	return func() bool { return l.tr.Stats().Sweeps >= before+n }
}

func (l *live) nothing() {
	l.Helper()
	l.settled()
	require.Empty(l, l.tr.Findings())
	require.Empty(l, l.rec.all())
}

func affected(t *testing.T, tr *tcpstate.Tracker, k tcpstate.Kind) bool {
	t.Helper()
	for _, a := range facility(t, tr, "tcp_info").Kinds {
		if a == k {
			return true
		}
	}
	return false
}

func TestAShortTCPInfoIsSaid(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux49, linux410, linux419, linux54}, func(l *live, n int) {
		c, _ := l.dialed(tcpstate.Expect{})
		tcptest.WaitUntil(l, "sweeps", l.sweeps())
		f := facility(l.T, l.tr, "tcp_info")
		require.Equal(l, n >= linux54, f.OK)
		require.Equal(l, n < linux54, affected(l.T, l.tr, tcpstate.KindPeerNotReading))
		require.Equal(l, n < linux418, affected(l.T, l.tr, tcpstate.KindPeerUnresponsive))
		require.Equal(l, n < linux41, affected(l.T, l.tr, tcpstate.KindAcceptPeerSilent))
		require.False(l, affected(l.T, l.tr, tcpstate.KindCloseWaitEOFSeen))
		require.NoError(l, c.Close())
	})
}

func TestAPeersCloseIsFoundByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux41}, func(l *live, n int) {
		peer, s := tcptest.Pair(l.T)
		c := l.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
		exchange(l.T, peer, c)
		require.NoError(l, peer.CloseWrite())
		got, err := io.ReadAll(c)
		require.NoError(l, err)
		require.Empty(l, got)
		l.finds(tcpstate.KindCloseWaitEOFSeen)
		require.NoError(l, c.Close())
		l.clears()
	})
}

// A server that goes on to send after the peer's FIN is at work.
func TestAnAnswerAfterAFINIsProgressByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux41}, func(l *live, n int) {
		peer, s := tcptest.Pair(l.T)
		c := l.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
		exchange(l.T, peer, c)
		require.NoError(l, peer.CloseWrite())
		_, err := io.ReadAll(c)
		require.NoError(l, err)
		l.keepsMoving(func() { l.say(c, peer) })
		require.Empty(l, l.rec.all())
	})
}

// keepsMoving moves bytes for three times the threshold.
func (l *live) keepsMoving(move func()) {
	l.Helper()
	enough := l.sweeps()
	tcptest.WaitUntil(l, "sweeps", func() bool { move(); return enough() })
}

func (l *live) say(from io.Writer, to io.Reader) {
	l.Helper()
	_, err := from.Write([]byte("more!"))
	require.NoError(l, err)
	_, err = io.ReadFull(to, make([]byte, 5))
	require.NoError(l, err)
}

// A client that only writes, and lies in nobody's pool, has been used.
func TestAClientThatWritesIsNotUnusedByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux41, linux46}, func(l *live, n int) {
		ln := tcptest.Listen(l.T)
		ctx, cancel := context.WithCancel(l.Context())
		c, err := (&dialer.Dialer{NetDialer: plain(), Tracker: l.tr}).DialContext(ctx, "tcp", ln.Addr().String())
		require.NoError(l, err)
		server, err := ln.AcceptTCP()
		require.NoError(l, err)
		defer tcptest.Reset(l, server)
		l.say(c, server)
		cancel()
		l.nothing()
		require.NoError(l, c.Close())
	})
}

// A peer whose half is open and that sends is no fault of ours.
func TestAPeerThatSendsAfterOurFINIsHealthyByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632}, func(l *live, n int) {
		c, peer := l.dialed(tcpstate.Expect{})
		require.NoError(l, c.CloseWrite())
		l.keepsMoving(func() { l.say(peer, c) })
		require.Empty(l, l.rec.all())
	})
}

// Where the window is known a peer that does not read is found, elsewhere
// nobody is blamed.
func TestAClosedWindowByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux419, linux54}, func(l *live, n int) {
		c, _ := l.dialed(tcpstate.Expect{}, tcptest.SmallBuffers())
		tcptest.FillWindow(l.T, c.TCPConn)
		if n >= linux54 {
			l.finds(tcpstate.KindPeerNotReading)
			return
		}
		l.nothing()
		require.True(l, affected(l.T, l.tr, tcpstate.KindPeerNotReading))
	})
}

// A peer that is gone is found as soon as it is known how long it has been
// silent.
func TestADeafPeerByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux49, linux410, linux418}, func(l *live, n int) {
		c, peer := l.dialed(tcpstate.Expect{})
		tcptest.Deafen(l.T, peer)
		_, err := c.Write(make([]byte, 4000))
		require.NoError(l, err)
		if n < linux410 {
			tcptest.WaitUntil(l, "retransmissions", func() bool {
				i, err := tcpstate.ReadInfo(c)
				return err == nil && i.Retransmits >= 4
			})
			require.Empty(l, l.rec.all())
			return
		}
		f := l.finds(tcpstate.KindPeerUnresponsive)
		require.Empty(l, f.Cause, "nothing of a cause is known")
	})
}

// The greeting of a server to a client that is silent.
func TestAGreetingServerByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux41}, func(l *live, n int) {
		inner := tcptest.Listen(l.T)
		ln := (&listener.Config{Tracker: l.tr}).Wrap(inner)
		for range 12 { // that would be a crowd of silent clients
			client := tcptest.Connect(l.T, inner)
			c, err := ln.Accept()
			require.NoError(l, err)
			l.Cleanup(func() { c.Close() })
			l.say(c, client)
		}
		l.nothing()
	})
}

// A server that takes what comes by way of the descriptor reads unseen.
func TestAnUnseenReaderByAShortTCPInfo(t *testing.T) {
	onOldKernels(t, []int{linux2632, linux41}, func(l *live, n int) {
		client, s := tcptest.Pair(l.T)
		c := l.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api", Expect: tcpstate.Expect{Heartbeat: time.Hour}})
		exchange(l.T, client, c)
		_, err := client.Write(make([]byte, 8<<10))
		require.NoError(l, err)
		b := make([]byte, 64)
		l.keepsMoving(func() {
			_, err := c.TCPConn.Read(b)
			require.NoError(l, err)
			_, err = client.Write(b) // so that there always is something to read
			require.NoError(l, err)
		})
		require.Empty(l, l.rec.all())
	})
}

// What cannot be asked at all leaves no verdict but on what the application
// itself has seen.
func TestNothingIsMadeUpWithoutTCPInfo(t *testing.T) {
	t.Parallel()
	for name, info := range map[string]func(uintptr, []byte) (int, error){
		"refused": func(uintptr, []byte) (int, error) { return 0, errors.New("blocked") },
		"103":     func(fd uintptr, b []byte) (int, error) { return tcpinfo.Get(fd, b[:103]) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t)
			tcpstate.SetSeam(l.tr, tcpstate.Seam{Info: info})
			c, peer := l.dialed(tcpstate.Expect{}, tcptest.SmallBuffers())
			tcptest.FillWindow(l.T, c.TCPConn)
			tcptest.Deafen(l.T, peer)
			l.nothing()
			f := facility(t, l.tr, "tcp_info")
			require.False(t, f.OK)
			require.Contains(t, f.Kinds, tcpstate.KindPeerNotReading)
			require.Contains(t, f.Kinds, tcpstate.KindKeepaliveOff)
			require.NoError(t, c.Close())
			require.Zero(t, l.tr.Stats().Panics)
		})
	}
}
