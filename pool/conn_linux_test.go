package pool_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
)

// closing is a loan whose Close closes, as the peers in nettest expect.
type closing struct{ pool.Conn }

func (c closing) Close() error { return c.Discard() }

func TestALentConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		s := startServer(t, func(net.Conn) {})
		p := newPool(t, new(pool.Pool))
		c := get(t, p, s.addr())
		end := s.end(t, c)
		return closing{c}, end, func() { c.Close(); end.Close() }, nil
	})
}

// A loan costs nothing that has to be collected.
func TestGetAndCloseOfAnIdleConnDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	c := get(t, p, addr)
	say(t, c, "hello")
	require.NoError(t, c.Close())
	require.NoError(t, get(t, p, addr).Close()) // the call site is known from here on
	ctx := t.Context()
	borrow := func() {
		c, err := p.Get(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	borrow()
	require.Zero(t, testing.AllocsPerRun(10_000, borrow))

	b := make([]byte, 5)
	exchange := func() {
		c, err := p.Get(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		io.ReadFull(readerOf{&c}, b)
		c.Close()
	}
	exchange()
	// The word that is read comes from another goroutine, which may allocate.
	require.Less(t, testing.AllocsPerRun(1000, exchange), 2.0)
}

// readerOf is a loan as an io.Reader, without the allocation that it takes to
// put a Conn into an interface.
type readerOf struct{ c *pool.Conn }

func (r readerOf) Read(b []byte) (int, error) { return r.c.Read(b) }

func TestCopiesWorkBothWays(t *testing.T) {
	const text = "what is copied"
	for name, x := range map[string]struct {
		kept bool // the source, the destination always is
		copy func(dst, src pool.Conn) (int64, error)
	}{
		"the whole": {false, func(dst, src pool.Conn) (int64, error) { return io.Copy(dst, src) }},
		"a part":    {true, func(dst, src pool.Conn) (int64, error) { return io.CopyN(dst, src, int64(len(text))) }},
		"more than is": {false, func(dst, src pool.Conn) (int64, error) {
			return dst.ReadFrom(&io.LimitedReader{R: src, N: 1000})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			from := startServer(t, func(c net.Conn) {
				io.WriteString(c, text)
				if !x.kept {
					c.Close()
				} else {
					io.Copy(io.Discard, c)
				}
			})
			to := startServer(t, func(net.Conn) {})
			p := newPool(t, new(pool.Pool))
			dst, src := get(t, p, to.addr()), get(t, p, from.addr())
			n, err := x.copy(dst, src)
			require.NoError(t, err)
			require.EqualValues(t, len(text), n)
			b := make([]byte, len(text))
			_, err = io.ReadFull(to.end(t, dst), b)
			require.NoError(t, err)
			require.Equal(t, text, string(b))
			require.NoError(t, src.Close())
			require.NoError(t, dst.Close())
			want := 1
			if x.kept {
				want = 2
			}
			require.Equal(t, want, p.Stats().Idle)
		})
	}
}

func TestAConnThatWasReadToItsEndIsNotKept(t *testing.T) {
	s := startServer(t, func(c net.Conn) {
		io.WriteString(c, "all")
		c.Close()
	})
	p := newPool(t, new(pool.Pool))
	c := get(t, p, s.addr())
	var b bytes.Buffer
	_, err := c.WriteTo(&b)
	require.NoError(t, err)
	require.Equal(t, "all", b.String())
	require.NoError(t, c.Close())
	require.Zero(t, p.Stats().Idle)
	_, err = c.ReadFrom(strings.NewReader("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAPoolOfUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
			go echo(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for c := range accepted {
			c.Close()
		}
		os.Remove(path)
	})
	p := newPool(t, new(pool.Pool))
	for range 2 {
		c, err := p.Get(t.Context(), "unix", path)
		require.NoError(t, err)
		say(t, c, "hello")
		require.ErrorContains(t, c.SetNoDelay(true), "unsupported")
		require.Nil(t, c.Watch())
		require.NoError(t, c.Close())
	}
	require.EqualValues(t, 1, p.Stats().Hits)
	(<-accepted).Close()
	tcptest.WaitUntil(t, "Get to notice", func() bool {
		c, err := p.Get(t.Context(), "unix", path)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		return p.Stats().Discarded.PeerClosed == 1
	})
}
