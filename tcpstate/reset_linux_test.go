package tcpstate_test

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// counted lets the tracker account for what has ended and returns what it has
// counted.
func (r *rig) tally() []tcpstate.Finding {
	r.Helper()
	r.clk.Advance(4 * time.Second)
	return r.tr.Counted()
}

// countsOne asks for one reset, which is no more than counted.
func (r *rig) countsOne(kind tcpstate.Kind, cause string) tcpstate.Finding {
	r.Helper()
	all := r.tally()
	require.Len(r, all, 1)
	require.Equal(r, kind, all[0].Kind)
	require.Equal(r, cause, all[0].Cause)
	require.Equal(r, tcpstate.Count, all[0].Severity)
	require.Equal(r, 1, all[0].Group.Open)
	return all[0]
}

// note returns a fact of f.
func note(f tcpstate.Finding, name string) string {
	for _, n := range f.Evidence.Notes {
		if n.Name == name {
			return n.Value
		}
	}
	return ""
}

func TestAResetFromOutsideIsCounted(t *testing.T) {
	for _, tt := range []struct {
		cause string
		talk  func(r *rig, c *tcpstate.Conn, s *net.TCPConn)
	}{
		{"before_handshake", func(r *rig, c *tcpstate.Conn, s *net.TCPConn) { r.say(c, "hello", s) }},
		{"partial_data", func(r *rig, c *tcpstate.Conn, s *net.TCPConn) {
			r.say(c, "GET", s)
			time.Sleep(10 * time.Millisecond) // the kernel's ages are in milliseconds
			r.say(s, "200 O", c)
		}},
		{"after_request", func(r *rig, c *tcpstate.Conn, s *net.TCPConn) {
			r.say(s, "welcome", c)
			time.Sleep(10 * time.Millisecond)
			r.say(c, "GET", s)
		}},
	} {
		t.Run(tt.cause, func(t *testing.T) {
			r := newRig(t)
			keep, _ := r.accepted()
			c, s := r.dialed(tcpstate.Expect{})
			tt.talk(r, c, s)
			tcptest.Reset(t, s)
			tcptest.WaitState(t, c, tcptest.Closed)
			r.clk.Advance(time.Second)
			_, err := c.Read(make([]byte, 10))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.NoError(t, c.Close())
			f := r.countsOne(tcpstate.KindResetUnexplained, tt.cause)
			require.Equal(t, "db:5432", f.Subject.Target)
			require.Equal(t, tcpstate.SubjectTarget, f.Subject.Type)
			require.Equal(t, tcpstate.Established, f.State)
			require.Equal(t, c.RemoteAddr().String(), f.Subject.Remote)
			require.NoError(t, keep.Close())
		})
	}
}

// Connections that are too young to be watched are judged by their last sample.
func TestAYoungConnectionThatIsResetIsCounted(t *testing.T) {
	tr, clk := clockedTracker(t)
	r := &rig{T: t, tr: tr, clk: clk, rec: new(recorder)}
	a, s := tcptest.Pair(t)
	c := r.tr.Track(a, tcpstate.Origin{Name: "db", Target: "db:5432"})
	tcptest.Reset(t, s)
	tcptest.WaitState(t, c, tcptest.Closed)
	require.NoError(t, c.Close())
	r.countsOne(tcpstate.KindResetUnexplained, "before_handshake")
}

// reset dials n connections to one listener and has them reset by it, one each
// gap.
func (r *rig) resets(ln *net.TCPListener, n int, gap time.Duration) {
	r.Helper()
	for range n {
		c, s := r.pairAt(ln)
		r.say(s, "welcome", c)
		tcptest.Reset(r, s)
		tcptest.WaitState(r, c, tcptest.Closed)
		require.NoError(r, c.Close())
		r.clk.Advance(gap)
	}
}

// pairAt returns a tracked client of ln and the other end.
func (r *rig) pairAt(ln *net.TCPListener) (*tcpstate.Conn, *net.TCPConn) {
	r.Helper()
	c := tcptest.Connect(r, ln)
	s, err := ln.AcceptTCP()
	require.NoError(r, err)
	r.Cleanup(func() { s.SetLinger(0); s.Close() })
	return r.tr.Track(c, tcpstate.Origin{Name: "db", Target: "db:5432"}), s
}

