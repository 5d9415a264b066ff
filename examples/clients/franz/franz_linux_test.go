package franz

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tcpstate/tcpstate-go/dialer"
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

// client returns a client of d that is closed when the test ends.
func (s *setup) client(d *dialer.Dialer, opts ...kgo.Opt) *kgo.Client {
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(s.broker.Path.Addr()), kgo.DefaultProduceTopic(kafka.Topic), kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }),
		kgo.MetadataMinAge(10 * time.Millisecond),
	}, opts...)
	var config *tls.Config
	if s.certs != nil {
		config = s.certs.Client
	}
	c, err := New(d, s.rig.Tracker, config, opts...)
	require.NoError(s.t, err)
	s.t.Cleanup(c.Close)
	return c
}

func message() *kgo.Record { return &kgo.Record{Value: make([]byte, 1000)} }

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("broker")
		producer := s.client(d, kgo.ConnIdleTimeout(time.Second))
		consumer := s.client(d, kgo.ConsumeTopics(kafka.Topic), kgo.ConsumerGroup("readers"),
			kgo.ConnIdleTimeout(time.Second))
		use := func() {
			for range 100 {
				require.NoError(t, producer.ProduceSync(t.Context(), message()).FirstErr())
			}
			for n := 0; n < 100; {
				n += consumer.PollFetches(t.Context()).NumRecords()
			}
			require.NoError(t, consumer.CommitUncommittedOffsets(t.Context()))
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.broker.Restart()
		use()
		s.rig.Rest(t, time.Minute)
		s.broker.Path.Reset()
		use()
		s.rig.Silent(t)
		consumer.Close()
		producer.Close()
		s.rig.WaitGone(t, "broker")
		s.rig.Silent(t)
	})
}

func TestAClientForEachMessageIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			c := s.client(s.rig.Dialer("broker")) // leak: client
			require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
		}
		s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "broker", "pool", "client")
	})
}

func TestClientsThatAreUsedAreNoneForEachMessage(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			c := s.client(s.rig.Dialer("broker"))
			for range 2 {
				require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
			}
		}
		s.rig.Silent(t)
	})
}

// The client takes 20 seconds to give up a request, and tries again for ever.
func TestAProducerWhoseBrokerVanishedIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(10)
		c := s.client(s.rig.Dialer("broker"))
		require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
		s.broker.Path.Deafen(t)
		produced := make(chan error, 1)
		c.Produce(t.Context(), message(), func(_ *kgo.Record, err error) { produced <- err })
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "broker", "", "")
		s.broker.Path.Heal(t)
		require.NoError(t, <-produced)
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
		c := s.client(d)
		require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
		s.rig.Silent(t)
		resume := s.broker.Hang()
		produced := make(chan error, 1)
		c.Produce(t.Context(), message(), func(_ *kgo.Record, err error) { produced <- err })
		s.rig.Finds(t, tcpstate.KindPeerNoResponse, "broker", "", "")
		resume()
		require.NoError(t, <-produced)
	})
}

func TestTheClientEndsDeadAndIdleConnections(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("broker")
		c := s.client(d, kgo.RequestTimeoutOverhead(100*time.Millisecond), kgo.ProduceRequestTimeout(100*time.Millisecond),
			kgo.ConnIdleTimeout(100*time.Millisecond))
		require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
		s.broker.Path.Deafen(t)
		require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
		s.broker.Path.Heal(t)
		harness.WaitUntil(t, "idle connections to be closed", func() bool { return len(s.rig.Conns("broker")) == 0 })
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheClientsDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("broker")
		own, want := harness.NetDialer()
		d.NetDialer = own
		require.NoError(t, s.client(d).Ping(t.Context()))
		require.Equal(t, want, s.broker.Path.Links()[0].Options(t))
	})
}

// A client without a broker says so within the dial timeout; one whose broker
// does not shake hands, too.
func TestTheDialTimeoutHolds(t *testing.T) {
	rig := harness.New(t)
	certs := harness.NewCerts(t)
	for what, tc := range map[string]struct {
		addr   string
		config *tls.Config
	}{
		"no answer":    {tcptest.DeadListener(t), nil},
		"no handshake": {tcptest.Listen(t).Addr().String(), certs.Client},
	} {
		d := rig.Dialer("broker")
		d.NetDialer = &net.Dialer{Timeout: 50 * time.Millisecond}
		c, err := New(d, rig.Tracker, tc.config, kgo.SeedBrokers(tc.addr), kgo.RequestRetries(0))
		require.NoError(t, err)
		err = c.Ping(t.Context())
		c.Close()
		require.ErrorContains(t, err, "unable to dial", what)
	}
	rig.Silent(t)
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	c := s.client(s.rig.Dialer("broker"))
	require.NoError(t, c.ProduceSync(t.Context(), message()).FirstErr())
	c.Close()
	s.broker.Path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		dial := s.client(s.rig.Dialer("broker")).OptValue(kgo.Dialer).(func(context.Context, string, string) (net.Conn, error))
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return dial(t.Context(), "tcp", addr) })
	})
}
