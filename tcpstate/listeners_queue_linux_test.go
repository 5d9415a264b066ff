package tcpstate_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// served is a listener as package listener has it.
type served struct {
	*net.TCPListener
	l *tcpstate.Listening
}

func (s *served) Accept() (net.Conn, error) {
	s.l.Accepting()
	c, err := s.TCPListener.Accept()
	return s.l.Accepted(c, err, true), err
}

func (r *rig) listens(serving bool) *served {
	r.Helper()
	ln := tcptest.Listen(r.T)
	s := &served{ln, r.tr.AddListener(ln, tcpstate.Origin{Role: tcpstate.Server, Name: "api", Target: ln.Addr().String()})}
	if serving {
		s.l.Serving()
	}
	r.Cleanup(func() { s.l.Remove(0) })
	r.clk.Settle()
	return s
}

// queues waits until n connections are in the accept queue.
func (r *rig) queues(s *served, n int) {
	r.Helper()
	tcptest.WaitUntil(r, "the accept queue", func() bool {
		for l := range r.tr.Listeners() {
			return l.Queue == n
		}
		return false
	})
}

func TestClientsThatNobodyAcceptsAreReported(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	for range 2 {
		tcptest.Connect(t, ln)
	}
	r.queues(ln, 2)
	r.clk.Advance(10 * time.Second) // the sweep
	r.silent()
	r.clk.Advance(11 * time.Second)
	f := r.one(tcpstate.KindListenerNotAccepting)
	require.Equal(t, tcpstate.SubjectListener, f.Subject.Type)
	require.Equal(t, tcpstate.Error, f.Severity)
	require.Equal(t, "never_accepted", f.Cause)
	require.Equal(t, "listen", f.Sites[0].Role)
	require.Contains(t, f.Summary, "2 connections wait")
	t.Log(f.String())

	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings(), "somebody accepts, however slowly")
	require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
}
