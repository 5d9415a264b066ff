package paho

import (
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server with a client's way to it.
type setup struct {
	t     *testing.T
	srv   *harness.Server
	path  *harness.Path
	rig   *harness.Rig
	certs *harness.Certs // nil: plain
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, srv: harness.Mosquitto(t, certs), rig: harness.New(t), certs: certs}
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

// options are those of a client that comes back at once.
func (s *setup) options() *mqtt.ClientOptions {
	scheme := "tcp"
	if s.certs != nil {
		scheme = "ssl"
	}
	opts := mqtt.NewClientOptions().AddBroker(scheme + "://" + s.path.Addr()).
		SetMaxReconnectInterval(10 * time.Millisecond)
	if s.certs != nil {
		opts.SetTLSConfig(s.certs.Client)
	}
	Watch(s.rig.Dialer("sensors"), opts)
	return opts
}

// connect returns a client that is disconnected when the test ends.
func (s *setup) connect(opts *mqtt.ClientOptions) mqtt.Client {
	c := mqtt.NewClient(opts)
	done(s.t, c.Connect())
	s.t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func done(t *testing.T, token mqtt.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(30*time.Second))
	require.NoError(t, token.Error())
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		got, subscribed := make(chan mqtt.Message, 100), make(chan mqtt.Token, 10)
		opts := s.options()
		opts.SetOnConnectHandler(func(c mqtt.Client) {
			subscribed <- c.Subscribe("temperature", 1, func(_ mqtt.Client, m mqtt.Message) { got <- m })
		})
		c := s.connect(opts)
		// As of version 1.5.1 paho has a data race when a message to be acknowledged
		// is published while it comes back: it sends again what it is sending.
		use := func(qos byte) {
			done(t, <-subscribed)
			for range 100 {
				done(t, c.Publish("temperature", qos, false, make([]byte, 1000)))
			}
			for range 100 {
				<-got
			}
		}

		use(1)
		s.rig.Rest(t, time.Minute)
		s.srv.Restart(t)
		use(0)
		s.rig.Rest(t, time.Minute)
		s.path.Reset()
		use(0)
		s.rig.Silent(t)
		c.Disconnect(1000)
		s.rig.WaitGone(t, "sensors")
		s.rig.Silent(t)
	})
}

// The documentation of paho says that handlers must not block: messages come in
// order, so that nothing is read until the handler returns.
func TestAHandlerThatBlocksIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		publisher := s.connect(s.options())
		opts := s.options()
		Watch(s.rig.Dialer("blocked"), opts)
		stuck := make(chan struct{})
		t.Cleanup(func() { close(stuck) })
		done(t, s.connect(opts).Subscribe("temperature", 0, func(mqtt.Client, mqtt.Message) { <-stuck }))
		s.rig.Advance(10 * time.Second) // what comes earlier may be left of a handshake
		harness.WaitUntil(t, "a message that is not read", func() bool {
			done(t, publisher.Publish("temperature", 0, false, make([]byte, 10_000)))
			s.rig.Advance(10 * time.Second) // time to read it
			return s.rig.Conns("blocked")[0].RecvQueue > 0
		})
		s.rig.Finds(t, tcpstate.KindLocalNotReading, "blocked", "", "")
	})
}

// With a long KeepAlive nobody notices for as long that messages go nowhere.
func TestAPublisherWhoseBrokerVanishedIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(10)
		c := s.connect(s.options().SetKeepAlive(time.Hour))
		s.path.Deafen(t)
		done(t, c.Publish("temperature", 0, false, "lost"))
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "sensors", "", "")
		require.True(t, c.IsConnectionOpen())
		s.path.Heal(t)
	})
}

// A broker that hangs acknowledges. It is heard once in each KeepAlive, which
// the dialer may declare; paho gives it up PingTimeout later.
func TestABrokerThatHangsIsFoundByTheDeclaredKeepAlive(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(20)
		opts := s.options().SetKeepAlive(time.Second).SetPingTimeout(time.Hour)
		d := s.rig.Dialer("sensors")
		d.Expect.Heartbeat = 100 * time.Second // five real ones
		Watch(d, opts)
		s.connect(opts)
		s.rig.Silent(t)
		s.path.Stall()
		s.rig.Finds(t, tcpstate.KindPeerSilent, "sensors", "", "")
		s.path.Flow()
	})
}

func TestTheClientsPingsReplaceADeadConnection(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		lost := make(chan error, 1)
		opts := s.options().SetKeepAlive(time.Second).SetPingTimeout(time.Second)
		opts.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
			select {
			case lost <- err:
			default: // once more, on a slow machine
			}
		})
		c := s.connect(opts)
		s.path.Deafen(t)
		require.ErrorContains(t, <-lost, "pingresp not received")
		s.path.Heal(t)
		harness.WaitUntil(t, "another connection", c.IsConnectionOpen)
		done(t, c.Publish("temperature", 0, false, "alive"))
		require.Greater(t, s.path.Made(), 1)
		c.Disconnect(1000)
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheClientsDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		own, want := harness.NetDialer()
		s.connect(s.options().SetDialer(own))
		require.Len(t, s.rig.Conns("sensors"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
	})
}

func TestTheTimeoutsHold(t *testing.T) {
	rig := harness.New(t)
	for what, tc := range map[string]struct{ broker, want string }{
		"no answer":    {"tcp://" + tcptest.DeadListener(t), "i/o timeout"},
		"no handshake": {"ssl://" + tcptest.Listen(t).Addr().String(), "deadline exceeded"},
		"no greeting":  {"tcp://" + tcptest.Listen(t).Addr().String(), "i/o timeout"},
	} {
		opts := mqtt.NewClientOptions().AddBroker(tc.broker).SetConnectTimeout(50 * time.Millisecond).
			SetDialer(&net.Dialer{Timeout: 50 * time.Millisecond})
		Watch(rig.Dialer("sensors"), opts)
		token := mqtt.NewClient(opts).Connect()
		require.True(t, token.WaitTimeout(30*time.Second), what)
		require.ErrorContains(t, token.Error(), tc.want, what)
	}
	rig.Silent(t)
}

func TestWhatCannotBeWatchedIsRefused(t *testing.T) {
	opts := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("ws://%s", tcptest.DeadListener(t)))
	Watch(harness.New(t).Dialer("sensors"), opts)
	token := mqtt.NewClient(opts).Connect()
	require.True(t, token.WaitTimeout(30*time.Second))
	require.ErrorContains(t, token.Error(), "unknown network ws")
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	s.connect(s.options()).Disconnect(1000)
	s.path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opts := s.options()
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return opts.CustomOpenConnectionFn(&url.URL{Scheme: opts.Servers[0].Scheme, Host: addr}, *opts)
		})
	})
}
