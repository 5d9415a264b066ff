package tcpstate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// tcpConn is the method set of *net.TCPConn.
type tcpConn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	syscall.Conn
	CloseRead() error
	CloseWrite() error
	File() (*os.File, error)
	MultipathTCP() (bool, error)
	SetKeepAlive(bool) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetKeepAlivePeriod(time.Duration) error
	SetLinger(int) error
	SetNoDelay(bool) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

var (
	_ tcpConn = (*net.TCPConn)(nil)
	_ tcpConn = (*tcpstate.Conn)(nil)
)

// methods calls every method of a connection once and says what it returned.
var methods = map[string]func(c tcpConn) string{
	"CloseRead":          func(c tcpConn) string { return result(c, c.CloseRead()) },
	"CloseWrite":         func(c tcpConn) string { return result(c, c.CloseWrite()) },
	"LocalAddr":          func(c tcpConn) string { return fmt.Sprintf("%T", c.LocalAddr()) },
	"RemoteAddr":         func(c tcpConn) string { return fmt.Sprintf("%T", c.RemoteAddr()) },
	"SetDeadline":        func(c tcpConn) string { return result(c, c.SetDeadline(time.Time{})) },
	"SetReadDeadline":    func(c tcpConn) string { return result(c, c.SetReadDeadline(time.Time{})) },
	"SetWriteDeadline":   func(c tcpConn) string { return result(c, c.SetWriteDeadline(time.Time{})) },
	"SetKeepAlive":       func(c tcpConn) string { return result(c, c.SetKeepAlive(true)) },
	"SetKeepAlivePeriod": func(c tcpConn) string { return result(c, c.SetKeepAlivePeriod(time.Minute)) },
	"SetLinger":          func(c tcpConn) string { return result(c, c.SetLinger(-1)) },
	"SetNoDelay":         func(c tcpConn) string { return result(c, c.SetNoDelay(true)) },
	"SetReadBuffer":      func(c tcpConn) string { return result(c, c.SetReadBuffer(1<<16)) },
	"SetWriteBuffer":     func(c tcpConn) string { return result(c, c.SetWriteBuffer(1<<16)) },
	"SetKeepAliveConfig": func(c tcpConn) string {
		return result(c, c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute}))
	},
	"MultipathTCP": func(c tcpConn) string {
		on, err := c.MultipathTCP()
		return fmt.Sprint(on, result(c, err))
	},
	"Read": func(c tcpConn) string {
		b := make([]byte, 8)
		n, err := c.Read(b)
		return fmt.Sprint(n, string(b[:n]), result(c, err))
	},
	"Write": func(c tcpConn) string {
		n, err := c.Write([]byte("payload"))
		return fmt.Sprint(n, result(c, err))
	},
	"ReadFrom": func(c tcpConn) string {
		n, err := c.ReadFrom(strings.NewReader("payload"))
		return fmt.Sprint(n, result(c, err))
	},
	"WriteTo": func(c tcpConn) string {
		var b bytes.Buffer
		n, err := c.WriteTo(&b)
		return fmt.Sprint(n, b.String(), result(c, err))
	},
	"File": func(c tcpConn) string {
		f, err := c.File()
		if err == nil {
			f.Close()
		}
		return fmt.Sprint(f != nil, result(c, err))
	},
	"SyscallConn": func(c tcpConn) string {
		raw, err := c.SyscallConn()
		if err != nil {
			return fmt.Sprint(raw, result(c, err))
		}
		called := false
		cerr := raw.Control(func(uintptr) { called = true })
		rerr := raw.Read(func(uintptr) bool { return true })
		werr := raw.Write(func(uintptr) bool { return true })
		return fmt.Sprintf("%T %v %s %s %s", raw, called, result(c, cerr), result(c, rerr), result(c, werr))
	},
	"Close": func(c tcpConn) string { return result(c, c.Close()) },
}

