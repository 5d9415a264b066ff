package libpq

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/lib/pq"
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
	dsn   string
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
		ssl = "verify-full sslrootcert=" + certs.CAFile
	}
	s.dsn = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres connect_timeout=30 sslmode=%s", s.path.Port(), ssl)
	return s
}

// open returns a database of at most n connections that is closed when the test
// ends.
func (s *setup) open(n int) *sql.DB {
	db, stop, err := Open(s.rig.Dialer("orders"), s.dsn)
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
		rows, err := db.QueryContext(t.Context(), "select generate_series(1, 3)") // leak: rows
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
			for c.PingContext(t.Context()) != nil { // a dead one: the ping is not repeated, and c is closed
				c, err = db.Conn(t.Context())
				require.NoError(t, err)
			}
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			var n int
			require.NoError(t, tx.QueryRowContext(t.Context(), "select count(*) from pg_user where usename = $1", "postgres").Scan(&n))
			require.Positive(t, n)
			rows, err := db.QueryContext(t.Context(), "select usename from pg_user")
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

// lib/pq does not look at an idle connection before it uses it. The first query
// finds out, and database/sql repeats it over a new connection.
func TestAQueryOverADeadIdleConnectionIsRepeated(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		require.NoError(t, db.PingContext(t.Context()))
		s.path.FIN()
		s.rig.WaitInventory(t, "orders", 1)

		c, err := pq.NewConnector(s.dsn)
		require.NoError(t, err)
		bare := sql.OpenDB(c)
		defer bare.Close()
		require.NoError(t, bare.PingContext(t.Context()))
		s.path.FIN()
		harness.WaitUntil(t, "the FIN", func() bool { return len(s.path.Links()) == 0 })
		_, bareErr := bare.ExecContext(t.Context(), "select 1")

		_, err = db.ExecContext(t.Context(), "select 1")
		require.Equal(t, bareErr, err)
		require.NoError(t, err)
		s.rig.Silent(t)
		counted := s.rig.Tracker.Counted()
		require.Len(t, counted, 1)
		require.Equal(t, tcpstate.KindResetReuseAfterFIN, counted[0].Kind)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("orders")
		own, want := harness.NetDialer()
		d.NetDialer = own
		db, stop, err := Open(d, s.dsn)
		require.NoError(t, err)
		defer db.Close()
		defer stop()
		require.NoError(t, db.PingContext(t.Context()))
		require.Equal(t, want, s.path.Links()[0].Options(t))
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	t.Parallel()
	s := newSetup(t, harness.NewCerts(t))
	s.dsn += " ssl_max_protocol_version=TLSv1.2"
	s.path.TLSAfter(8) // SSLRequest
	db := s.open(1)
	require.NoError(t, db.PingContext(t.Context()))
	require.NoError(t, db.Close())
	s.path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return dialing{s.rig.Dialer("orders")}.DialContext(t.Context(), "tcp", addr)
		})
	})
}

func TestTheConnectTimeoutAndTheContextHold(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		db := s.open(1)
		require.NoError(t, db.PingContext(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "select pg_sleep(60)")
		require.Error(t, err) // a cancellation by the server, or that of the context
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
		require.NoError(t, db.PingContext(t.Context()))

		s.path.Stall()
		cfg, err := pq.NewConfig(s.dsn)
		require.NoError(t, err)
		cfg.ConnectTimeout = 50 * time.Millisecond
		c, err := pq.NewConnectorConfig(cfg)
		require.NoError(t, err)
		c.Dialer(dialing{s.rig.Dialer("orders")})
		_, err = c.Connect(t.Context())
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		s.path.Flow()
		s.rig.Silent(t)
	})
}

func TestADialWithATimeoutAndNoContextEnds(t *testing.T) {
	rig := harness.New(t)
	_, err := dialing{rig.Dialer("orders")}.DialTimeout("tcp", tcptest.DeadListener(t), 50*time.Millisecond)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}
