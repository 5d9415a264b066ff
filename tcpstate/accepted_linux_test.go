package tcpstate_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func (r *rig) writes(c io.Writer, text string) {
	r.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(r, err)
}

func TestAConnectionThatIsAcceptedAndNeverServedIsReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.writes(c, "GET / HTTP/1.1\r\n\r\n")
	tcptest.WaitUntil(t, "the bytes", func() bool { return s.Watch().Snapshot().RecvQueue == 18 })
	r.clk.Advance(25 * time.Second)
	r.silent()
	r.clk.Advance(18 * time.Second)
	f := r.one(tcpstate.KindAcceptNeverRead)
	require.Equal(t, 18, f.Evidence.RecvQueue)
	require.Equal(t, "accept", f.Sites[0].Role)
	require.False(t, f.Evidence.EverRead)

	r.closes(c, s.TCPConn) // and then its client gives up
	r.clk.Advance(2 * time.Second)
	after := r.one(tcpstate.KindCloseWaitNeverRead)
	require.Equal(t, f.ID, after.ID)
	require.Equal(t, f.Since, after.Since)
	r.clears(s)
}

func TestReadingEndsTheReportOfAConnectionThatWasNotServed(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.writes(c, "hello")
	r.clk.Advance(45 * time.Second)
	r.one(tcpstate.KindAcceptNeverRead)
	_, err := io.ReadFull(s, make([]byte, 5))
	require.NoError(t, err)
	r.clk.Advance(12 * time.Second)
	require.Empty(t, r.tr.Findings())
}

func TestConnectionsThatAreServedAreNotReported(t *testing.T) {
	for name, serve := range map[string]func(r *rig, s *tcpstate.Conn, c *net.TCPConn){
		"nothing was sent": func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			r.clk.Advance(tripled)
		},
		"read in time": func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			r.writes(c, "hello")
			r.clk.Advance(25 * time.Second)
			_, err := io.ReadFull(s, make([]byte, 5))
			require.NoError(r, err)
			r.clk.Advance(tripled)
		},
		"the client took its time": func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			r.clk.Advance(100 * time.Second)
			r.writes(c, "hello")
			r.clk.Advance(15 * time.Second)
			_, err := io.ReadFull(s, make([]byte, 5))
			require.NoError(r, err)
			r.clk.Advance(tripled)
		},
		"the server speaks": func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			r.writes(s, "220 ready\r\n")
			r.writes(c, "EHLO")
			for range 9 { // what it sends is taken, so it is not stuck
				r.clk.Advance(10 * time.Second)
				r.writes(s, "220-please wait\r\n")
				tcptest.WaitUntil(r, "the acknowledgement", func() bool { return s.Watch().Snapshot().SendQueue == 0 })
			}
		},
		"by io.Copy, which waits for its destination": func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			in, out := io.Pipe()
			go io.Copy(out, s)
			r.Cleanup(func() { in.Close() })
			r.writes(c, "hello")
			tcptest.WaitUntil(r, "io.Copy to read", func() bool {
				now := s.Watch().Snapshot()
				return now.Info.BytesReceived == 5 && now.RecvQueue == 0
			})
			r.clk.Advance(tripled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s, c := r.accepted()
			serve(r, s, c)
			r.silent()
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
		})
	}
	t.Run("attached: nobody knows", func(t *testing.T) {
		r := newRig(t)
		c, s := tcptest.Pair(t)
		require.True(t, r.tr.Attach(s, tcpstate.Origin{Role: tcpstate.Server}))
		r.writes(c, "hello")
		r.clk.Advance(tripled)
		for _, f := range r.tr.Findings() {
			require.NotEqual(t, tcpstate.KindAcceptNeverRead, f.Kind)
		}
	})
}

// requests is the server of an HTTP/1 connection.
type requests struct {
	*rig
	s *tcpstate.Conn
	c *net.TCPConn
}

