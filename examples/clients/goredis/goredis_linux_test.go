package goredis

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server with a client's way to it.
type setup struct {
	t    *testing.T
	srv  *harness.Server
	path *harness.Path
	rig  *harness.Rig
	tls  *tls.Config // nil: plain
}

// both runs f over plain TCP and over TLS.
func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	certs := harness.NewCerts(t)
	for name, c := range map[string]*harness.Certs{"plain": nil, "TLS": certs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &setup{t: t, srv: harness.Redis(t, c), rig: harness.New(t)}
			s.path = harness.NewPath(t, s.srv.Addr())
			if c != nil {
				s.tls = c.Client
			}
			f(t, s)
		})
	}
}

// options are those of the test's clients: no retry hides what happens.
func (s *setup) options(t *testing.T) *redis.Options {
	return &redis.Options{Addr: s.path.Addr(), TLSConfig: s.tls, MaxRetries: -1, DisableIdentity: true}
}

// client returns a client that is closed when the test ends.
func (s *setup) client() *redis.Client {
	client := New(s.rig.Dialer("cache"), s.options(s.t))
	s.t.Cleanup(func() { client.Close() })
	return client
}

// seen returns the recipe that sees the reads of the client.
func (s *setup) seen() func(d *dialer.Dialer, opt *redis.Options) *redis.Client {
	if s.tls != nil {
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
	opt := s.options(t)
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
		s.rig.WaitState(t, "cache", tcpstate.CloseWait, 1)
		s.rig.Advance(time.Minute)
		found := s.rig.Tracker.Findings()
		require.Len(t, found, 1)
		require.Equal(t, tcpstate.KindCloseWaitIdleInPool, found[0].Kind)

		bare := redis.NewClient(s.options(t))
		defer bare.Close()
		require.NoError(t, bare.Ping(t.Context()).Err())
		s.path.FIN()
		harness.WaitUntil(t, "the FIN", func() bool { return len(s.path.Links()) == 0 })
		bareErr := bare.Ping(t.Context()).Err()

		err := client.Ping(t.Context()).Err()
		require.Equal(t, bareErr == nil, err == nil, "%v, without tcpstate %v", err, bareErr)
		require.Equal(t, bare.PoolStats().StaleConns, client.PoolStats().StaleConns)
		if s.tls == nil {
			require.NoError(t, err)
			require.EqualValues(t, 1, client.PoolStats().StaleConns)
			harness.Kept(t)
		}
		require.NoError(t, client.Ping(t.Context()).Err())
		s.rig.Silent(t)
		if s.tls == nil {
			require.Empty(t, s.rig.Tracker.Counted(), "nothing was asked over the dead connection")
		}
	})
}

func TestTheSocketHasTheOptionsThatGoRedisSets(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		var bare, ours harness.Tap
		for _, c := range []struct {
			tap  *harness.Tap
			dial func(opt *redis.Options) dialer.DialFunc
		}{
			{&bare, func(opt *redis.Options) dialer.DialFunc { return redis.NewDialer(opt) }},
			{&ours, func(opt *redis.Options) dialer.DialFunc { return s.rig.Dialer("cache").Wrap(redis.NewDialer(opt)) }},
		} {
			opt := s.options(t)
			opt.Dialer = c.tap.Dial(c.dial(opt))
			client := redis.NewClient(opt)
			defer client.Close()
			require.NoError(t, client.Ping(t.Context()).Err())
		}
		want := harness.Options(t, bare.Conns()[0])
		require.Equal(t, 1, want.KeepAlive)
		require.Equal(t, want, harness.Options(t, ours.Conns()[0]))
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
			opt := s.options(t)
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

// The server reads a close_notify before the FIN, as without tcpstate.
func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	certs := harness.NewCerts(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", certs.Server)
	require.NoError(t, err)
	defer ln.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		buf := make([]byte, 1024)
		for {
			if _, err := c.Read(buf); err != nil {
				ended <- err
				return
			}
			if _, err := c.Write([]byte("-ERR unknown command\r\n")); err != nil {
				ended <- err
				return
			}
		}
	}()
	rig := harness.New(t)
	client := New(rig.Dialer("cache"), &redis.Options{
		Addr: ln.Addr().String(), TLSConfig: certs.Client, MaxRetries: -1, DisableIdentity: true, Protocol: 2,
	})
	require.ErrorContains(t, client.Ping(t.Context()).Err(), "unknown command")
	require.NoError(t, client.Close())
	require.EqualError(t, <-ended, "EOF")
}
