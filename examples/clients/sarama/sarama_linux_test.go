package sarama

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/proxy"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/examples/clients/internal/kafka"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a broker with a client's way to it.
type setup struct {
	t      *testing.T
	broker *kafka.Broker
	rig    *harness.Rig
	certs  *harness.Certs // nil: plain
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	return &setup{t: t, broker: kafka.New(t, certs), rig: harness.New(t), certs: certs}
}

// config is that of a client without tcpstate.
func (s *setup) config() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Producer.Return.Successes = true
	cfg.Metadata.Retry.Backoff, cfg.Producer.Retry.Backoff = 10*time.Millisecond, 10*time.Millisecond
	cfg.Metadata.Retry.Max, cfg.Producer.Retry.Max = 500, 500
	cfg.Consumer.Retry.Backoff = 10 * time.Millisecond
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	if s.certs != nil {
		cfg.Net.TLS.Enable, cfg.Net.TLS.Config = true, s.certs.Client
	}
	return cfg
}

// watched is that of a client with it.
func (s *setup) watched() *sarama.Config {
	cfg := s.config()
	Watch(s.rig.Dialer("broker"), s.rig.Tracker, cfg)
	return cfg
}

// client returns a client that is closed when the test ends.
func (s *setup) client(cfg *sarama.Config) sarama.Client {
	c, err := sarama.NewClient([]string{s.broker.Path.Addr()}, cfg)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// producer returns a producer that is closed when the test ends.
func (s *setup) producer(c sarama.Client) sarama.SyncProducer {
	p, err := sarama.NewSyncProducerFromClient(c)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { p.Close() })
	return p
}

func message() *sarama.ProducerMessage {
	return &sarama.ProducerMessage{Topic: kafka.Topic, Value: sarama.ByteEncoder(make([]byte, 1000))}
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		sending, reading := s.client(s.watched()), s.client(s.watched())
		producer, err := sarama.NewSyncProducerFromClient(sending)
		require.NoError(t, err)
		consumer, err := sarama.NewConsumerFromClient(reading)
		require.NoError(t, err)
		messages, err := consumer.ConsumePartition(kafka.Topic, 0, sarama.OffsetOldest)
		require.NoError(t, err)
		use := func() {
			for range 100 {
				_, _, err := producer.SendMessage(message())
				require.NoError(t, err)
			}
			for range 100 {
				<-messages.Messages()
			}
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.broker.Restart()
		use()
		s.rig.Advance(time.Minute) // the connection to the seed broker lies dead
		s.broker.Path.Reset()
		use()
		s.rig.Advance(2 * time.Minute)
		require.NoError(t, messages.Close())
		require.NoError(t, consumer.Close())
		require.NoError(t, producer.Close())
		require.NoError(t, reading.Close())
		require.NoError(t, sending.Close())
		s.rig.WaitGone(t, "broker")
		s.rig.Silent(t)
	})
}

func TestAClientForEachMessageIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			cfg := s.config()
			Watch(s.rig.Dialer("broker"), s.rig.Tracker, cfg) // leak: client
			_, _, err := s.producer(s.client(cfg)).SendMessage(message())
			require.NoError(t, err)
		}
		s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "broker", "pool", "client")
	})
}

func TestClientsThatAreUsedAreNoneForEachMessage(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			p := s.producer(s.client(s.watched()))
			for range 2 {
				_, _, err := p.SendMessage(message())
				require.NoError(t, err)
			}
		}
		s.rig.Silent(t)
	})
}

// The client takes 30 seconds to give up a request, its read timeout.
func TestAProducerWhoseBrokerVanishedIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(10)
		p := s.producer(s.client(s.watched()))
		_, _, err := p.SendMessage(message())
		require.NoError(t, err)
		s.broker.Path.Deafen(t)
		sent := make(chan error, 1)
		go func() {
			_, _, err := p.SendMessage(message())
			sent <- err
		}()
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "broker", "", "")
		s.broker.Path.Heal(t)
		require.NoError(t, <-sent)
	})
}

// A broker that hangs acknowledges: it is found if the dialer declares how long
// an answer may take. Of a consumer, which asks again as soon as it is answered,
// the kernel does not tell which was last.
func TestABrokerThatHangsIsFoundWithinADeclaredSilence(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(20)
		d := s.rig.Dialer("broker")
		d.Expect.Silence = time.Minute // three real seconds
		cfg := s.config()
		Watch(d, s.rig.Tracker, cfg)
		p := s.producer(s.client(cfg))
		_, _, err := p.SendMessage(message())
		require.NoError(t, err)
		s.rig.Silent(t)
		resume := s.broker.Hang()
		sent := make(chan error, 1)
		go func() {
			_, _, err := p.SendMessage(message())
			sent <- err
		}()
		s.rig.Finds(t, tcpstate.KindPeerNoResponse, "broker", "", "")
		resume()
		require.NoError(t, <-sent)
	})
}

