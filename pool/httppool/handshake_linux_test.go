package httppool_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func silentTracker(t *testing.T) (*tcpstate.Tracker, *testclock.Clock) {
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	clk := testclock.Install(tr)
	t.Cleanup(func() { tr.Close(); testclock.Remove(tr) })
	leaktest.Check(t, tr, leaktest.IgnoreFindings())
	return tr, clk
}

// A request that gives up leaves the handshake to net/http, which goes on with
// it for the next one.
func TestAHandshakeThatOutlivesItsRequestIsReported(t *testing.T) {
	tr, clk := silentTracker(t)
	mute := tcptest.Listen(t)
	nd := &net.Dialer{}
	nd.SetMultipathTCP(false)
	p := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: tr, Name: "payments", NetDialer: nd}}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+mute.Addr().String(), nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		if resp, err := p.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	})
	peer, err := mute.Accept()
	require.NoError(t, err)
	tcptest.WaitUntil(t, "the ClientHello to be acknowledged", func() bool {
		for s := range tr.Conns() {
			return s.Info.BytesSent > 0 && s.SendQueue == 0
		}
		return false
	})
	cancel()
	wg.Wait()
	clk.Advance(10 * time.Second)
	require.Empty(t, tr.Findings())
	clk.Advance(3 * time.Second)
	fs := tr.Findings()
	require.Len(t, fs, 1)
	require.Equal(t, tcpstate.KindHandshakeStalled, fs[0].Kind)
	require.Contains(t, fs[0].Summary, "TLS handshake")
	require.NoError(t, peer.Close())
	tcptest.WaitUntil(t, "net/http to close the connection", func() bool { return len(tr.Findings()) == 0 })
}

func TestHandshakesOfRequestsAreTimedAndHooksOfTheRequestAreCalled(t *testing.T) {
	tr, clk := silentTracker(t)
	var mu sync.Mutex
	var got []tcpstate.HandshakeInfo
	stop := tr.Observe(&tcpstate.Observer{HandshakeDone: func(h tcpstate.HandshakeInfo) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, h)
	}})
	srv := httptest.NewTLSServer(http.HandlerFunc(hello))
	defer srv.Close()
	base := srv.Client().Transport.(*http.Transport).Clone()
	base.DisableKeepAlives = true
	base.DialContext = nil
	p := &httppool.Transport{Base: base, Dialer: dialer.Dialer{Tracker: tr, Name: "payments"}}
	var starts, dones, connects int
	for range 3 {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			TLSHandshakeStart: func() { starts++ },
			TLSHandshakeDone:  func(tls.ConnectionState, error) { dones++ },
			ConnectStart:      func(string, string) { connects++ },
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		resp, err := p.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Equal(t, []int{3, 3, 3}, []int{starts, dones, connects})
	clk.Advance(2 * time.Second)
	stop()
	require.Len(t, got, 3)
	for i, h := range got {
		require.Equal(t, tcpstate.ProtocolTLS, h.Protocol)
		require.Equal(t, "payments", h.Name)
		require.NoError(t, h.Err)
		require.Equal(t, uint64(i+1), h.ID)
	}
}

// net/http dials for a request that another connection serves in the end. The
// connection that is left over has a reader.
func TestSpareConnectionsAreNotReportedAsUnused(t *testing.T) {
	tr, clk := silentTracker(t)
	srv := httptest.NewServer(http.HandlerFunc(hello))
	defer srv.Close()
	p := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: tr, Expect: tcpstate.Expect{Ignore: []tcpstate.Kind{"idle", "keepalive"}}}}
	defer p.CloseIdleConnections()
	made, release := make(chan struct{}), make(chan struct{})
	dial := p.Inner().DialContext
	p.Inner().DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		close(made)
		<-release
		return c, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	require.NoError(t, err)
	gone := make(chan error)
	go func() {
		_, err := p.RoundTrip(req)
		gone <- err
	}()
	<-made
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	close(release)
	tcptest.WaitUntil(t, "net/http to read from the connection", func() bool {
		return idle()
	})
	clk.Advance(2 * time.Minute)
	require.Empty(t, tr.Findings())
}

// idle reports whether a goroutine of net/http reads from a connection.
func idle() bool {
	buf := make([]byte, 1<<16)
	return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "persistConn).readLoop")
}
