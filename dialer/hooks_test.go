package dialer_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func needsControl(t *testing.T) {
	if runtime.GOOS == "js" || runtime.GOOS == "wasip1" {
		t.Skip("the network of the Go runtime has no Control hooks")
	}
}

func TestControlHooksOfTheNetDialerAreCalledAsBefore(t *testing.T) {
	needsControl(t)
	type key struct{}
	var called []string
	with := func(name string) func(context.Context, string, string, syscall.RawConn) error {
		return func(ctx context.Context, network, address string, c syscall.RawConn) error {
			require.Equal(t, 7, ctx.Value(key{}))
			called = append(called, name+" "+network+" "+address)
			return c.Control(func(uintptr) {})
		}
	}
	simple := func(network, address string, c syscall.RawConn) error {
		called = append(called, "Control "+network+" "+address)
		return nil
	}
	addr := tcptest.Listen(t).Addr().String()
	for want, nd := range map[string]*net.Dialer{
		"ControlContext tcp4 " + addr: {ControlContext: with("ControlContext"), Control: simple},
		"Control tcp4 " + addr:        {Control: simple},
	} {
		called = nil
		before := *nd
		d := dialer.Dialer{NetDialer: nd, Tracker: leaktest.Tracker(t)}
		c, err := d.DialContext(context.WithValue(t.Context(), key{}, 7), "tcp", addr)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, []string{want}, called)
		require.Equal(t, before.ControlContext == nil, nd.ControlContext == nil, "it is the caller's")
		require.Equal(t, before.Control == nil, nd.Control == nil)
	}
}

func TestErrorsOfControlHooksComeBackUnchanged(t *testing.T) {
	needsControl(t)
	refused := errors.New("not this one")
	addr := tcptest.Listen(t).Addr().String()
	for name, nd := range map[string]*net.Dialer{
		"ControlContext": {ControlContext: func(context.Context, string, string, syscall.RawConn) error { return refused }},
		"Control":        {Control: func(string, string, syscall.RawConn) error { return refused }},
	} {
		_, want := nd.DialContext(t.Context(), "tcp", addr)
		d := dialer.Dialer{NetDialer: nd, Tracker: leaktest.Tracker(t)}
		_, err := d.DialContext(t.Context(), "tcp", addr)
		require.ErrorIs(t, err, refused, name)
		require.Equal(t, want, err, name)
		for range d.Tracker.Dials() {
			t.Fatal("it is over")
		}
	}
}

func TestTheTraceOfTheCallerIsObeyed(t *testing.T) {
	addr := tcptest.Listen(t).Addr().String()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	for _, address := range []string{addr, net.JoinHostPort("localhost", port)} {
		counts := func(dial dialer.DialFunc) (n [4]int) {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				DNSStart:     func(httptrace.DNSStartInfo) { n[0]++ },
				DNSDone:      func(httptrace.DNSDoneInfo) { n[1]++ },
				ConnectStart: func(string, string) { n[2]++ },
				ConnectDone:  func(string, string, error) { n[3]++ },
			})
			c, err := dial(ctx, "tcp4", address)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			return n
		}
		want := counts(new(net.Dialer).DialContext)
		d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
		require.Equal(t, want, counts(d.DialContext))
		require.Equal(t, want, counts(d.Wrap(new(net.Dialer).DialContext)))
	}
}

func TestADialFindsItselfInItsContext(t *testing.T) {
	d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := d.Wrap(func(got context.Context, _, _ string) (net.Conn, error) {
		require.NotNil(t, tcpstate.DialingFromContext(got))
		derived, cancel := context.WithCancel(got)
		defer cancel()
		require.Same(t, tcpstate.DialingFromContext(got), tcpstate.DialingFromContext(derived))
		return nil, errors.New("enough")
	})(ctx, "tcp", "db:5432")
	require.EqualError(t, err, "enough")
	require.Nil(t, tcpstate.DialingFromContext(ctx))
	var none *tcpstate.Dialing
	none.Trying(ctx, "", nil)
	none.Tried("", nil)
	none.Resolving()
	none.Resolved(nil, nil)
}
