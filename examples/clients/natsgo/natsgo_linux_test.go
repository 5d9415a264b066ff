package natsgo

import (
	"fmt"
	"net"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server with a client's way to it.
type setup struct {
	t     *testing.T
	port  int
	certs *harness.Certs // nil: plain
	srv   *server.Server
	path  *harness.Path
	rig   *harness.Rig
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, port: harness.FreePort(t), certs: certs, rig: harness.New(t)}
	s.start()
	t.Cleanup(func() { s.stop() })
	s.path = harness.NewPath(t, s.srv.Addr().String())
	return s
}

// start starts the server.
func (s *setup) start() {
	opts := &server.Options{Host: "127.0.0.1", Port: s.port, NoLog: true, NoSigs: true}
	if s.certs != nil {
		opts.TLS, opts.TLSConfig = true, s.certs.Server
	}
	srv, err := server.NewServer(opts)
	require.NoError(s.t, err)
	srv.Start()
	require.True(s.t, srv.ReadyForConnections(time.Minute))
	s.srv = srv
}

func (s *setup) stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// options are those of a client that comes back at once.
func (s *setup) options() nats.Options {
	opts := nats.GetDefaultOptions()
	opts.Url = "nats://" + s.path.Addr()
	opts.Timeout = 30 * time.Second
	opts.MaxReconnect = -1
	opts.ReconnectWait, opts.ReconnectJitter, opts.ReconnectJitterTLS = time.Millisecond, 0, 0
	if s.certs != nil {
		opts.Secure, opts.TLSConfig = true, s.certs.Client
	}
	return opts
}

// connect returns a connection that is closed when the test ends.
func (s *setup) connect(opts nats.Options) *nats.Conn {
	Watch(s.rig.Dialer("events"), &opts)
	nc, err := opts.Connect()
	require.NoError(s.t, err)
	s.t.Cleanup(nc.Close)
	return nc
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opts := s.options()
		opts.Url = "nats://" + s.srv.Addr().String() // see the leak of NATS' own
		nc := s.connect(opts)
		sub, err := nc.Subscribe("greet", func(m *nats.Msg) { m.Respond([]byte("hello")) })
		require.NoError(t, err)
		stream, err := nc.SubscribeSync("stream")
		require.NoError(t, err)
		use := func() {
			harness.WaitUntil(t, "an answer", func() bool {
				m, err := nc.Request("greet", nil, time.Second)
				return err == nil && string(m.Data) == "hello"
			})
			for range 100 {
				require.NoError(t, nc.Publish("stream", make([]byte, 1000)))
			}
			require.NoError(t, nc.Flush())
			for range 100 {
				_, err := stream.NextMsg(30 * time.Second)
				require.NoError(t, err)
			}
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.stop()
		s.start()
		use()
		s.rig.Silent(t)
		require.EqualValues(t, 1, nc.Stats().Reconnects)
		require.NoError(t, sub.Unsubscribe())
		require.NoError(t, nc.Drain())
		s.rig.WaitGone(t, "events")
		s.rig.Silent(t)
	})
}

// NATS leaks by itself, as of version 1.55: when it comes back to something that
// accepts and then ends the connection, as a load balancer does whose server is
// away, it makes the next connection without closing this one.
func TestAConnectionThatNATSForgetsWhenAReconnectFailsIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		nc := s.connect(s.options())
		s.stop()
		harness.WaitUntil(t, "failed attempts", func() bool { return s.path.Refused() > 3 })
		s.start()
		harness.WaitUntil(t, "a connection", nc.IsConnected)
		harness.WaitUntil(t, "the garbage collector", func() bool {
			runtime.GC()
			s.rig.Advance(time.Second)
			return len(s.rig.Conns("events")) == 1
		})
		s.rig.Finds(t, tcpstate.KindLeakCollected, "events", "", "")
		require.NoError(t, nc.Flush())
	})
}

