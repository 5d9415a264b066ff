package gomysql

import (
	"context"
	"database/sql"
	"net"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
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
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, srv: harness.MariaDB(t, certs), rig: harness.New(t), certs: certs}
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

func (s *setup) config() *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.Logger = "root", "tcp", s.path.Addr(), &mysql.NopLogger{}
	if s.certs != nil {
		cfg.TLS = s.certs.Client.Clone()
		cfg.TLS.ServerName = "localhost"
	}
	return cfg
}

// open returns a database of at most n connections that is closed when the test
// ends.
func (s *setup) open(n int) *sql.DB {
	db, stop, err := Open(s.rig.Dialer("orders"), s.config())
	require.NoError(s.t, err)
	db.SetMaxOpenConns(n)
	s.t.Cleanup(func() {
		stop()
		require.NoError(s.t, db.Close())
	})
	return db
}

func TestRowsThatAreNotClosedAreFoundWhenTheirConnectionIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		rows, err := db.QueryContext(t.Context(), "select seq from mysql.user join (select 1 as seq union select 2) s") // leak: rows
		require.NoError(t, err)
		t.Cleanup(func() { rows.Close() })
		harness.Miss(t, db)
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "orders", "last use", "rows")
	})
}

func TestATransactionThatIsNotEndedIsFoundWhenItsConnectionIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		tx, err := db.BeginTx(t.Context(), nil) // leak: transaction
		require.NoError(t, err)
		t.Cleanup(func() { tx.Rollback() })
		harness.Miss(t, db)
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "orders", "last use", "transaction")
	})
}

func TestAConnectionThatIsNotClosedIsFoundWhenItIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		c, err := db.Conn(t.Context()) // leak: connection
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		harness.Miss(t, db)
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "orders", "last use", "connection")
	})
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(3)
		db.SetMaxIdleConns(3)
		use := func() {
			c, err := db.Conn(t.Context())
			require.NoError(t, err)
			require.NoError(t, c.PingContext(t.Context()))
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			var n int
			require.NoError(t, tx.QueryRowContext(t.Context(), "select count(*) from mysql.user where user = ?", "root").Scan(&n))
			require.Positive(t, n)
			rows, err := db.QueryContext(t.Context(), "select user from mysql.user")
			require.NoError(t, err)
			require.NoError(t, rows.Close())
			require.NoError(t, tx.Commit())
			require.NoError(t, c.Close())
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.srv.Restart(t)
		s.rig.Advance(time.Minute) // the connections lie dead in the pool
		use()
		s.rig.Rest(t, time.Minute)
		s.srv.Kill(t)
		s.srv.Start(t)
		use()
		s.rig.Silent(t)
		require.NoError(t, db.Close())
		s.rig.WaitGone(t, "orders")
		s.rig.Silent(t)
	})
}

// The driver reads one byte of an idle connection before it is used, below TLS,
// too, and drops it without a try. It does so for any connection that has a
// SyscallConn.
func TestADeadIdleConnectionIsReplacedBeforeItIsUsed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		require.NoError(t, db.PingContext(t.Context()))
		s.path.FIN()
		s.rig.WaitInventory(t, "orders", 1)

		_, err := db.ExecContext(t.Context(), "do 1") // a driver without the check fails: it cannot know whether this ran
		require.NoError(t, err)
		require.Equal(t, 2, s.path.Made())
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheDialerAndTheDriver(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		options := func(nd *net.Dialer, noWrap bool) harness.SocketOptions {
			d := s.rig.Dialer("orders")
			d.NetDialer, d.NoWrap = nd, noWrap
			db, stop, err := Open(d, s.config())
			require.NoError(t, err)
			defer stop()
			defer func() {
				require.NoError(t, db.Close())
				harness.WaitUntil(t, "the end", func() bool { return len(s.path.Links()) == 0 })
			}()
			require.NoError(t, db.PingContext(t.Context()))
			return s.path.Links()[0].Options(t)
		}
		own, want := harness.NetDialer()
		require.Equal(t, want, options(own, false))
		require.Equal(t, want, options(own, true))

		// What the driver does for a *net.TCPConn alone shows where the dialer
		// does not do it.
		off := &net.Dialer{KeepAlive: -1}
		require.Zero(t, options(off, false).KeepAlive)
		require.Equal(t, 1, options(off, true).KeepAlive)
		s.rig.Silent(t)
	})
}

// The driver says goodbye in its own protocol, and then closes the connection
// below TLS: it sends no close_notify, with tcpstate or without.
func TestTheEndOfATLSConnectionIsThatOfTheDriver(t *testing.T) {
	t.Parallel()
	s := newSetup(t, harness.NewCerts(t).TLS12())
	s.path.TLSAfter(4 + 32) // SSLRequest
	c, err := mysql.NewConnector(s.config())
	require.NoError(t, err)
	for i, db := range []*sql.DB{sql.OpenDB(c), s.open(1)} {
		require.NoError(t, db.PingContext(t.Context()))
		require.NoError(t, db.Close())
		harness.WaitUntil(t, "the end", func() bool { return len(s.path.Ends()) == i+1 })
	}
	require.Equal(t, []bool{false, false}, s.path.Ends())
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg := s.config()
		db, stop, err := Open(s.rig.Dialer("orders"), cfg)
		require.NoError(t, err)
		defer db.Close()
		defer stop()
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return cfg.DialFunc(t.Context(), "tcp", addr) })
	})
}

func TestTheDriversTimeoutsAndTheContextHold(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "select sleep(60)")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, db.PingContext(t.Context()))

		cfg := s.config()
		cfg.ReadTimeout = 50 * time.Millisecond
		short, stop, err := Open(s.rig.Dialer("short"), cfg)
		require.NoError(t, err)
		defer short.Close()
		defer stop()
		s.path.Stall()
		require.Error(t, short.PingContext(t.Context())) // in the handshake
		s.path.Flow()
		s.rig.Silent(t)
	})
}