func TestResetsThatGoOnWhileOthersLiveAreAWarning(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	keep, _ := r.pairAt(ln)
	r.clk.Advance(2 * time.Second)
	r.resets(ln, 2, 10*time.Second)
	r.silent()
	r.resets(ln, 1, 10*time.Second)
	f := r.one(tcpstate.KindResetUnexplained)
	require.Equal(t, tcpstate.Warning, f.Severity)
	require.Equal(t, "partial_data", f.Cause)
	require.Contains(t, f.Summary, "cannot be known from this end")
	r.resets(ln, 3, 5*time.Second)
	require.Equal(t, 1, r.one(tcpstate.KindResetUnexplained).Group.Open, "told at most once a minute")
	require.NoError(t, keep.Close())
}

func TestResetsThatAreNoWarning(t *testing.T) {
	t.Run("nothing else lives", func(t *testing.T) {
		r := newRig(t)
		r.resets(tcptest.Listen(t), 5, 3*time.Second)
		r.silent()
		require.NotEmpty(t, r.tally())
	})
	t.Run("once in a while", func(t *testing.T) {
		r := newRig(t)
		ln := tcptest.Listen(t)
		keep, _ := r.pairAt(ln)
		r.resets(ln, 5, 40*time.Second)
		r.silent()
		require.Equal(t, 5, r.tally()[0].Group.Open)
		require.NoError(t, keep.Close())
	})
	t.Run("declared", func(t *testing.T) {
		r := newRig(t)
		ln := tcptest.Listen(t)
		for range 3 {
			c, s := r.pairAt(ln)
			c.Watch().Expect(tcpstate.Expect{Ignore: []tcpstate.Kind{"reset"}})
			tcptest.Reset(t, s)
			tcptest.WaitState(t, c, tcptest.Closed)
			require.NoError(t, c.Close())
		}
		require.Empty(t, r.tally())
	})
	t.Run("clients", func(t *testing.T) {
		r := newRig(t)
		keep, _ := r.accepted()
		for range 5 {
			s, c := r.accepted()
			r.say(c, "hello", s)
			tcptest.Reset(t, c)
			tcptest.WaitState(t, s, tcptest.Closed)
			require.NoError(t, s.Close())
		}
		r.silent()
		require.NotEmpty(t, r.tally())
		require.NoError(t, keep.Close())
	})
}

func TestAPeerThatDiesTakesAllItsConnectionsAlong(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	other, _ := r.dialed(tcpstate.Expect{}) // elsewhere
	var conns []*tcpstate.Conn
	var peers []*net.TCPConn
	for range 8 {
		c, s := r.pairAt(ln)
		r.say(s, "welcome", c)
		conns, peers = append(conns, c), append(peers, s)
	}
	r.clk.Advance(2 * time.Second)
	for i, s := range peers {
		tcptest.Reset(t, s)
		tcptest.WaitState(t, conns[i], tcptest.Closed)
	}
	r.clk.Advance(time.Second)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	fs := r.tally()
	require.Len(t, fs, 1)
	require.Equal(t, "peer_crashed", fs[0].Cause)
	require.Equal(t, 8, fs[0].Group.Open)
	r.silent()
	require.NoError(t, other.Close())
}

// reuses has the server close an idle connection, and writes to it later.
func (r *rig) reuses(fin time.Duration) {
	r.Helper()
	c, s := r.dialed(tcpstate.Expect{Pooled: true})
	r.say(c, "GET", s)
	time.Sleep(10 * time.Millisecond)
	r.say(s, "200", c)
	r.closes(s, c.TCPConn)
	r.clk.Advance(fin)
	_, err := c.Write([]byte("GET"))
	require.NoError(r, err)
	tcptest.WaitState(r, c, tcptest.Closed)
	r.clk.Settle() // the death is seen when it happens
	r.clk.Advance(time.Second)
	require.NoError(r, c.Close())
}