// Connections that are made for each message and never closed answer their pings
// and are no finding. The report counts them by line.
func TestAConnectionForEachMessageIsInTheReport(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 20 {
			opts := s.options()
			Watch(s.rig.Dialer("events"), &opts)
			nc, err := opts.Connect() // leak: each
			require.NoError(t, err)
			t.Cleanup(nc.Close)
			require.NoError(t, nc.Publish("orders", []byte("one")))
			require.NoError(t, nc.Flush())
		}
		s.rig.Silent(t)
		var report strings.Builder
		require.NoError(t, s.rig.Tracker.Report(&report))
		require.Regexp(t, `(?m)^ +20 .*`+regexp.QuoteMeta(harness.Line(t, "each")), report.String())
	})
}

// With the pings of NATS two minutes apart, a publisher talks to nobody for
// minutes and is told that all is well.
func TestAPublisherWhoseServerVanishedIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(10)
		nc := s.connect(s.options()) // leak: publisher
		require.NoError(t, nc.Flush())
		s.path.Deafen(t)
		require.NoError(t, nc.Publish("orders", []byte("lost")))
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "events", "dial", "publisher")
		require.True(t, nc.IsConnected())
		s.path.Heal(t)
	})
}

// A server that hangs acknowledges, and its silence is normal until somebody
// says how often it is heard.
func TestAServerThatHangsIsFoundByTheDeclaredPing(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		const pace = 20
		s.rig.Clock.Pace(pace)
		opts := s.options()
		opts.PingInterval, opts.MaxPingsOut = 20*time.Millisecond, 1_000_000
		d := s.rig.Dialer("events")
		d.Expect.Heartbeat = 100 * opts.PingInterval * pace // the test may be slow
		Watch(d, &opts)
		nc, err := opts.Connect() // leak: subscriber
		require.NoError(t, err)
		defer nc.Close()
		_, err = nc.SubscribeSync("orders")
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
		s.rig.Silent(t)
		s.path.Stall()
		s.rig.Finds(t, tcpstate.KindPeerSilent, "events", "dial", "subscriber")
		s.path.Flow()
	})
}

func TestTheClientsPingsReplaceADeadConnection(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opts := s.options()
		opts.PingInterval, opts.MaxPingsOut = 100*time.Millisecond, 2
		lost := make(chan error, 1)
		opts.DisconnectedErrCB = func(_ *nats.Conn, err error) {
			select {
			case lost <- err:
			default: // once more, on a slow machine
			}
		}
		nc := s.connect(opts)
		require.NoError(t, nc.Flush())
		s.path.Deafen(t)
		require.ErrorIs(t, <-lost, nats.ErrStaleConnection)
		s.path.Heal(t)
		harness.WaitUntil(t, "another connection", func() bool { return nc.Flush() == nil })
		require.Greater(t, s.path.Made(), 1)
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheClientsDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opts := s.options()
		own, want := harness.NetDialer()
		opts.Dialer = own
		s.connect(opts)
		require.Len(t, s.rig.Conns("events"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
	})
}

func TestTheConnectTimeoutHolds(t *testing.T) {
	rig := harness.New(t)
	for what, addr := range map[string]string{"no answer": tcptest.DeadListener(t), "no greeting": tcptest.Listen(t).Addr().String()} {
		opts := nats.GetDefaultOptions()
		opts.Url, opts.Timeout = fmt.Sprintf("nats://%s", addr), 50*time.Millisecond
		Watch(rig.Dialer("events"), &opts)
		_, err := opts.Connect()
		var timeout net.Error
		require.ErrorAs(t, err, &timeout, what)
		require.True(t, timeout.Timeout(), what)
	}
	rig.Silent(t)
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	nc := s.connect(s.options())
	require.NoError(t, nc.Flush())
	nc.Close()
	s.path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opts := s.options()
		Watch(s.rig.Dialer("events"), &opts)
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return opts.CustomDialer.Dial("tcp", addr) })
	})
}
