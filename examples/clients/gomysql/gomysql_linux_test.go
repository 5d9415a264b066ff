package gomysql

import (
	"context"
	"database/sql"
	"net"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server with a client's way to it.
type setup struct {
	t    *testing.T
	srv  *harness.Server
	path *harness.Path
	rig  *harness.Rig
	tls  bool
	cert *harness.Certs
}

// both runs f over plain TCP and over TLS.
func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	certs := harness.NewCerts(t)
	for name, overTLS := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &setup{t: t, srv: harness.MariaDB(t, certs), rig: harness.New(t), tls: overTLS, cert: certs}
			s.path = harness.NewPath(t, s.srv.Addr())
			f(t, s)
		})
	}
}

func (s *setup) config() *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.Logger = "root", "tcp", s.path.Addr(), &mysql.NopLogger{}
	if s.tls {
		cfg.TLS = s.cert.Client.Clone()
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
		s.rig.WaitState(t, "orders", tcpstate.CloseWait, 1)
		s.rig.Advance(time.Minute)
		found := s.rig.Tracker.Findings()
		require.Len(t, found, 1)
		require.Equal(t, tcpstate.KindCloseWaitIdleInPool, found[0].Kind)

		_, err := db.ExecContext(t.Context(), "do 1") // a driver without the check fails: it cannot know whether this ran
		require.NoError(t, err)
		require.Equal(t, 2, s.path.Made())
		s.rig.Silent(t)
		require.Empty(t, s.rig.Tracker.Counted(), "nothing was asked over the dead connection, the goodbye of the driver does not count")
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheDialerAndTheDriver(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		options := func(nd *net.Dialer, noWrap bool) (net.Conn, harness.SocketOptions) {
			d := dialer.Dialer{Tracker: s.rig.Tracker, Name: "orders", NetDialer: nd, NoWrap: noWrap}
			cfg := s.config()
			var tap harness.Tap
			cfg.DialFunc = tap.Dial(d.DialContext)
			c, err := mysql.NewConnector(cfg)
			require.NoError(t, err)
			db := sql.OpenDB(c)
			defer db.Close()
			require.NoError(t, db.PingContext(t.Context()))
			return tap.Conns()[0], harness.Options(t, tap.Conns()[0])
		}
		own := &net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 42 * time.Second, Interval: 7 * time.Second, Count: 5},
			Control:         harness.UserTimeout(33 * time.Second),
		}
		want := harness.SocketOptions{KeepAlive: 1, Idle: 42, Interval: 7, Count: 5, UserTimeout: 33000, NoDelay: 1}
		c, got := options(own, false)
		require.IsType(t, (*tcpstate.Conn)(nil), c)
		require.Equal(t, want, got)
		c, got = options(own, true)
		require.IsType(t, (*net.TCPConn)(nil), c)
		require.Equal(t, want, got)

		// What the driver does for a *net.TCPConn alone shows where the dialer
		// does not do it.
		off := &net.Dialer{KeepAlive: -1}
		_, got = options(off, false)
		require.Zero(t, got.KeepAlive)
		_, got = options(off, true)
		require.Equal(t, 1, got.KeepAlive)
		s.rig.Silent(t)
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