func newRequests(t *testing.T, encrypted bool) *requests {
	r := newRig(t)
	s, c := r.accepted()
	s.Watch().AwaitRequests(encrypted)
	return &requests{r, s, c}
}

// sends sends a part of a request, which the server takes.
func (r *requests) sends(text string) {
	r.Helper()
	r.say(r.c, text, r.s)
}

// later waits until what was sent or received last is so old that the kernel,
// which counts in jiffies, tells it from what comes next.
func (r *requests) later() {
	r.Helper()
	tcptest.WaitUntil(r, "the clock of the kernel", func() bool {
		i := r.s.Watch().Snapshot().Info
		return min(i.LastDataSent, i.LastDataReceived) >= 20*time.Millisecond
	})
}

// answers answers a request that has come.
func (r *requests) answers() {
	r.Helper()
	u := r.s.Watch().Handle(context.Background(), tcpstate.Use{Method: "GET", Name: "/"}, nil)
	r.later()
	r.say(r.s, "HTTP/1.1 204\r\n\r\n", r.c)
	u.End()
}

func TestARequestThatIsNeverCompletedIsReported(t *testing.T) {
	t.Run("the first", func(t *testing.T) {
		r := newRequests(t, false)
		r.sends("GET / HT")
		r.clk.Advance(25 * time.Second)
		r.silent()
		r.clk.Advance(16 * time.Second)
		f := r.one(tcpstate.KindAcceptTrickle)
		require.Contains(t, f.Summary, "8 bytes came so far")
		r.sends("TP/1.1\r\n\r\n")
		r.answers()
		r.clk.Advance(12 * time.Second)
		require.Empty(t, r.tr.Findings())
	})
	t.Run("byte by byte", func(t *testing.T) {
		r := newRequests(t, false)
		for range 45 {
			r.sends("x")
			r.clk.Advance(time.Second)
		}
		r.one(tcpstate.KindAcceptTrickle)
	})
	t.Run("the second", func(t *testing.T) {
		r := newRequests(t, false)
		r.sends("GET / HTTP/1.1\r\n\r\n")
		r.answers()
		r.clk.Advance(tripled)
		r.silent()
		r.later()
		r.sends("GET /")
		r.clk.Advance(45 * time.Second)
		r.one(tcpstate.KindAcceptTrickle)
	})
	t.Run("over TLS", func(t *testing.T) {
		r := newRequests(t, true)
		r.sends("client hello")
		r.say(r.s, "server hello", r.c)
		r.later()
		for range 50 {
			r.sends("x")
			r.clk.Advance(time.Second)
		}
		r.one(tcpstate.KindAcceptTrickle)
	})
}

func TestRequestsThatAreAnsweredAreNotReported(t *testing.T) {
	t.Run("between two", func(t *testing.T) {
		r := newRequests(t, false)
		for range 4 {
			r.sends("GET / HTTP/1.1\r\n\r\n")
			r.answers()
			r.clk.Advance(40 * time.Second)
		}
		r.silent()
	})
	t.Run("slowly", func(t *testing.T) {
		r := newRequests(t, false)
		r.sends("GET / HTTP/1.1\r\n\r\n")
		u := r.s.Watch().Handle(context.Background(), tcpstate.Use{Method: "GET", Name: "/"}, nil)
		r.clk.Advance(tripled)
		r.say(r.s, "HTTP/1.1 204\r\n\r\n", r.c)
		u.End()
		r.clk.Advance(tripled)
		r.silent()
	})
	t.Run("connected ahead over TLS", func(t *testing.T) {
		r := newRequests(t, true)
		r.sends("client hello")
		r.say(r.s, "server hello", r.c)
		r.later()
		r.sends("finished") // without a ticket in return, this is the last to come
		r.clk.Advance(tripled)
		r.silent()
	})
	t.Run("of another protocol by now", func(t *testing.T) {
		r := newRequests(t, false)
		r.sends("PRI *")
		r.s.Watch().AwaitNoRequests()
		r.clk.Advance(tripled)
		r.silent()
	})
}

