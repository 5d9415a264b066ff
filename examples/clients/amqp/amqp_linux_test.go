package amqp

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
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

// dial returns a connection that is closed when the test ends.
func (s *setup) dial(cfg amqp.Config) *amqp.Connection {
	c, err := Dial(s.rig.Dialer("orders"), s.url(), s.config(cfg))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

func (s *setup) url() string {
	if s.certs != nil {
		return "amqps://guest:guest@" + s.path.Addr()
	}
	return "amqp://guest:guest@" + s.path.Addr()
}

func (s *setup) config(cfg amqp.Config) amqp.Config {
	if s.certs != nil {
		cfg.TLSClientConfig = s.certs.Client.Clone()
	}
	return cfg
}

// queue returns a channel with a queue of its own.
func (s *setup) queue(c *amqp.Connection) (*amqp.Channel, string) {
	ch, err := c.Channel()
	require.NoError(s.t, err)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	require.NoError(s.t, err)
	return ch, q.Name
}

// TestRabbitMQ runs its tests, by what they are, against two brokers.
func TestRabbitMQ(t *testing.T) {
	harness.Both(t, func(t *testing.T, certs *harness.Certs) {
		srv := harness.RabbitMQ(t, certs)
		run := func(name string, f func(t *testing.T, s *setup)) {
			t.Run(name, func(t *testing.T) {
				f(t, &setup{t: t, srv: srv, rig: harness.New(t), path: harness.NewPath(t, srv.Addr()), certs: certs})
			})
		}
		run("confirmations that nobody takes are found", confirmationsThatNobodyTakes)
		run("a publisher without heartbeats whose broker vanished is found", publisherWithoutHeartbeats)
		run("a publisher whose broker takes nothing is found", brokerThatTakesNothing)
		run("heartbeats end a dead connection", heartbeatsEndADeadConnection)
		run("the socket has the options of the client's dialer", optionsOfTheClientsDialer)
		run("the end of a TLS connection is announced", endIsAnnounced)
		run("a connection can be closed one way", closedOneWay)
		run("a program without a leak is silent across a restart", silentAcrossARestart)
	})
}

// The documentation asks to take from each channel that is given to a Notify
// method. If nobody does, the goroutine that reads the connection waits.
func confirmationsThatNobodyTakes(t *testing.T, s *setup) {
	c, err := Dial(s.rig.Dialer("orders"), s.url(), s.config(amqp.Config{})) // leak: confirmations
	require.NoError(t, err)
	ch, queue := s.queue(c)
	require.NoError(t, ch.Confirm(false))
	confirmed := ch.NotifyPublish(make(chan amqp.Confirmation))
	s.rig.Advance(10 * time.Second) // what comes earlier may be left of a handshake
	harness.WaitUntil(t, "an answer that is not read", func() bool {
		require.NoError(t, ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{Body: []byte("x")}))
		s.rig.Advance(10 * time.Second) // time to read it
		return s.rig.Conns("orders")[0].RecvQueue > 0
	})
	got := s.rig.Finds(t, tcpstate.KindLocalNotReading, "orders", "dial", "confirmations")
	require.Positive(t, got.Evidence.RecvQueue)
	go func() {
		for range confirmed {
		}
	}()
	require.NoError(t, c.Close())
	s.rig.WaitGone(t, "orders")
}

func publisherWithoutHeartbeats(t *testing.T, s *setup) {
	s.rig.Clock.Pace(10)
	c, err := Dial(s.rig.Dialer("orders"), s.url()+"/?heartbeat=0", s.config(amqp.Config{})) // leak: publisher
	require.NoError(t, err)
	ch, queue := s.queue(c)
	s.path.Deafen(t)
	require.NoError(t, ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{Body: []byte("lost")}))
	s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "orders", "dial", "publisher")
	require.False(t, c.IsClosed())
	s.path.Heal(t)
	require.NoError(t, c.Close())
}

