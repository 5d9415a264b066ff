package goredis

import (
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
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
	t.Parallel()
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, srv: harness.Redis(t, certs), rig: harness.New(t), certs: certs}
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

// options are those of the test's clients: no retry hides what happens.
func (s *setup) options() *redis.Options {
	opt := &redis.Options{Addr: s.path.Addr(), MaxRetries: -1, DisableIdentity: true}
	if s.certs != nil {
		opt.TLSConfig = s.certs.Client
	}
	return opt
}

// client returns a client that is closed when the test ends.
func (s *setup) client() *redis.Client {
	client := New(s.rig.Dialer("cache"), s.options())
	s.t.Cleanup(func() { client.Close() })
	return client
}

// seen returns the recipe that sees the reads of the client.
func (s *setup) seen() func(d *dialer.Dialer, opt *redis.Options) *redis.Client {
	if s.certs != nil {
		return NewTLS
	}
	return New
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) { s.program(New) })
}

func TestAProgramWithoutALeakIsSilentAcrossARestartWhereItsReadsAreSeen(t *testing.T) {
	both(t, func(t *testing.T, s *setup) { s.program(s.seen()) })
}

// program is one without a leak, whose server is restarted and killed.
func (s *setup) program(recipe func(*dialer.Dialer, *redis.Options) *redis.Client) {
	t := s.t
	opt := s.options()
	opt.MaxRetries = 3
	client := recipe(s.rig.Dialer("cache"), opt)
	sub := client.Subscribe(t.Context(), "news")
	news := sub.Channel()
	use := func() {
		require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
		_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			p.Get(t.Context(), "k")
			p.Incr(t.Context(), "n")
			return nil
		})
		require.NoError(t, err)
		conn := client.Conn()
		require.NoError(t, conn.Ping(t.Context()).Err())
		require.NoError(t, conn.Close())
		harness.WaitUntil(t, "the subscription", func() bool {
			return client.Publish(t.Context(), "news", "x").Val() == 1
		})
		<-news
	}

	use()
	s.rig.Rest(t, time.Minute)
	s.srv.Restart(t)
	use()
	s.rig.Rest(t, time.Minute)
	s.srv.Kill(t)
	s.srv.Start(t)
	use()
	s.rig.Silent(t)
	require.NoError(t, sub.Close())
	require.NoError(t, client.Close())
	s.rig.WaitGone(t, "cache")
	s.rig.Silent(t)
}

// A connection that the server has closed is inventory while it lies in the
// pool, and go-redis replaces it before it is used. Over TLS go-redis does not
// look, with tcpstate or without.
func TestADeadIdleConnectionIsNoticedBeforeItIsUsed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		client := s.client()
		require.NoError(t, client.Ping(t.Context()).Err())
		s.path.FIN()
		s.rig.WaitInventory(t, "cache", 1)

		bare := redis.NewClient(s.options())
		defer bare.Close()
		require.NoError(t, bare.Ping(t.Context()).Err())
		s.path.FIN()
		harness.WaitUntil(t, "the FIN", func() bool { return len(s.path.Links()) == 0 })
		bareErr := bare.Ping(t.Context()).Err()

		err := client.Ping(t.Context()).Err()
		require.Equal(t, bareErr == nil, err == nil, "%v, without tcpstate %v", err, bareErr)
		require.Equal(t, bare.PoolStats().StaleConns, client.PoolStats().StaleConns)
		if s.certs == nil {
			require.NoError(t, err)
			require.EqualValues(t, 1, client.PoolStats().StaleConns)
			harness.Kept(t)
		}
		require.NoError(t, client.Ping(t.Context()).Err())
		s.rig.Silent(t)
		if s.certs == nil {
			require.Empty(t, s.rig.Tracker.Counted(), "nothing was asked over the dead connection")
		}
	})
}

func TestTheSocketHasTheOptionsThatGoRedisSets(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		bare, ours := redis.NewClient(s.options()), s.client()
		defer bare.Close()
		require.NoError(t, bare.Ping(t.Context()).Err())
		require.NoError(t, ours.Ping(t.Context()).Err())
		want := s.path.Links()[0].Options(t)
		require.Equal(t, 1, want.KeepAlive)
		require.Equal(t, want, s.path.Links()[1].Options(t))
	})
}

func TestTheClientsOwnTimeoutsHold(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		client := s.client()
		require.NoError(t, client.Ping(t.Context()).Err())
		s.path.Stall()
		err := client.WithTimeout(50 * time.Millisecond).Ping(t.Context()).Err()
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		s.path.Flow()
		s.rig.WaitGone(t, "cache") // go-redis closes it

		for _, recipe := range []func(*dialer.Dialer, *redis.Options) *redis.Client{New, s.seen()} {
			opt := s.options()
			opt.Addr = tcptest.DeadListener(t)
			opt.DialTimeout = 50 * time.Millisecond
			opt.DialerRetries = 1
			lost := recipe(s.rig.Dialer("cache"), opt)
			require.ErrorAs(t, lost.Ping(t.Context()).Err(), &timeout)
			require.True(t, timeout.Timeout())
			require.NoError(t, lost.Close())
		}
		s.rig.Silent(t)
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	t.Parallel()
	for _, recipe := range []func(*dialer.Dialer, *redis.Options) *redis.Client{New, NewTLS} {
		s := newSetup(t, harness.NewCerts(t).TLS12())
		client := recipe(s.rig.Dialer("cache"), s.options())
		require.NoError(t, client.Ping(t.Context()).Err())
		require.NoError(t, client.Close())
		s.path.Announced(t)
		s.rig.Silent(t)
	}
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for _, recipe := range []func(*dialer.Dialer, *redis.Options) *redis.Client{New, s.seen()} {
			client := recipe(s.rig.Dialer("cache"), s.options())
			defer client.Close()
			harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
				return client.Options().Dialer(t.Context(), "tcp", addr)
			})
		}
	})
}
