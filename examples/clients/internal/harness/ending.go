package harness

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TLSAfter says that clients on new connections speak TLS after their first n
// bytes, in which they ask for it.
func (p *Path) TLSAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plain = n
}

// Ends returns how clients have ended their TLS connections, oldest first: true
// where the last that one sent was an alert, such as close_notify. It is for
// clients with certificates of TLS12. A connection over which a client has sent
// no data is none of them, since its handshake may have been given up; nor is one
// that the server has ended first, unless the client had sent the alert by then.
func (p *Path) Ends() []bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]bool(nil), p.ends...)
}

// Announced waits until all connections have ended, and fails the test unless
// there was one and each was announced, see Ends.
func (p *Path) Announced(t testing.TB) {
	t.Helper()
	WaitUntil(t, "the connections to end", func() bool { return len(p.Ends()) > 0 && len(p.Links()) == 0 })
	require.NotContains(t, p.Ends(), false)
}

// Types of TLS records, see RFC 5246, section 6.2.1.
const (
	alert           = 21
	applicationData = 23
)

// records tells the TLS records of a stream apart.
type records struct {
	plain  int    // bytes before the first
	last   byte   // the type of the last one
	data   bool   // there was application data
	header []byte // of the record that is being read, until complete
	rest   int    // of its content
}

// add takes the next bytes of the stream.
func (r *records) add(b []byte) {
	skip := min(r.plain, len(b))
	r.plain -= skip
	for b = b[skip:]; len(b) > 0; {
		if r.rest > 0 {
			n := min(r.rest, len(b))
			r.rest -= n
			b = b[n:]
			continue
		}
		n := min(5-len(r.header), len(b))
		r.header = append(r.header, b[:n]...)
		b = b[n:]
		if len(r.header) == 5 {
			r.last, r.rest = r.header[0], int(r.header[3])<<8|int(r.header[4])
			r.data = r.data || r.last == applicationData
			r.header = r.header[:0]
		}
	}
}

// ClosesOneWay shows that a client's connection, which dial makes as the client
// does, can be ended in one direction: the server reads the end, and its answer
// still arrives. With certs the server speaks TLS, and so does the client, above
// what dial returns unless dial has done that already.
func ClosesOneWay(t testing.TB, certs *Certs, dial func(addr string) (net.Conn, error)) {
	t.Helper()
	srv := NewProgram(t, func(ln net.Listener) func() {
		if certs != nil {
			ln = tls.NewListener(ln, certs.Server)
		}
		return Serving(func() error { return Accept(ln, answer) }, func() { ln.Close() })
	})
	c, err := dial(srv.Addr())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
	if _, ok := c.(*tls.Conn); certs != nil && !ok {
		config := certs.Client.Clone()
		config.ServerName = "localhost"
		c = tls.Client(c, config)
	}
	_, err = io.WriteString(c, "why?")
	require.NoError(t, err)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "you asked: why?", string(got))
}

// answer answers when it has heard all of the question.
func answer(c net.Conn) {
	if question, err := io.ReadAll(c); err == nil {
		_, _ = io.WriteString(c, "you asked: "+string(question)) // or the client has left
	}
}
