package httpserver_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// taken waits until the server has read what its client sent.
func (f *fixture) taken(t *testing.T, n uint64) {
	t.Helper()
	tcptest.WaitUntil(t, "the server to read", func() bool {
		for c := range f.tracker.Conns() {
			return uint64(c.Info.BytesReceived) >= n && c.RecvQueue == 0
		}
		return false
	})
}

// later waits until what was sent or received last is so old that the kernel,
// which counts in jiffies, tells it from what comes next.
func (f *fixture) later(t *testing.T) {
	t.Helper()
	tcptest.WaitUntil(t, "the clock of the kernel", func() bool {
		for c := range f.tracker.Conns() {
			return min(c.Info.LastDataSent, c.Info.LastDataReceived) >= 20*time.Millisecond
		}
		return false
	})
}

func TestARequestThatIsNeverCompletedIsReported(t *testing.T) {
	t.Run("the first", func(t *testing.T) {
		f := newFixture(t, newAPI(t).mux()).start(t)
		f.send(t, "GET /hello/you HTTP/1.1\r\nHo")
		f.taken(t, 27)
		f.clock.Advance(45 * time.Second)
		got := f.finding(t)
		require.Equal(t, tcpstate.KindAcceptTrickle, got.Kind)
		requireNothingPrivate(t, got)
	})
	t.Run("the second", func(t *testing.T) {
		f := newFixture(t, newAPI(t).mux()).start(t)
		client := f.send(t, "")
		get(t, client, "/hello/you")
		f.waitIdle(t)
		f.clock.Advance(time.Minute)
		require.Empty(t, f.tracker.Findings())
		f.later(t)
		_, err := io.WriteString(client, "GET /")
		require.NoError(t, err)
		f.taken(t, 41)
		f.clock.Advance(45 * time.Second)
		require.Equal(t, tcpstate.KindAcceptTrickle, f.finding(t).Kind)

		_, err = io.WriteString(client, "hello/you HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		_, err = io.ReadFull(client, make([]byte, 10))
		require.NoError(t, err)
		f.waitIdle(t)
		f.clock.Advance(12 * time.Second)
		require.Empty(t, f.tracker.Findings())
	})
}

func TestAHandshakeThatIsNeverCompletedIsReported(t *testing.T) {
	f := newFixture(t, newAPI(t).mux())
	f.server.TLSConfig, _ = tcptest.TLSConfigs(t)
	f.start(t)
	f.send(t, "\x16\x03\x01\x02\x00\x01") // of a ClientHello of 512 bytes
	f.taken(t, 6)
	f.clock.Advance(45 * time.Second)
	got := f.finding(t)
	require.Equal(t, tcpstate.KindAcceptTrickle, got.Kind)
	require.Equal(t, "handshake", got.Cause)
}

func TestServedConnectionsAreNotReported(t *testing.T) {
	early := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "enough") })
	for name, tt := range map[string]struct {
		handler http.Handler
		client  func(t *testing.T, f *fixture)
	}{
		"requests far apart": {newAPI(t).mux(), func(t *testing.T, f *fixture) {
			c := f.send(t, "")
			for range 3 {
				get(t, c, "/hello/you")
				f.waitIdle(t)
				f.clock.Advance(40 * time.Second)
			}
		}},
		"an answer before the body came": {early, func(t *testing.T, f *fixture) {
			c := f.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
			f.later(t)
			_, err := io.WriteString(c, strings.Repeat("x", 9000))
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 6))
			require.NoError(t, err)
			f.waitIdle(t)
			f.clock.Advance(2 * time.Minute)
		}},
		"what no handler sees": {newAPI(t).mux(), func(t *testing.T, f *fixture) {
			c := f.send(t, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
			_, err := io.ReadFull(c, make([]byte, 12))
			require.NoError(t, err)
			f.clock.Advance(2 * time.Minute)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.handler).start(t)
			reports := f.reports(t)
			tt.client(t, f)
			require.Empty(t, reports())
		})
	}
}

func TestTLSConnectionsThatLieIdleAreNotReported(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		for _, tickets := range []bool{true, false} {
			t.Run(proto, func(t *testing.T) {
				f := newFixture(t, newAPI(t).mux())
				server, config := tcptest.TLSConfigs(t)
				server.SessionTicketsDisabled = !tickets
				f.server.TLSConfig = server
				f.start(t)
				reports := f.reports(t)
				config.NextProtos = []string{proto}
				ahead, err := tls.Dial("tcp", f.addr, config) // and sends nothing for now
				require.NoError(t, err)
				t.Cleanup(func() { ahead.Close() })
				f.later(t)
				f.clock.Advance(2 * time.Minute)
				if proto == "http/1.1" {
					get(t, ahead, "/hello/you")
					f.waitIdle(t)
					f.clock.Advance(2 * time.Minute)
				}
				require.Empty(t, reports())
			})
		}
	}
}

func TestClientsThatConnectAheadAreInventory(t *testing.T) {
	f := newFixture(t, newAPI(t).mux()).start(t)
	for range 6 { // as a browser does
		f.send(t, "")
	}
	tcptest.WaitUntil(t, "the connections", func() bool { return f.tracker.Stats().Open == 6 })
	f.clock.Advance(2 * time.Minute)
	got := f.finding(t)
	require.Equal(t, tcpstate.KindAcceptPeerSilent, got.Kind)
	require.Equal(t, tcpstate.Inventory, got.Severity)
}

func TestARouteDeclaresWhatIsNormal(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t, httpserver.WithExpect(func(r *http.Request) tcpstate.Expect {
		if r.Method == http.MethodPost {
			return tcpstate.Expect{HalfClose: true}
		}
		panic("no idea")
	}))
	reports := f.reports(t)
	client := f.send(t, post)
	<-api.entered
	client.Close()
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings())
	close(api.release)
	f.waitGone(t)
	code, _ := get(t, f.send(t, ""), "/hello/you")
	require.Equal(t, 200, code)
	require.Empty(t, reports())
}

func TestAShutdownIsNotReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux())
	f.config.DrainGrace = time.Minute
	f.start(t)
	reports := f.reports(t)
	client := f.send(t, post)
	<-api.entered
	done := make(chan error)
	go func() { done <- f.server.Shutdown(t.Context()) }()
	tcptest.WaitUntil(t, "the listener to be closed", func() bool {
		c, err := net.Dial("tcp", f.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	client.Close()
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(50 * time.Second)
	close(api.release)
	require.NoError(t, <-done)
	require.Empty(t, reports())
}
