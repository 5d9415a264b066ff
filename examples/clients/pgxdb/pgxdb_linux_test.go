package pgxdb

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
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
	url   string
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, srv: harness.Postgres(t, certs), rig: harness.New(t), certs: certs}
	s.path = harness.NewPath(t, s.srv.Addr())
	ssl := "disable"
	if certs != nil {
		ssl = "verify-full&sslrootcert=" + certs.CAFile
	}
	s.rig.Hide(t, Hide)
	s.url = fmt.Sprintf("postgres://postgres@%s/postgres?connect_timeout=30&sslmode=%s", s.path.Addr(), ssl)
	return s
}

// config returns the configuration of a pool of n connections that asks the
// server before each use.
func (s *setup) config(n int32) *pgxpool.Config {
	cfg, err := pgxpool.ParseConfig(s.url)
	require.NoError(s.t, err)
	cfg.MaxConns = n
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	return cfg
}

// pool returns a pool that is closed when the test ends, after what else is
// cleaned up.
func (s *setup) pool(n int32) *pgxpool.Pool {
	p, err := NewPool(s.t.Context(), s.rig.Dialer("orders"), s.rig.Tracker, s.config(n))
	require.NoError(s.t, err)
	s.t.Cleanup(p.Close)
	return p
}

func TestAConnectionThatIsNotReleasedIsFoundWhenItIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		p := s.pool(1)
		c, err := p.Acquire(t.Context()) // leak: acquire
		require.NoError(t, err)
		t.Cleanup(c.Release)
		require.NoError(t, c.Ping(t.Context()))
		s.miss(p)
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "orders", "use", "acquire")
	})
}

func TestRowsThatAreNotClosedAreFoundWhenTheirConnectionIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		p := s.pool(1)
		rows, err := p.Query(t.Context(), "select generate_series(1, 3)") // leak: rows
		require.NoError(t, err)
		t.Cleanup(rows.Close)
		require.True(t, rows.Next())
		s.miss(p)
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "orders", "use", "rows")
	})
}

// miss lets somebody wait for a connection until the test ends.
func (s *setup) miss(p *pgxpool.Pool) {
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Acquire(ctx)
		ended <- err
	}()
	s.t.Cleanup(func() {
		cancel()
		require.ErrorIs(s.t, <-ended, context.Canceled)
	})
}

func TestATransactionThatIsNotEndedIsFoundWhenTheServerEndsIt(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		tx, err := s.pool(1).Begin(t.Context()) // leak: transaction
		require.NoError(t, err)
		t.Cleanup(func() { tx.Rollback(context.Background()) })
		s.srv.Stop(t)
		s.rig.WaitState(t, "orders", tcpstate.CloseWait, 1)
		s.rig.Finds(t, tcpstate.KindCloseWaitUnreadBody, "orders", "use", "transaction")
	})
}

func TestAPoolForEveryCallIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			p, err := NewPool(t.Context(), s.rig.Dialer("orders"), s.rig.Tracker, s.config(1)) // leak: pool
			require.NoError(t, err)
			t.Cleanup(p.Close)
			require.NoError(t, p.Ping(t.Context()))
		}
		s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "orders", "pool", "pool")
	})
}

func TestASingleConnectionThatIsForgottenIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		func() {
			cfg, err := pgx.ParseConfig(s.url)
			require.NoError(t, err)
			c, err := Connect(t.Context(), s.rig.Dialer("orders"), cfg) // leak: connection
			require.NoError(t, err)
			require.NoError(t, c.Ping(t.Context()))
		}()
		s.rig.WaitCollected(t, "orders")
		s.rig.Finds(t, tcpstate.KindLeakCollected, "orders", "dial", "connection")
	})
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		p := s.pool(3)
		use := func() {
			c, err := p.Acquire(t.Context())
			require.NoError(t, err)
			rows, err := p.Query(t.Context(), "select generate_series(1, 1000)")
			require.NoError(t, err)
			numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
			require.NoError(t, err)
			require.Len(t, numbers, 1000)
			require.NoError(t, pgx.BeginFunc(t.Context(), p, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), "select 1")
				return err
			}))
			c.Release()
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.srv.Restart(t)
		s.rig.Advance(time.Minute) // the connections lie dead in the pool
		use()
		s.rig.Advance(time.Minute)
		s.srv.Kill(t)
		s.srv.Start(t)
		use()
		p.Reset()
		s.rig.Silent(t)
		p.Close()
		s.rig.WaitGone(t, "orders")
		s.rig.Silent(t)
	})
}

func TestADeadIdleConnectionIsReplacedBeforeItIsUsed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		p := s.pool(1)
		require.NoError(t, p.Ping(t.Context()))
		s.path.FIN()
		s.rig.WaitInventory(t, "orders", 1)
		require.NoError(t, p.Ping(t.Context()))
		require.EqualValues(t, 2, p.Stat().NewConnsCount())
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheClientsDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg, err := pgx.ParseConfig(s.url)
		require.NoError(t, err)
		own, want := harness.NetDialer()
		cfg.DialFunc = own.DialContext
		c, err := Connect(t.Context(), s.rig.Dialer("orders"), cfg)
		require.NoError(t, err)
		defer c.Close(context.Background())
		require.Len(t, s.rig.Conns("orders"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	t.Parallel()
	s := newSetup(t, harness.NewCerts(t))
	s.path.TLSAfter(8) // SSLRequest
	cfg := s.config(1)
	cfg.ConnConfig.TLSConfig.MaxVersion = tls.VersionTLS12
	p, err := NewPool(t.Context(), s.rig.Dialer("orders"), s.rig.Tracker, cfg)
	require.NoError(t, err)
	require.NoError(t, p.Ping(t.Context()))
	p.Close()
	s.path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg := s.config(1)
		p, err := NewPool(t.Context(), s.rig.Dialer("orders"), s.rig.Tracker, cfg)
		require.NoError(t, err)
		defer p.Close()
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return cfg.ConnConfig.DialFunc(t.Context(), "tcp", addr)
		})
	})
}

func TestAQueryEndsWithItsContextAndTheConnectTimeoutHolds(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		p := s.pool(1)
		require.NoError(t, p.Ping(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := p.Exec(ctx, "select pg_sleep(60)")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, p.Ping(t.Context())) // over a new connection

		s.path.Stall()
		cfg, err := pgx.ParseConfig(s.url)
		require.NoError(t, err)
		cfg.ConnectTimeout = 50 * time.Millisecond
		_, err = Connect(t.Context(), s.rig.Dialer("orders"), cfg)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		s.path.Flow()
		s.rig.Silent(t)
	})
}