func (r *rig) severity(kind tcpstate.Kind) tcpstate.Severity {
	r.Helper()
	return r.one(kind).Severity
}

func TestClientsThatConnectAndSendNothingAreCounted(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	connects := func(n int) (clients []*net.TCPConn, servers []net.Conn) {
		for range n {
			clients = append(clients, tcptest.Connect(t, ln.TCPListener))
			c, err := ln.Accept()
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
			servers = append(servers, c)
		}
		return clients, servers
	}
	few, fewServers := connects(9)
	r.clk.Advance(29 * time.Second)
	r.silent()
	r.clk.Advance(22 * time.Second)
	require.Equal(t, tcpstate.Inventory, r.severity(tcpstate.KindAcceptPeerSilent), "a browser that connects ahead")

	connects(1)
	r.clk.Advance(51 * time.Second)
	f := r.one(tcpstate.KindAcceptPeerSilent)
	require.Equal(t, tcpstate.Warning, f.Severity)
	require.Equal(t, tcpstate.SubjectListener, f.Subject.Type)
	require.Contains(t, f.Summary, "10 of 10 connections have never carried a byte")
	require.Contains(t, f.Summary, "All of them come from 127.0.0.0/24")

	for i := range 4 {
		r.say(fewServers[i], "220 ready\r\n", few[i])
	}
	require.NoError(t, fewServers[4].Close())
	r.clk.Advance(22 * time.Second)
	f = r.one(tcpstate.KindAcceptPeerSilent)
	require.Equal(t, tcpstate.Inventory, f.Severity)
	require.Contains(t, f.Summary, "5 of 9 connections")
	for _, c := range few {
		require.NoError(t, c.Close())
	}
	r.clk.Advance(11 * time.Second)
	for l := range r.tr.Listeners() {
		require.Equal(t, 9, l.Conns)
	}
	ln.l.Drain(time.Minute)
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
}

func TestAShutdownIsNotReported(t *testing.T) {
	leave := func(t *testing.T, after func(*served)) (r *rig, kinds func() []tcpstate.Kind) {
		r = newRig(t)
		ln := r.listens(true)
		c := tcptest.Connect(t, ln.TCPListener)
		s, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		unread := tcptest.Connect(t, ln.TCPListener)
		s2, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { s2.Close() })
		r.writes(unread, "hello")
		after(ln)
		require.NoError(t, c.Close())
		return r, func() (kinds []tcpstate.Kind) {
			for _, f := range r.tr.Findings() {
				kinds = append(kinds, f.Kind)
			}
			return kinds
		}
	}
	t.Run("in the time of grace", func(t *testing.T) {
		r, kinds := leave(t, func(s *served) { s.l.Remove(time.Minute) })
		r.clk.Advance(59 * time.Second)
		require.Empty(t, kinds())
		r.clk.Advance(12 * time.Second)
		require.ElementsMatch(t, []tcpstate.Kind{tcpstate.KindCloseWaitNeverRead, tcpstate.KindAcceptNeverRead}, kinds(), "then it is a leak")
	})
	t.Run("as declared", func(t *testing.T) {
		r, kinds := leave(t, func(s *served) { s.l.Drain(time.Minute); s.l.Remove(time.Minute) })
		r.clk.Advance(59 * time.Second)
		require.Empty(t, kinds())
		r.clk.Advance(12 * time.Second)
		require.Equal(t, []tcpstate.Kind{tcpstate.KindCloseWaitNeverRead}, kinds())
	})
	t.Run("without grace", func(t *testing.T) {
		r, kinds := leave(t, func(s *served) { s.l.Remove(0) })
		r.clk.Advance(45 * time.Second)
		require.Len(t, kinds(), 2)
	})
}