// RabbitMQ reads nothing from publishers while it is short of memory or disk.
func brokerThatTakesNothing(t *testing.T, s *setup) {
	s.rig.Clock.Pace(20)
	c, err := Dial(s.rig.Dialer("orders"), s.url(), s.config(amqp.Config{})) // leak: blocked
	require.NoError(t, err)
	ch, queue := s.queue(c)
	s.path.Stall()
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{Body: make([]byte, 100_000)})
			}
		}
	})
	s.rig.Finds(t, tcpstate.KindPeerNotReading, "orders", "dial", "blocked")
	close(stop)
	s.path.Flow()
	publishing.Wait()
	require.NoError(t, c.Close())
}

// The heartbeat of one second makes a read deadline of one and a half.
func heartbeatsEndADeadConnection(t *testing.T, s *setup) {
	cfg := amqp.Config{Heartbeat: time.Second, Recovery: new(amqp.Recovery)}
	c := s.dial(cfg)
	ch, queue := s.queue(c)
	s.path.Deafen(t)
	made := s.path.Made()
	harness.WaitUntil(t, "another connection", func() bool { return s.path.Made() > made })
	s.path.Heal(t)
	harness.WaitUntil(t, "the recovery", func() bool { return !c.IsClosed() && !ch.IsClosed() })
	harness.WaitUntil(t, "the queue", func() bool {
		return ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{}) == nil
	})
	s.rig.Silent(t)
	harness.Kept(t)
}

func optionsOfTheClientsDialer(t *testing.T, s *setup) {
	own, want := harness.NetDialer()
	c := s.dial(amqp.Config{Dial: own.Dial})
	require.Len(t, s.rig.Conns("orders"), 1)
	require.Equal(t, want, s.path.Links()[0].Options(t))
	require.NoError(t, c.Close())
}

func endIsAnnounced(t *testing.T, s *setup) {
	if s.certs == nil {
		return
	}
	s.certs = s.certs.TLS12()
	require.NoError(t, s.dial(amqp.Config{}).Close())
	s.path.Announced(t)
	s.rig.Silent(t)
}

// Dial hands what it dials to amqp091-go only.
func closedOneWay(t *testing.T, s *setup) {
	dial := s.rig.Dialer("orders").Wrap(func(_ context.Context, network, addr string) (net.Conn, error) {
		return amqp.DefaultDial(time.Minute)(network, addr)
	})
	harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return dial(t.Context(), "tcp", addr) })
}

func silentAcrossARestart(t *testing.T, s *setup) {
	use := func() {
		c := s.dial(amqp.Config{})
		ch, queue := s.queue(c)
		require.NoError(t, ch.Confirm(false))
		messages, err := ch.Consume(queue, "", true, false, false, false, nil)
		require.NoError(t, err)
		for range 100 {
			confirmed, err := ch.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: make([]byte, 1000)})
			require.NoError(t, err)
			require.True(t, confirmed.Wait())
			<-messages
		}
		s.rig.Rest(t, time.Minute)
		require.NoError(t, ch.Close())
		s.rig.Rest(t, time.Minute)
		require.NoError(t, c.Close())
	}
	ended := s.dial(amqp.Config{}).NotifyClose(make(chan *amqp.Error, 1))
	use()
	s.srv.Restart(t)
	require.NotNil(t, <-ended)
	use()
	ended = s.dial(amqp.Config{}).NotifyClose(make(chan *amqp.Error, 1))
	s.path.Reset()
	require.NotNil(t, <-ended)
	use()
	s.rig.WaitGone(t, "orders")
	s.rig.Silent(t)
}

// A server that never answers is given up as without tcpstate: the dial function
// of amqp091-go sets a deadline on the connection that it returns.
func TestTheDeadlineOfTheHandshakeHolds(t *testing.T) {
	rig := harness.New(t)
	for what, addr := range map[string]string{"no answer": tcptest.DeadListener(t), "no greeting": tcptest.Listen(t).Addr().String()} {
		_, err := Dial(rig.Dialer("orders"), "amqp://"+addr, amqp.Config{Dial: amqp.DefaultDial(50 * time.Millisecond)})
		require.ErrorContains(t, err, "i/o timeout", what)
	}
	rig.Silent(t)
}
