package pool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// database is a server that speaks in lines: every command is answered by "ok",
// a query by "row" as often as it asks for, and then "ok". It answers "wait" when
// the test says so.
type database struct {
	addr    string
	answers chan struct{}
	ended   chan struct{} // closed when the test is over

	mu    sync.Mutex // guards following fields
	conns map[net.Conn]struct{}
}

func newServer(t *testing.T, config *tls.Config) *database {
	s := &database{answers: make(chan struct{}), ended: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	ln := tcptest.Listen(t)
	s.addr = ln.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if config != nil {
				c = tls.Server(c, config)
			}
			s.mu.Lock()
			s.conns[c] = struct{}{}
			s.mu.Unlock()
			wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.restart()
		wg.Wait()
	})
	return s
}

// restart closes all connections, not without a word.
func (s *database) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		io.WriteString(c, "shutting down\n")
		c.Close()
	}
	clear(s.conns)
}

func (s *database) serve(c net.Conn) {
	for in := bufio.NewScanner(c); in.Scan(); {
		rows := 0
		switch cmd := in.Text(); {
		case cmd == "wait":
			select {
			case <-s.answers:
			case <-s.ended:
			}
		case strings.HasPrefix(cmd, "rows "):
			fmt.Sscanf(cmd, "rows %d", &rows)
		}
		// One row after the other: a reader does not get all of them at once.
		for i := range rows {
			fmt.Fprintf(c, "row %d\n", i)
		}
		io.WriteString(c, "ok\n")
	}
}

// connector dials the server.
type connector struct {
	dial dialer.Dialer
	addr string
	tls  *tls.Config
}

// open returns a database with this many connections at most.
func (c connector) open(t *testing.T, most int) *sql.DB {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	t.Cleanup(func() { db.Close() })
	return db
}

func (c connector) Driver() driver.Driver { return c }

func (connector) Open(string) (driver.Conn, error) { return nil, errors.New("use the connector") }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	nc, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{nc: nc, in: bufio.NewReaderSize(nc, 16)}, nil
}

func (c connector) connect(ctx context.Context) (net.Conn, error) {
	if c.tls != nil {
		return c.dial.DialTLS(ctx, "tcp", c.addr, c.tls)
	}
	return c.dial.DialContext(ctx, "tcp", c.addr)
}

// conn is a connection of the driver. Like most drivers, it reads on the
// goroutine of its caller, and what an interrupted operation leaves behind is
// not to be used again.
type conn struct {
	nc net.Conn
	in *bufio.Reader
}

func (c *conn) command(cmd string) error {
	if _, err := fmt.Fprintln(c.nc, cmd); err != nil {
		return driver.ErrBadConn
	}
	answer, err := c.in.ReadString('\n')
	if err != nil {
		return driver.ErrBadConn
	}
	if answer != "ok\n" {
		return fmt.Errorf("unexpected answer %q", answer)
	}
	return nil
}

func (c *conn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not supported") }
func (c *conn) Close() error                        { return c.nc.Close() }
func (c *conn) Begin() (driver.Tx, error)           { return tx{c}, c.command("begin") }

func (c *conn) ExecContext(_ context.Context, cmd string, _ []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(0), c.command(cmd)
}

func (c *conn) QueryContext(_ context.Context, cmd string, _ []driver.NamedValue) (driver.Rows, error) {
	if _, err := fmt.Fprintln(c.nc, cmd); err != nil {
		return nil, driver.ErrBadConn
	}
	return &rows{conn: c}, nil
}

type tx struct{ c *conn }

func (t tx) Commit() error   { return t.c.command("commit") }
func (t tx) Rollback() error { return t.c.command("rollback") }

type rows struct {
	conn *conn
	done bool
}

func (*rows) Columns() []string { return []string{"text"} }

func (r *rows) Next(dest []driver.Value) error {
	if r.done {
		return io.EOF
	}
	line, err := r.conn.in.ReadString('\n')
	switch {
	case err != nil:
		return driver.ErrBadConn
	case line == "ok\n":
		r.done = true
		return io.EOF
	}
	dest[0] = strings.TrimSuffix(line, "\n")
	return nil
}

func (r *rows) Close() error {
	for one := make([]driver.Value, 1); ; {
		if err := r.Next(one); err != nil {
			return nil
		}
	}
}

// run executes cmd.
func run(t *testing.T, db interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, cmd string) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), cmd)
	require.NoError(t, err)
}
