package tcpstate_test

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// The healthy twins of the failures: the kernel shows the same, and nothing is
// wrong. Each runs for three times the threshold, and must never have been
// reported.

const tripled = 95 * time.Second

func TestConnectionsClosedInTimeAreNotReported(t *testing.T) {
	for name, use := range map[string]func(r *rig, s *tcpstate.Conn){
		"never read": func(*rig, *tcpstate.Conn) {},
		"after EOF": func(r *rig, s *tcpstate.Conn) {
			_, err := s.Read(make([]byte, 1))
			require.Equal(r, io.EOF, err)
		},
		"half closed by us, too": func(r *rig, s *tcpstate.Conn) { require.NoError(r, s.CloseWrite()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s, c := r.accepted()
			r.closes(c, s.TCPConn)
			use(r, s)
			r.clk.Advance(25 * time.Second)
			require.NoError(t, s.Close())
			r.clk.Advance(tripled)
			r.silent()
		})
	}
	t.Run("after a reset", func(t *testing.T) {
		r := newRig(t)
		s, c := r.accepted()
		tcptest.Reset(t, c)
		tcptest.WaitState(t, s, tcptest.Closed)
		r.clk.Advance(25 * time.Second)
		_, err := s.Read(make([]byte, 1))
		require.Error(t, err)
		r.clk.Advance(25 * time.Second) // the error was news: the clock has started again
		require.NoError(t, s.Close())
		r.clk.Advance(tripled)
		r.silent()
	})
}

func TestAnAnswerToAHalfClosedClientIsNotReported(t *testing.T) {
	for name, read := range map[string]bool{"after EOF": true, "without reading": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s, c := r.accepted()
			r.say(c, "question", s)
			require.NoError(t, c.CloseWrite())
			tcptest.WaitState(t, s, tcptest.CloseWait)
			if read {
				_, err := s.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
			}
			for range 5 {
				r.clk.Advance(20 * time.Second)
				r.say(s, "part of the answer", c)
			}
			r.silent()
		})
	}
}

func TestADeclaredHalfCloseIsNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	s.Watch().Expect(tcpstate.Expect{HalfClose: true})
	require.NoError(t, c.CloseWrite())
	tcptest.WaitState(t, s, tcptest.CloseWait)
	r.clk.Advance(tripled)
	r.silent()
}

func TestIgnoredKindsAreNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	done := s.Watch().Use(context.Background(), tcpstate.Use{Expect: tcpstate.Expect{Ignore: []tcpstate.Kind{"close_wait"}}})
	r.closes(c, s.TCPConn)
	r.clk.Advance(tripled)
	r.silent()
	done() // it was declared for the use, and the end of the use is progress
	r.clk.Advance(25 * time.Second)
	r.silent()
	r.clk.Advance(20 * time.Second)
	r.one(tcpstate.KindCloseWaitNeverRead)
}

func TestASlowReaderIsNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	_, err := c.Write(make([]byte, 8000))
	require.NoError(t, err)
	r.closes(c, s.TCPConn)
	for range 5 {
		r.clk.Advance(20 * time.Second)
		_, err := s.Read(make([]byte, 100))
		require.NoError(t, err)
	}
	r.silent()
}

func TestABodyThatIsReadSlowlyIsNotReported(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	done := c.Watch().Use(context.Background(), tcpstate.Use{Method: "GET", Name: "backup"})
	r.say(c, "GET /backup\r\n", s)
	_, err := s.Write(make([]byte, 20000))
	require.NoError(t, err)
	r.closes(s, c.TCPConn)
	for range 5 {
		r.clk.Advance(20 * time.Second)
		_, err := c.Read(make([]byte, 1000))
		require.NoError(t, err)
	}
	done()
	require.NoError(t, c.Close())
	r.clk.Advance(2 * time.Second)
	r.silent()
}

func TestACopyWithASlowDestinationIsNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	dst, dstPeer := tcptest.Pair(t, tcptest.SmallBuffers())
	tcptest.FillWindow(t, dst)
	_, err := c.Write(make([]byte, 100_000))
	require.NoError(t, err)
	r.closes(c, s.TCPConn)
	copied := make(chan error)
	go func() { _, err := io.Copy(dst, s); copied <- err }()
	tcptest.WaitUntil(t, "the copy to begin", func() bool { return s.Watch().Snapshot().RecvQueue < 100_000 })
	r.clk.Advance(tripled)
	r.silent()

	go io.Copy(io.Discard, dstPeer)
	require.NoError(t, <-copied)
	r.clk.Advance(25 * time.Second) // it has just seen the end
	require.NoError(t, s.Close())
	r.clk.Advance(tripled)
	r.silent()
}

func TestALoopThatReadsOnAfterADeadlineIsNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	for range 3 {
		r.clk.Advance(10 * time.Second)
		require.NoError(t, s.SetReadDeadline(time.Unix(1, 0)))
		_, err := s.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.NoError(t, s.SetReadDeadline(time.Time{}))
	ended := make(chan error)
	go func() {
		_, err := s.Read(make([]byte, 1))
		s.Close()
		ended <- err
	}()
	r.clk.Advance(tripled)
	require.NoError(t, c.Close())
	require.Equal(t, io.EOF, <-ended)
	r.clk.Advance(tripled)
	r.silent()
}

func TestAServerThatSpeaksFirstIsNotNeverRead(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	require.NoError(t, c.CloseWrite())
	tcptest.WaitState(t, s, tcptest.CloseWait)
	for range 5 {
		r.say(s, "news", c)
		r.clk.Advance(20 * time.Second)
	}
	r.silent()
	r.clk.Advance(20 * time.Second)
	r.one(tcpstate.KindCloseWaitNotReading) // it has stopped, and still nobody reads
}

func TestAConnectionFoundDeadInItsPoolAndDiscardedIsNoAlarm(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{Pooled: true})
	r.closes(s, c.TCPConn)
	r.clk.Advance(tripled)
	done := c.Watch().Use(context.Background(), tcpstate.Use{Name: "query"})
	r.clk.Advance(11 * time.Second)
	_, err := c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	done()
	require.NoError(t, c.Close())
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
	for _, e := range r.rec.all() {
		require.Equal(t, tcpstate.Inventory, e.Severity)
	}
}

func TestAQuietConnectionIsNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	require.NoError(t, s.CloseRead())
	r.clk.Advance(10 * time.Minute)
	r.silent()
}