// result describes err with everything that a caller can see of it, except for
// the ports.
func result(c net.Conn, err error) string {
	if err == nil {
		return "[ok]"
	}
	var b strings.Builder
	text := err.Error()
	for name, a := range map[string]net.Addr{"local": c.LocalAddr(), "remote": c.RemoteAddr()} {
		if a != nil {
			text = strings.ReplaceAll(text, a.String(), name)
		}
	}
	fmt.Fprintf(&b, "[%s", text)
	for e := err; e != nil; e = errors.Unwrap(e) {
		fmt.Fprintf(&b, " %T", e)
		if op, ok := e.(*net.OpError); ok {
			fmt.Fprintf(&b, "(%s %s %t %t timeout=%t temporary=%t)", op.Op, op.Net, op.Source != nil, op.Addr != nil, op.Timeout(), op.Temporary())
		}
	}
	return b.String() + "]"
}

// situations bring a connection, whose peer is given, into a state in which a
// Read does not block.
var situations = map[string]func(t *testing.T, c tcpConn, peer *net.TCPConn){
	"bytes wait": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		_, err := peer.Write([]byte("1234567"))
		require.NoError(t, err)
		require.NoError(t, peer.CloseWrite())
	},
	"end of stream": func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, peer.CloseWrite()) },
	"reset": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		tcptest.Reset(t, peer)
		tcptest.WaitState(t, c, tcptest.Closed)
	},
	"deadline passed": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
	},
	"closed": func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, c.Close()) },
	"closed twice": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		require.NoError(t, c.Close())
		require.Error(t, c.Close())
	},
	"closed below": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		if n, ok := c.(interface{ NetConn() net.Conn }); ok {
			require.NoError(t, n.NetConn().Close())
			return
		}
		require.NoError(t, c.Close())
	},
	"reading closed": func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, c.CloseRead()) },
	"writing closed": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		require.NoError(t, c.CloseWrite())
		require.NoError(t, peer.CloseWrite())
	},
}

// TestConnReturnsWhatTCPConnReturns calls every method in every situation on a
// tracked connection and on a plain one.
func TestConnReturnsWhatTCPConnReturns(t *testing.T) {
	needSockets(t)
	if _, ok := methods["Read"]; !ok || len(methods) != reflect.TypeFor[tcpConn]().NumMethod() {
		t.Fatal("the table does not have the methods of tcpConn")
	}
	tr := leaktest.Tracker(t)
	for situation, prepare := range situations {
		for method, call := range methods {
			t.Run(situation+"/"+method, func(t *testing.T) {
				plain, peer := tcptest.Pair(t)
				prepare(t, plain, peer)
				want := call(plain)

				inner, peer := tcptest.Pair(t)
				c := tr.Track(inner, tcpstate.Origin{Name: "same"})
				defer c.Close()
				prepare(t, c, peer)
				assert.Equal(t, want, call(c))
			})
		}
	}
}

// TestConnHasTheMethodsOfTCPConn fails when a new release of Go gives
// *net.TCPConn a method that the table above does not know.
func TestConnHasTheMethodsOfTCPConn(t *testing.T) {
	for m := range reflect.TypeFor[*net.TCPConn]().Methods() {
		assert.Contains(t, methods, m.Name, "is it to be overridden?")
	}
}

func TestConnWithoutAConnectionReturnsEINVAL(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	closed, _ := tcptest.Pair(t)
	require.NoError(t, closed.Close())
	c := tr.Track(nil, tcpstate.Origin{})
	assert.Nil(t, c.Watch())
	for method, call := range methods {
		if method == "File" {
			_, err := c.File()
			assert.Equal(t, syscall.EINVAL, err, "net panics")
			continue
		}
		assert.Equal(t, call(new(net.TCPConn)), call(c), method)
	}
	// Not nil, but of no use either.
	c = tr.Track(closed, tcpstate.Origin{})
	assert.Nil(t, c.Watch())
	for method, call := range methods {
		assert.Equal(t, call(closed), call(c), method)
	}
	assert.Zero(t, tr.Stats().Opened)
}

