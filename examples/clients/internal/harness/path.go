package harness

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// Path is the way to a server: a relay on a port of its own that passes bytes
// and ends on, and does damage when told to. It is closed when the test ends.
type Path struct {
	target string
	ln     *net.TCPListener

	mu      sync.Mutex    // guards following fields
	links   []*Link       // not ended
	stalled chan struct{} // not nil: bytes wait until it is closed
	made    int
	refused int
	plain   int    // see TLSAfter
	ends    []bool // see Ends
	wg      sync.WaitGroup
}

// Link is one connection of a client over a Path.
type Link struct {
	p              *Path
	client, server *net.TCPConn
	sent           records // by the client
	left           bool    // it was the client who ended it
	heal           func()
}

// NewPath returns a path to target, "host:port".
func NewPath(t testing.TB, target string) *Path {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	p := &Path{target: target, ln: ln}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.Flow()
		p.Reset()
		p.wg.Wait()
	})
	return p
}

// Addr returns the address that the client dials.
func (p *Path) Addr() string { return p.ln.Addr().String() }

// Port returns its port.
func (p *Path) Port() int { return p.ln.Addr().(*net.TCPAddr).Port }

// Made returns how many connections were ever made over the path.
func (p *Path) Made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// Refused returns how often the path has ended a connection at once, because
// its server was away.
func (p *Path) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Links returns the connections that are open, oldest first.
func (p *Path) Links() []*Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*Link(nil), p.links...)
}

// FIN closes all connections, as a server does that ends idle ones or is
// restarted: the client gets a FIN, and an RST if it writes later.
func (p *Path) FIN() {
	for _, l := range p.Links() {
		l.FIN()
	}
}

// Reset ends all connections by RST at both ends.
func (p *Path) Reset() {
	for _, l := range p.Links() {
		l.Reset()
	}
}

// Deafen makes all connections lose what the client sends, as a path that died:
// nothing is acknowledged, nothing comes. Heal ends it, for those there are.
func (p *Path) Deafen(t testing.TB) {
	t.Helper()
	for _, l := range p.Links() {
		l.Deafen(t)
	}
}

// Heal ends Deafen. Of connections that the client has closed meanwhile it waits
// for the end, which the client's kernel sends once more when it sees fit.
func (p *Path) Heal(t testing.TB) {
	t.Helper()
	links := p.Links()
	for _, l := range links {
		l.Heal()
	}
	for _, l := range links {
		if fd, open := l.socket(t); open {
			unix.Close(fd)
			continue
		}
		WaitUntil(t, "the end of a connection", func() bool { return !slices.Contains(p.Links(), l) })
	}
}

// Stall lets no byte through in either direction, on these connections and new
// ones, until Flow: the client's kernel gets its acknowledgements, as from a
// server that hangs.
func (p *Path) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Flow ends Stall.
func (p *Path) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// Client returns the client's address of the connection.
func (l *Link) Client() net.Addr { return l.client.RemoteAddr() }

// FIN closes this connection, see Path.FIN.
func (l *Link) FIN() {
	l.client.Close()
	l.server.Close()
}

// Reset ends this connection, see Path.Reset.
func (l *Link) Reset() {
	for _, c := range []*net.TCPConn{l.client, l.server} {
		_ = c.SetLinger(0) // closed by its peer already: nothing to reset
		c.Close()
	}
}

// Deafen makes this connection lose what the client sends, see Path.Deafen.
func (l *Link) Deafen(t testing.TB) {
	t.Helper()
	l.heal = tcptest.Deafen(t, l.client)
}

// Heal ends Deafen.
func (l *Link) Heal() {
	if l.heal != nil {
		l.heal()
	}
}

func (p *Path) accept() {
	for {
		client, err := p.ln.AcceptTCP()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			p.mu.Lock()
			p.refused++
			p.mu.Unlock()
			continue
		}
		p.mu.Lock()
		l := &Link{p: p, client: client, server: server.(*net.TCPConn), sent: records{plain: p.plain}}
		p.links = append(p.links, l)
		p.made++
		p.mu.Unlock()
		p.wg.Go(l.relay)
	}
}

// relay passes bytes until both directions have ended. An end by RST is passed
// on as one.
func (l *Link) relay() {
	var wg sync.WaitGroup
	wg.Go(func() { l.pass(l.server, l.client) })
	wg.Go(func() { l.pass(l.client, l.server) })
	wg.Wait()
	l.client.Close()
	l.server.Close()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if announced := l.sent.last == alert; l.sent.data && (l.left || announced) {
		l.p.ends = append(l.p.ends, announced)
	}
	for i, other := range l.p.links {
		if other == l {
			l.p.links = append(l.p.links[:i:i], l.p.links[i+1:]...)
			break
		}
	}
}

func (l *Link) pass(dst, src *net.TCPConn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if src == l.client {
			l.sent.add(buf[:n])
			l.left = err != nil && !errors.Is(err, net.ErrClosed)
		}
		l.p.mu.Lock()
		stalled := l.p.stalled
		l.p.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				src.CloseRead()
				return
			}
		}
		switch {
		case err == nil:
		case err == io.EOF:
			dst.CloseWrite()
			return
		case errors.Is(err, net.ErrClosed): // by FIN or Reset
			return
		default:
			l.Reset()
			return
		}
	}
}
