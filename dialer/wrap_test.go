package dialer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// wrap dials through Dialer.Wrap with a function that returns conn and err.
func wrap(t *testing.T, d *dialer.Dialer, conn net.Conn, err error) (net.Conn, error) {
	t.Helper()
	return d.Wrap(func(context.Context, string, string) (net.Conn, error) { return conn, err })(t.Context(), "tcp", "db:5432")
}

func TestWrapWrapsATCPConnection(t *testing.T) {
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), Name: "db"}
	client, _ := tcptest.Pair(t)
	got, err := wrap(t, &d, client, nil)
	require.NoError(t, err)
	require.Same(t, client, got.(*tcpstate.Conn).NetConn())
	s := d.Tracker.Of(client).Snapshot()
	require.Equal(t, "db", s.Name)
	require.Equal(t, "db:5432", s.Target)
}

func TestWrapLeavesATLSConnectionAndWatchesTheOneBelow(t *testing.T) {
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	client, _ := tcptest.Pair(t)
	conn := tls.Client(client, new(tls.Config))
	got, err := wrap(t, &d, conn, nil)
	require.NoError(t, err)
	require.Same(t, conn, got)
	require.NotNil(t, d.Tracker.Of(client))
	require.Equal(t, d.Tracker.Of(client).ID(), d.Tracker.Of(got).ID())
}

func TestWrapTracksAConnectionOnce(t *testing.T) {
	outer := dialer.Dialer{Tracker: leaktest.Tracker(t), Name: "outer"}
	inner := dialer.Dialer{Tracker: outer.Tracker, Name: "inner"}
	client, _ := tcptest.Pair(t)
	first, err := wrap(t, &inner, client, nil)
	require.NoError(t, err)
	second, err := wrap(t, &outer, first, nil)
	require.NoError(t, err)
	require.Same(t, first, second)
	require.Equal(t, "inner", outer.Tracker.Of(second).Snapshot().Name)
	require.EqualValues(t, 1, outer.Tracker.Stats().Opened)
}

func TestWrapWithNoWrapReturnsWhatTheFunctionReturns(t *testing.T) {
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), NoWrap: true}
	client, _ := tcptest.Pair(t)
	got, err := wrap(t, &d, client, nil)
	require.NoError(t, err)
	require.Same(t, client, got)
	require.True(t, d.Tracker.Of(client).Open())
}

func TestWrapDoesNotTouchWhatIsNoTCPConnection(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // short enough for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := listen(t, "unix", filepath.Join(dir, "s"))
	unixConn, err := net.Dial("unix", addr.String())
	require.NoError(t, err)
	defer unixConn.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	boom := errors.New("boom")
	client, _ := tcptest.Pair(t)
	var noTLS *tls.Conn
	for name, c := range map[string]struct {
		conn net.Conn
		err  error
	}{
		"unix":                         {unixConn, nil},
		"pipe":                         {pipe, nil},
		"nothing":                      {nil, nil},
		"error":                        {nil, boom},
		"connection and error":         {client, boom},
		"nil *tls.Conn and error":      {noTLS, boom},
		"nil *net.TCPConn":             {(*net.TCPConn)(nil), nil},
		"nil *net.TCPConn and error":   {(*net.TCPConn)(nil), boom},
		"connection that wraps itself": {new(circle), nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
			got, err := wrap(t, &d, c.conn, c.err)
			require.True(t, got == c.conn)
			require.True(t, err == c.err)
			require.Zero(t, d.Tracker.Stats().Opened)
		})
	}
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	got, err := d.Dial("unix", addr.String())
	require.NoError(t, err)
	require.IsType(t, (*net.UnixConn)(nil), got)
	got.Close()
}

// circle is a wrapper that never ends.
type circle struct{ net.Conn }

func (c *circle) NetConn() net.Conn { return c }

func TestWrapPassesItsArgumentsOn(t *testing.T) {
	type key struct{}
	var d dialer.Dialer
	ctx := context.WithValue(t.Context(), key{}, 1)
	_, err := d.Wrap(func(got context.Context, network, address string) (net.Conn, error) {
		require.Equal(t, 1, got.Value(key{}))
		require.Equal(t, ctx.Done(), got.Done())
		return nil, errors.New(network + " " + address)
	})(ctx, "tcp4", "db:5432")
	require.EqualError(t, err, "tcp4 db:5432")
}

// Whoever recovers from it finds no dial that goes on for ever.
func TestADialThatDoesNotReturnHasEnded(t *testing.T) {
	for name, leave := range map[string]func(){"panic": func() { panic("broken") }, "end of the goroutine": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			tr := leaktest.Tracker(t)
			wrapped := (&dialer.Dialer{Tracker: tr}).Wrap(func(context.Context, string, string) (net.Conn, error) {
				leave()
				return nil, nil
			})
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				_, _ = wrapped(t.Context(), "tcp", "127.0.0.1:1")
			}()
			<-done
			require.Empty(t, slices.Collect(tr.Dials()))
			require.EqualValues(t, 1, tr.Stats().DialErrors)
		})
	}
}
