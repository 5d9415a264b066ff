package dialer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// listen accepts connections, which it leaves alone, until the test ends.
func listen(t *testing.T, network, address string) net.Addr {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("cannot listen on %s %s: %v", network, address, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr()
}

// link is an error in a chain, without what differs from dial to dial.
type link struct {
	Type, Text         string
	Timeout, Temporary bool
	Op, Net            string
	Addr               net.Addr
	Errno              syscall.Errno
}

// chain takes an error apart, so that two can be compared.
func chain(err error) (list []link) {
	for ; err != nil; err = errors.Unwrap(err) {
		l := link{Type: reflect.TypeOf(err).String(), Text: err.Error()}
		if t, ok := err.(interface{ Timeout() bool }); ok {
			l.Timeout = t.Timeout()
		}
		if t, ok := err.(interface{ Temporary() bool }); ok {
			l.Temporary = t.Temporary()
		}
		if op, ok := err.(*net.OpError); ok {
			l.Op, l.Net, l.Addr = op.Op, op.Net, op.Addr
		}
		l.Errno, _ = err.(syscall.Errno)
		list = append(list, l)
	}
	return list
}

func TestErrorsAreThoseOfNetDialer(t *testing.T) {
	open := listen(t, "tcp", "127.0.0.1:0").String()
	closed := tcptest.Listen(t)
	refused := closed.Addr().String()
	closed.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(errors.New("the reason"))
	vetoed := errors.New("vetoed")
	for _, c := range []struct {
		name             string
		ctx              context.Context
		nd               *net.Dialer
		network, address string
		is               error
	}{
		{"refused", t.Context(), nil, "tcp", refused, syscall.ECONNREFUSED},
		{"cancelled", cancelled, nil, "tcp", open, nil},
		{"cancelled with a cause", caused, nil, "tcp", open, nil},
		{"deadline exceeded", expired, nil, "tcp", open, context.DeadlineExceeded},
		{"Deadline of the Dialer", t.Context(), &net.Dialer{Deadline: time.Now().Add(-time.Second)}, "tcp", open, context.DeadlineExceeded},
		{"Timeout of the Dialer", t.Context(), &net.Dialer{Timeout: time.Nanosecond}, "tcp", open, context.DeadlineExceeded},
		{"Control fails", t.Context(), &net.Dialer{Control: func(string, string, syscall.RawConn) error { return vetoed }}, "tcp", open, vetoed},
		{"LocalAddr of another kind", t.Context(), &net.Dialer{LocalAddr: &net.UDPAddr{}}, "tcp", open, nil},
		{"network", t.Context(), nil, "tcp7", open, net.UnknownNetworkError("tcp7")},
		{"no network", t.Context(), nil, "", open, net.UnknownNetworkError("")},
		{"no port", t.Context(), nil, "tcp", "127.0.0.1", nil},
		{"port", t.Context(), nil, "tcp", "127.0.0.1:no-such-port", nil},
		{"port range", t.Context(), nil, "tcp", "127.0.0.1:70000", nil},
		{"empty", t.Context(), nil, "tcp", "", nil},
		{"brackets", t.Context(), nil, "tcp", "[::1:80", nil},
		{"family", t.Context(), nil, "tcp6", open, nil},
		{"no such socket", t.Context(), nil, "unix", filepath.Join(t.TempDir(), "none"), syscall.ENOENT},
	} {
		t.Run(c.name, func(t *testing.T) {
			nd := c.nd
			if nd == nil {
				nd = new(net.Dialer)
			}
			wantConn, want := nd.DialContext(c.ctx, c.network, c.address)
			require.Error(t, want)
			require.Nil(t, wantConn)

			d := dialer.Dialer{NetDialer: c.nd, Tracker: leaktest.Tracker(t)}
			conn, err := d.DialContext(c.ctx, c.network, c.address)
			require.True(t, conn == nil) // not a nil pointer of some type
			require.Equal(t, chain(want), chain(err))
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			require.EqualValues(t, 1, d.Tracker.Stats().DialErrors)
			require.Zero(t, d.Tracker.Stats().Opened)

			tlsConn, err := d.DialTLS(c.ctx, c.network, c.address, nil)
			require.Nil(t, tlsConn)
			_, want = (&tls.Dialer{NetDialer: nd}).DialContext(c.ctx, c.network, c.address)
			require.Equal(t, chain(want), chain(err))
		})
	}
}

func TestTheErrorOfTheDialFunctionComesBackAsItIs(t *testing.T) {
	want := &net.OpError{Op: "dial", Err: errors.New("proxy says no")}
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	conn, got := d.Wrap(func(context.Context, string, string) (net.Conn, error) { return nil, want })(t.Context(), "tcp", "x:1")
	require.True(t, conn == nil)
	require.Same(t, want, got)
}

func TestTheZeroDialerDialsAndTracksWithTheDefaultTracker(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	var d dialer.Dialer
	for name, dial := range map[string]func() (net.Conn, error){
		"Dial":        func() (net.Conn, error) { return d.Dial("tcp", addr.String()) },
		"DialContext": func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", addr.String()) },
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := dial()
			require.NoError(t, err)
			defer conn.Close()
			require.IsType(t, (*tcpstate.Conn)(nil), conn)
			require.Equal(t, addr.String(), conn.RemoteAddr().String())
			w := tcpstate.Of(conn)
			require.NotZero(t, w.ID())
			require.Equal(t, w.ID(), tcpstate.Default().Of(conn).ID())
			require.Equal(t, addr.String(), w.Snapshot().Target)
			require.Equal(t, dialer.Dialer{}, d)
		})
	}
}