func TestConcurrentClosesCountOnce(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	const conns, closers = 20, 8
	for range conns {
		inner, peer := tcptest.Pair(t)
		c := tr.Track(inner, tcpstate.Origin{})
		unblocked := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			unblocked <- err
		}()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var results []string
		for range closers {
			wg.Go(func() {
				err := c.Close()
				mu.Lock()
				defer mu.Unlock()
				results = append(results, result(c, err))
			})
		}
		wg.Wait()
		require.ErrorIs(t, <-unblocked, net.ErrClosed)
		ok := 0
		for _, r := range results {
			if r == "[ok]" {
				ok++
			} else {
				require.Contains(t, r, "use of closed network connection")
			}
		}
		require.Equal(t, 1, ok, "%v", results)
		peer.Close()
	}
	stats := tr.Stats()
	assert.EqualValues(t, conns, stats.Opened)
	assert.EqualValues(t, conns, stats.Closed)
	assert.Zero(t, stats.Open)
}

func TestCloseBelowAndAboveCountsOnce(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	inner, _ := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	require.NoError(t, c.NetConn().Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	assert.EqualValues(t, 1, tr.Stats().Closed)
	assert.False(t, c.Watch().Open())
}

// TestOtherConnectionsAreNotTouched passes what is not TCP through every door.
func TestOtherConnectionsAreNotTouched(t *testing.T) {
	tr := leaktest.Tracker(t)
	udp, err := net.Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	defer udp.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	var none *net.TCPConn
	for _, c := range []net.Conn{udp, pipe, none, nil} {
		assert.True(t, tr.Wrap(c, tcpstate.Origin{}) == c, "%T", c)
		assert.False(t, tr.Attach(c, tcpstate.Origin{}), "%T", c)
		assert.Nil(t, tr.Of(c), "%T", c)
		assert.True(t, tr.BeginDial(t.Context(), "", tcpstate.Origin{}).Done(c, nil, true) == c, "%T", c)
		assert.True(t, tr.BeginDial(t.Context(), "", tcpstate.Origin{}).Done(c, nil, false) == c, "%T", c)
	}
	assert.Zero(t, tr.Stats().Opened)
}

func TestTrackingTwiceIsTrackingOnce(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	inner, _ := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{Name: "first"})
	again := tr.Track(inner, tcpstate.Origin{Name: "second"})
	assert.Equal(t, c.Watch().ID(), again.Watch().ID())
	assert.True(t, tr.Wrap(c, tcpstate.Origin{}) == net.Conn(c), "a Conn is not wrapped again")
	assert.True(t, tr.Attach(inner, tcpstate.Origin{}))
	assert.True(t, tr.Attach(c, tcpstate.Origin{}))
	require.NoError(t, again.Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	assert.EqualValues(t, 1, tr.Stats().Opened)
	assert.EqualValues(t, 1, tr.Stats().Closed)
}

// The switch turns tracking off, not the type: a program that asserts *Conn goes
// on working, and two wrapped ends still splice.
func TestConnOfATrackerThatIsOffIsNotWatched(t *testing.T) {
	off, closed := newTracker(t), newTracker(t)
	require.NoError(t, off.Set(func(c *tcpstate.Config) { c.Off = true }))
	require.NoError(t, closed.Close())
	for _, tr := range []*tcpstate.Tracker{off, closed} {
		inner, peer := tcptest.Pair(t)
		dialing := func() net.Conn { return tr.BeginDial(t.Context(), "tcp", tcpstate.Origin{}).Done(inner, nil, true) }
		for _, c := range []net.Conn{tr.Track(inner, tcpstate.Origin{}), tr.Wrap(inner, tcpstate.Origin{}), dialing()} {
			c, ok := c.(*tcpstate.Conn)
			require.True(t, ok)
			assert.Nil(t, c.Watch())
			assert.True(t, c.NetConn() == net.Conn(inner))
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = peer.Read(make([]byte, 1))
			require.NoError(t, err)
		}
		assert.False(t, tr.Attach(inner, tcpstate.Origin{}))
		require.NoError(t, inner.Close())
		assert.Zero(t, tr.Stats().Opened)
	}
}