// sarama closes connections that were reset while nobody used them, which it
// finds by their socket errors when it updates its metadata. It does not when it
// cannot see the *net.TCPConn.
func TestAConnectionThatWasResetIsClosedBeforeItIsUsed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for name, tc := range map[string]struct {
			dialer  proxy.Dialer
			noticed bool
		}{
			"sarama alone":                {new(net.Dialer), true},
			"with tcpstate":               {s.watched().Net.Proxy.Dialer, true},
			"with the connection wrapped": {s.rig.Dialer("wrapped"), false},
		} {
			tap := &tapped{Dialer: tc.dialer}
			cfg := s.config()
			cfg.Net.Proxy.Enable, cfg.Net.Proxy.Dialer = true, tap
			c := s.client(cfg) // has asked the seed broker for metadata
			leader, err := c.Leader(kafka.Topic, 0)
			require.NoError(t, err)
			connected, err := leader.Connected()
			require.NoError(t, err)
			require.True(t, connected)
			s.broker.Path.Links()[0].Reset()
			harness.WaitUntil(t, "the reset", func() bool { return len(s.broker.Path.Links()) == 1 })

			closed := func() bool { return errors.Is(tap.first.SetDeadline(time.Time{}), net.ErrClosed) }
			for range 2 {
				require.NoError(t, c.RefreshMetadata()) // asks the leader
			}
			if tc.noticed {
				harness.WaitUntil(t, "the connection to be closed, "+name, closed)
			} else {
				require.False(t, closed())
			}
			require.NoError(t, c.Close())
			harness.WaitUntil(t, "the end", func() bool { return len(s.broker.Path.Links()) == 0 })
		}
		harness.Kept(t)
	})
}

func TestTheReadTimeoutEndsADeadConnection(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg := s.watched()
		cfg.Net.ReadTimeout = 100 * time.Millisecond
		p := s.producer(s.client(cfg))
		_, _, err := p.SendMessage(message())
		require.NoError(t, err)
		s.broker.Path.Deafen(t)
		_, _, err = p.SendMessage(message())
		require.NoError(t, err)
		s.broker.Path.Heal(t)
		s.rig.Silent(t)
	})
}

func TestTheSocketHasTheOptionsThatSaramaSets(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		bare, ours := s.config(), s.config()
		bare.Net.KeepAlive, ours.Net.KeepAlive = 42*time.Second, 42*time.Second
		Watch(s.rig.Dialer("broker"), s.rig.Tracker, ours)
		var options []harness.SocketOptions
		for _, cfg := range []*sarama.Config{bare, ours} {
			c := s.client(cfg)
			options = append(options, s.broker.Path.Links()[0].Options(t))
			require.NoError(t, c.Close())
			harness.WaitUntil(t, "the end", func() bool { return len(s.broker.Path.Links()) == 0 })
		}
		require.Equal(t, 42, options[0].Idle)
		require.Equal(t, options[0], options[1])
	})
}

func TestTheSocketHasTheOptionsOfTheClientsDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("broker")
		own, want := harness.NetDialer()
		d.NetDialer = own
		cfg := s.config()
		Watch(d, s.rig.Tracker, cfg)
		s.client(cfg)
		require.Equal(t, want, s.broker.Path.Links()[0].Options(t))
	})
}

// tapped is a dialer that keeps its first connection.
type tapped struct {
	proxy.Dialer
	first net.Conn
}

// Dial implements proxy.Dialer.
func (d *tapped) Dial(network, addr string) (net.Conn, error) {
	c, err := d.Dialer.Dial(network, addr)
	if d.first == nil {
		d.first = c
	}
	return c, err
}

func TestTheTimeoutsHold(t *testing.T) {
	rig := harness.New(t)
	for what, addr := range map[string]string{"no answer": tcptest.DeadListener(t), "silence": tcptest.Listen(t).Addr().String()} {
		cfg := sarama.NewConfig()
		cfg.Net.DialTimeout, cfg.Net.ReadTimeout = 50*time.Millisecond, 50*time.Millisecond
		cfg.Metadata.Retry.Max = 0
		Watch(rig.Dialer("broker"), rig.Tracker, cfg)
		_, err := sarama.NewClient([]string{addr}, cfg)
		require.ErrorIs(t, err, sarama.ErrOutOfBrokers, what)
		require.ErrorContains(t, err, "i/o timeout", what)
	}
	rig.Silent(t)
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	c := s.client(s.watched())
	_, _, err := s.producer(c).SendMessage(message())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	s.broker.Path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		dial := s.watched().Net.Proxy.Dialer.Dial
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return dial("tcp", addr) })
	})
}