func TestAReuseAfterTheServerClosedIsCounted(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	r.reuses(10 * time.Second)
	f := r.countsOne(tcpstate.KindResetReuseAfterFIN, "")
	require.Equal(t, tcpstate.CloseWait, f.State)
	require.NotEmpty(t, note(f, "age of the FIN"))
	require.Equal(t, "db:5432", f.Subject.Target)

	r.reuses(10 * time.Second)
	r.reuses(10 * time.Second)
	r.clk.Advance(4 * time.Second)
	require.Equal(t, tcpstate.Warning, r.one(tcpstate.KindResetReuseAfterFIN).Severity)
	require.NoError(t, keep.Close())
}

// What a driver writes to say goodbye to a connection that it has found dead
// fails nobody.
func TestAGoodbyeToAServerThatHasClosedIsNoReuse(t *testing.T) {
	r := newRig(t)
	for range 3 {
		c, s := r.dialed(tcpstate.Expect{Pooled: true})
		r.say(c, "GET", s)
		r.say(s, "200", c)
		r.closes(s, c.TCPConn)
		r.clk.Advance(10 * time.Second)
		_, err := c.Write([]byte("QUIT"))
		require.NoError(t, err)
		tcptest.WaitState(t, c, tcptest.Closed)
		require.NoError(t, c.Close())
	}
	require.Empty(t, r.tally())

	c, s := r.dialed(tcpstate.Expect{Pooled: true})
	r.say(c, "GET", s)
	r.say(s, "200", c)
	r.closes(s, c.TCPConn)
	r.clk.Advance(10 * time.Second)
	_, err := c.Write([]byte("GET"))
	require.NoError(t, err)
	tcptest.WaitState(t, c, tcptest.Closed)
	_, err = c.Read(make([]byte, 1)) // the answer, that somebody waits for
	require.Error(t, err)
	require.NoError(t, c.Close())
	r.countsOne(tcpstate.KindResetReuseAfterFIN, "")
}

func TestAServerThatRefusesAnUploadAgainAndAgainIsAWarning(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	for i := range 3 {
		s, c := r.accepted()
		r.say(c, "POST", s)
		_, err := c.Write(make([]byte, 40_000))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the upload", func() bool { return s.Watch().Snapshot().RecvQueue >= 40_000 })
		r.say(s, "413", c)
		require.NoError(t, s.Close())
		r.clk.Advance(5 * time.Second)
		if i < 2 {
			r.silent()
		}
	}
	f := r.one(tcpstate.KindResetByUsUnread)
	require.Equal(t, tcpstate.Warning, f.Severity)
	require.Equal(t, "peer_sending", f.Cause)
	require.Equal(t, "close", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "TestAServerThatRefuses")
	require.Equal(t, 40_000, f.Evidence.RecvQueue)
	require.NoError(t, keep.Close())
}

func TestAnAbortIsCountedWithWhatItDiscarded(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	c, s := r.dialed(tcpstate.Expect{})
	tcptest.Deafen(t, s)
	_, err := c.Write(make([]byte, 900))
	require.NoError(t, err)
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.Close())
	f := r.countsOne(tcpstate.KindResetByUsLinger, "")
	require.Equal(t, 900, f.Evidence.SendQueue)
	require.Zero(t, r.tr.Stats().Closing)
	require.NoError(t, keep.Close())
}

func TestAnAbortThatLosesNothingIsNotCounted(t *testing.T) {
	r := newRig(t)
	for _, linger := range []int{0, 5, -1} {
		c, s := r.dialed(tcpstate.Expect{})
		r.say(c, "hello", s)
		tcptest.WaitUntil(t, "the ACK", func() bool { return c.Watch().Snapshot().SendQueue == 0 })
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.SetLinger(linger))
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	}
	require.Empty(t, r.tally())
}

