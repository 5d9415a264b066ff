package harness

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAPathTellsWhetherAnEndWasAnnounced(t *testing.T) {
	certs := NewCerts(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", certs.Server)
	require.NoError(t, err)
	defer ln.Close()
	go Accept(ln, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for what, tc := range map[string]struct {
		said int // bytes
		end  func(*tls.Conn) error
		want []bool
	}{
		"announced":     {100_000, (*tls.Conn).Close, []bool{true}},
		"in the middle": {100_000, func(c *tls.Conn) error { return c.NetConn().Close() }, []bool{false}},
		"in the middle, by a reset": {100_000, func(c *tls.Conn) error {
			return errors.Join(c.NetConn().(*net.TCPConn).SetLinger(0), c.NetConn().Close())
		}, []bool{false}},
		"announced, nothing said":  {0, (*tls.Conn).Close, nil},
		"before anything was said": {0, func(c *tls.Conn) error { return c.NetConn().Close() }, nil},
		"announced in its direction": {1, func(c *tls.Conn) error {
			return errors.Join(c.CloseWrite(), c.NetConn().(*net.TCPConn).CloseWrite())
		}, []bool{true}},
	} {
		t.Run(what, func(t *testing.T) {
			p := NewPath(t, ln.Addr().String())
			c, err := tls.Dial("tcp", p.Addr(), certs.TLS12().Client)
			require.NoError(t, err)
			defer c.Close()
			_, err = c.Write(make([]byte, tc.said))
			require.NoError(t, err)
			require.NoError(t, tc.end(c))
			WaitUntil(t, "the end", func() bool { return len(p.Links()) == 0 })
			require.Equal(t, tc.want, p.Ends())
		})
	}
}

func TestRecordsAreToldApartHoweverTheyArrive(t *testing.T) {
	stream := "ask" + "\x16\x03\x01\x00\x02hi" + "\x17\x03\x03\x00\x01x" + "\x15\x03\x03\x00\x02no"
	for size := 1; size <= len(stream); size++ {
		r := records{plain: 3}
		for rest := stream; rest != ""; {
			n := min(size, len(rest))
			r.add([]byte(rest[:n]))
			rest = rest[n:]
		}
		require.True(t, r.data, size)
		require.EqualValues(t, alert, r.last, size)
	}
}

func TestTheOptionsAreThoseOfTheClientsSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p := NewPath(t, ln.Addr().String())
	own, want := NetDialer()
	for i, d := range []*net.Dialer{own, {KeepAlive: -1, Timeout: time.Minute}} {
		c, err := d.DialContext(t.Context(), "tcp", p.Addr())
		require.NoError(t, err)
		defer c.Close()
		WaitUntil(t, "the link", func() bool { return len(p.Links()) == i+1 })
	}
	require.Equal(t, want, p.Links()[0].Options(t))
	got := p.Links()[1].Options(t)
	require.Zero(t, got.KeepAlive)
	require.Zero(t, got.UserTimeout)
}