func TestOptionsOfTheNetDialerApply(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	var seen string
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), NetDialer: &net.Dialer{
		LocalAddr: local,
		Control:   func(network, address string, _ syscall.RawConn) error { seen = network + " " + address; return nil },
	}}
	if runtime.GOOS != "linux" {
		d.NetDialer.LocalAddr = nil // others have 127.0.0.1 only
	}
	conn, err := d.Dial("tcp", addr.String())
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "tcp4 "+addr.String(), seen)
	if runtime.GOOS == "linux" {
		require.Equal(t, netip.MustParseAddr("127.0.0.2"), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr())
	}
}

func TestNoWrapReturnsTheConnectionItselfAndTracksIt(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), Name: "cache", NoWrap: true}
	conn, err := d.Dial("tcp", addr.String())
	require.NoError(t, err)
	defer conn.Close()
	require.IsType(t, (*net.TCPConn)(nil), conn)
	s := d.Tracker.Of(conn).Snapshot()
	require.Equal(t, "cache", s.Name)
	require.Equal(t, addr.String(), s.Target)
	require.False(t, s.Wrapped)
	require.True(t, s.Open)
}

func TestTheSiteIsTheLineThatDials(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0").String()
	server, config := tlsListen(t)
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	wrapped := d.Wrap(new(net.Dialer).DialContext)
	for name, dial := range map[string]func() (net.Conn, int, error){
		"Dial": func() (net.Conn, int, error) {
			c, err := d.Dial("tcp", addr)
			return c, line() - 1, err
		},
		"DialContext": func() (net.Conn, int, error) {
			c, err := d.DialContext(t.Context(), "tcp", addr)
			return c, line() - 1, err
		},
		"DialTLS": func() (net.Conn, int, error) {
			c, err := d.DialTLS(t.Context(), "tcp", server, config)
			return c, line() - 1, err
		},
		"Wrap": func() (net.Conn, int, error) {
			c, err := wrapped(t.Context(), "tcp", addr)
			return c, line() - 1, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, want, err := dial()
			require.NoError(t, err)
			defer c.Close()
			site := d.Tracker.Of(c).Snapshot().Site
			require.Equal(t, "dial", site.Role)
			require.Equal(t, "dialer/dialer_test.go", site.Frames[0].File)
			require.Equal(t, want, site.Frames[0].Line)
		})
	}
}

func line() int {
	_, _, line, _ := runtime.Caller(1)
	return line
}

func TestADialThatFindsTheTrackerOffIsAPlainDial(t *testing.T) {
	addr := listen(t, "tcp", "127.0.0.1:0")
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	require.NoError(t, d.Tracker.Set(func(c *tcpstate.Config) { c.Off = true }))
	conn, err := d.Dial("tcp", addr.String())
	require.NoError(t, err)
	defer conn.Close()
	require.Nil(t, d.Tracker.Of(conn))
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	require.Empty(t, slices.Collect(d.Tracker.Conns()))
}

func TestObserversAreToldOfDials(t *testing.T) {
	type key struct{}
	addr := listen(t, "tcp", "127.0.0.1:0").String()
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), Name: "cache"}
	var dials []tcpstate.DialInfo // written by the observer, read after stop
	stop := d.Tracker.Observe(&tcpstate.Observer{
		Token:    func(ctx context.Context) any { return ctx.Value(key{}) },
		DialDone: func(i tcpstate.DialInfo) any { dials = append(dials, i); return nil },
	})
	ctx := context.WithValue(t.Context(), key{}, "trace")
	conn, err := d.DialContext(ctx, "tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_, failed := d.DialContext(ctx, "tcp", "127.0.0.1:70000")
	require.Error(t, failed)
	stop()
	require.Len(t, dials, 2)
	require.Equal(t, "cache", dials[0].Name)
	require.Equal(t, addr, dials[0].Target)
	require.Equal(t, "tcp", dials[0].Network)
	require.Equal(t, "trace", dials[0].Token)
	require.Equal(t, d.Tracker.Of(conn).ID(), dials[0].ID)
	require.NoError(t, dials[0].Err)
	require.Same(t, failed, dials[1].Err)
	require.Zero(t, dials[1].ID)
}