func TestAConnectionResetBeforeAcceptIsCounted(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	ln := tcptest.Listen(t)
	for range 3 {
		c := tcptest.Connect(t, ln)
		tcptest.Reset(t, c)
	}
	for range 3 {
		s, err := ln.AcceptTCP()
		require.NoError(t, err)
		w := r.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
		tcptest.WaitState(t, w, tcptest.Closed)
		_, err = w.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, w.Close())
	}
	fs := r.tally()
	require.Len(t, fs, 1)
	require.Equal(t, tcpstate.KindResetBeforeAccept, fs[0].Kind)
	require.Equal(t, 3, fs[0].Group.Open)
	require.Equal(t, tcpstate.SubjectListener, fs[0].Subject.Type)
	r.silent()
	require.NoError(t, keep.Close())
}

func TestAClosedConnectionTellsWhoClosedFirst(t *testing.T) {
	tr, _ := clockedTracker(t)
	closed := make(chan tcpstate.ClosedInfo, 1)
	t.Cleanup(tr.Observe(&tcpstate.Observer{Closed: func(c tcpstate.ClosedInfo) { closed <- c }}))
	end := func(before func(c *tcpstate.Conn, peer *net.TCPConn)) tcpstate.ClosedInfo {
		peer, inner := tcptest.Pair(t)
		c := tr.Track(inner, tcpstate.Origin{})
		before(c, peer)
		require.NoError(t, c.Close())
		tr.Findings() // so that it is accounted for
		return <-closed
	}
	c := end(func(*tcpstate.Conn, *net.TCPConn) {})
	require.True(t, c.ClosedFirst)
	require.False(t, c.Aborted)
	c = end(func(c *tcpstate.Conn, peer *net.TCPConn) {
		require.NoError(t, peer.Close())
		tcptest.WaitState(t, c, tcptest.CloseWait)
	})
	require.False(t, c.ClosedFirst)
	require.Equal(t, tcpstate.ClosePeerFIN, c.Reason)
	c = end(func(c *tcpstate.Conn, _ *net.TCPConn) { require.NoError(t, c.SetLinger(0)) })
	require.True(t, c.Aborted)
	require.False(t, c.ClosedFirst)
	c = end(func(c *tcpstate.Conn, peer *net.TCPConn) {
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the byte", func() bool { return c.Watch().Snapshot().RecvQueue == 1 })
	})
	require.True(t, c.Aborted)
	require.Equal(t, 1, c.Unread)
}

// Healthy programs whose connections end by RST: none of it is more than
// counted.
func TestHealthyServersAndClientsAreNotReported(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/refuse":
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		case "/large":
			w.Write(make([]byte, 1<<20))
		default:
			io.WriteString(w, "ok")
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Listener = (&listener.Config{Tracker: r.tr, Name: "web"}).Wrap(server.Listener)
	server.StartTLS()
	defer server.Close()
	d := dialer.Dialer{Tracker: r.tr, Name: "web"}
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig

	for range 10 {
		client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, TLSClientConfig: trust.Clone()}}
		resp, err := client.Get(server.URL + "/")
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		client.CloseIdleConnections()

		resp, err = client.Get(server.URL + "/large") // given up in the middle
		require.NoError(t, err)
		io.ReadFull(resp.Body, make([]byte, 100))
		resp.Body.Close()
		client.CloseIdleConnections()

		resp, err = client.Post(server.URL+"/refuse", "text/plain", strings.NewReader(strings.Repeat("x", 4<<20)))
		if err == nil {
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			resp.Body.Close()
		}
		client.CloseIdleConnections()
	}
	address := server.Listener.Addr().String()
	for range 10 { // health checks: of TLS, of the port alone, by RST
		c, err := d.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		require.NoError(t, tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()))
		require.NoError(t, c.Close())
		for _, linger := range []int{-1, 0} {
			c, err = d.DialContext(t.Context(), "tcp", address)
			require.NoError(t, err)
			require.NoError(t, c.(*tcpstate.Conn).SetLinger(linger))
			require.NoError(t, c.Close())
		}
	}
	tcptest.WaitUntil(t, "the connections to end", func() bool {
		r.clk.Advance(time.Second)
		return r.tr.Stats().Open <= 1
	})
	r.clk.Advance(5 * time.Second)
	r.silent()
	require.NotEmpty(t, r.tr.Counted())
	require.NoError(t, keep.Close())
}
