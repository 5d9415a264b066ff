package listener_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// needSockets skips a test of what only real sockets do.
func needSockets(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "js" {
		t.Skip("the fake network of js/wasm has neither descriptors nor Control hooks")
	}
}

func listen(t *testing.T, c *listener.Config, network, address string) *listener.Listener {
	t.Helper()
	ln, err := c.Listen(t.Context(), network, address)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dialAndAccept returns an accepted connection and its client.
func dialAndAccept(t *testing.T, ln net.Listener) (accepted, client net.Conn) {
	t.Helper()
	client, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	accepted, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return accepted, client
}

func TestAcceptedConnectionsAreTracked(t *testing.T) {
	tr := leaktest.Tracker(t)
	expect := tcpstate.Expect{LongLived: true}
	ln := listen(t, &listener.Config{Tracker: tr, Name: "api", Expect: expect}, "tcp", "127.0.0.1:0")
	conn, client := dialAndAccept(t, ln)
	require.IsType(t, (*tcpstate.Conn)(nil), conn)

	snapshots := slices.Collect(tr.Conns())
	require.Len(t, snapshots, 1)
	s := snapshots[0]
	assert.Equal(t, tcpstate.Server, s.Role)
	assert.Equal(t, "api", s.Name)
	assert.Equal(t, ln.Addr().String(), s.Target)
	assert.Equal(t, client.LocalAddr().String(), s.Remote.String())
	assert.Equal(t, client.RemoteAddr().String(), s.Local.String())
	assert.True(t, s.Wrapped)
	require.NotEmpty(t, s.Site.Frames)
	assert.Contains(t, s.Site.Frames[0].Function, "dialAndAccept", "the line that called Accept")

	// Closing the listener leaves them alone.
	require.NoError(t, ln.Close())
	_, err := client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.NoError(t, err)
	assert.Equal(t, 1, tr.Stats().Open)
	require.NoError(t, conn.Close())
	assert.Zero(t, tr.Stats().Open)
}

func TestTheZeroConfigUsesTheDefaultTracker(t *testing.T) {
	ln, err := listener.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	conn, _ := dialAndAccept(t, ln)
	assert.NotNil(t, tcpstate.Default().Of(conn))
	assert.Nil(t, leaktest.Tracker(t).Of(conn.(*tcpstate.Conn).NetConn()))
}

func TestNoWrapAcceptsTCPConns(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	ln := listen(t, &listener.Config{Tracker: tr, NoWrap: true}, "tcp", "127.0.0.1:0")
	conn, _ := dialAndAccept(t, ln)
	require.IsType(t, (*net.TCPConn)(nil), conn)
	require.NotNil(t, tr.Of(conn))
	assert.False(t, tr.Of(conn).Snapshot().Wrapped)
	assert.Equal(t, tcpstate.Server, tr.Of(conn).Snapshot().Role)
}

// describe is an error as a caller can tell it.
func describe(ln net.Listener, err error) []string {
	if err == nil {
		return nil
	}
	var all []string
	text := err.Error()
	if ln.Addr() != nil {
		text = strings.ReplaceAll(text, ln.Addr().String(), "address")
	}
	all = append(all, text)
	for e := err; e != nil; e = errors.Unwrap(e) {
		if op, ok := e.(*net.OpError); ok {
			all = append(all, op.Op, op.Net)
			continue
		}
		all = append(all, e.Error())
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		all = append(all, "timeout")
	}
	return all
}

type tcpListener interface {
	net.Listener
	syscall.Conn
	File() (*os.File, error)
	SetDeadline(time.Time) error
}

var (
	_ tcpListener = (*net.TCPListener)(nil)
	_ tcpListener = (*listener.Listener)(nil)
)

// TestErrorsAreThoseOfNet compares with a plain listener in each situation.
func TestErrorsAreThoseOfNet(t *testing.T) {
	needSockets(t)
	accept := func(ln tcpListener) error {
		c, err := ln.Accept()
		if c != nil {
			c.Close()
			return errors.New("a connection")
		}
		return err
	}
	for name, f := range map[string]func(ln tcpListener) []error{
		"closed": func(ln tcpListener) []error {
			first := ln.Close()
			_, fileErr := ln.File()
			return []error{first, accept(ln), accept(ln), ln.Close(), ln.SetDeadline(time.Time{}), fileErr}
		},
		"closed while it waits": func(ln tcpListener) []error {
			got := make(chan error)
			go func() { got <- accept(ln) }()
			runtime.Gosched() // if Accept begins too late, the error is the same
			return []error{ln.Close(), <-got}
		},
		"deadline": func(ln tcpListener) []error {
			errs := []error{ln.SetDeadline(time.Now().Add(time.Millisecond)), accept(ln), accept(ln)}
			return append(errs, ln.SetDeadline(time.Time{}), ln.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			plain, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer plain.Close()
			ours := listen(t, &listener.Config{Tracker: leaktest.Tracker(t)}, "tcp", "127.0.0.1:0")
			var want, got [][]string
			for _, err := range f(plain.(*net.TCPListener)) {
				want = append(want, describe(plain, err))
			}
			for _, err := range f(ours) {
				got = append(got, describe(ours, err))
			}
			assert.Equal(t, want, got)
		})
	}
	t.Run("listen", func(t *testing.T) {
		ours := listen(t, &listener.Config{Tracker: leaktest.Tracker(t)}, "tcp", "127.0.0.1:0")
		for _, address := range []string{ours.Addr().String(), "127.0.0.1:70000", "nonsense", "[::1"} {
			var lc net.ListenConfig
			_, want := lc.Listen(t.Context(), "tcp", address)
			none, got := new(listener.Config).Listen(t.Context(), "tcp", address)
			require.Error(t, got, address)
			assert.Nil(t, none)
			assert.Equal(t, want.Error(), got.Error())
			assert.IsType(t, want, got)
		}
	})
}

// fake is a listener that returns what it is told.
type fake struct {
	net.Listener
	conn net.Conn
	err  error
}

func (f fake) Accept() (net.Conn, error) { return f.conn, f.err }
func (f fake) Addr() net.Addr            { return &net.UnixAddr{Name: "fake", Net: "unix"} }
func (f fake) Close() error              { return f.err }

func TestWhatIsNotTCPPassesThrough(t *testing.T) {
	c := listener.Config{Tracker: leaktest.Tracker(t)}
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	broken := errors.New("broken")
	for _, f := range []fake{{conn: pipe}, {conn: pipe, err: broken}, {err: broken}, {}} {
		conn, err := c.Wrap(f).Accept()
		assert.True(t, conn == f.conn)
		assert.True(t, err == f.err)
		assert.True(t, c.Wrap(f).Close() == f.err)
		assert.Equal(t, net.Listener(f), c.Wrap(f).NetListener())
		assert.Equal(t, os.ErrNoDeadline, c.Wrap(f).SetDeadline(time.Time{}))
		_, err = c.Wrap(f).File()
		assert.Equal(t, syscall.EINVAL, err)
		_, err = c.Wrap(f).SyscallConn()
		assert.Equal(t, syscall.EINVAL, err)
	}
	assert.Zero(t, c.Tracker.Stats().Opened)
}

func TestUnixConnectionsPassThrough(t *testing.T) {
	dir, err := os.MkdirTemp("", "listener") // t.TempDir may be too long a path
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for _, noWrap := range []bool{false, true} {
		c := listener.Config{Tracker: leaktest.Tracker(t), NoWrap: noWrap}
		ln, err := c.Listen(t.Context(), "unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Skipf("no unix sockets: %v", err)
		}
		require.NoError(t, ln.SetDeadline(time.Now().Add(tcptest.Deadline)))
		conn, client := dialAndAccept(t, ln)
		assert.IsType(t, (*net.UnixConn)(nil), conn)
		_, err = client.Write([]byte("x"))
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, ln.Close())
		assert.Zero(t, c.Tracker.Stats().Opened)
	}
}

func TestAListenerWithoutOneBelowAcceptsNothing(t *testing.T) {
	ln := new(listener.Config).Wrap(nil)
	for range 2 {
		_, err := ln.Accept()
		assert.Equal(t, syscall.EINVAL, err)
		assert.Equal(t, syscall.EINVAL, ln.Close())
		assert.Equal(t, syscall.EINVAL, ln.SetDeadline(time.Now()))
		_, err = ln.File()
		assert.Equal(t, syscall.EINVAL, err)
		_, err = ln.SyscallConn()
		assert.Equal(t, syscall.EINVAL, err)
		assert.Nil(t, ln.Addr())
		assert.Nil(t, ln.NetListener())
	}
}

func TestWrappingTwiceIsWrappingOnce(t *testing.T) {
	first, second := leaktest.Tracker(t), leaktest.Tracker(t)
	c := listener.Config{Tracker: first, Name: "first"}
	ln := listen(t, &c, "tcp", "127.0.0.1:0")
	again := (&listener.Config{Tracker: second, Name: "second"}).Wrap(ln)
	assert.True(t, ln == again)
	// Changes of the Config come too late.
	c.Tracker, c.Name, c.NoWrap = second, "third", true
	conn, _ := dialAndAccept(t, again)
	require.NotNil(t, first.Of(conn))
	assert.Equal(t, "first", first.Of(conn).Snapshot().Name)
	assert.Zero(t, second.Stats().Opened)
}

func TestListenerIsTheOneBelow(t *testing.T) {
	needSockets(t)
	plain := tcptest.Listen(t)
	ln := (&listener.Config{Tracker: leaktest.Tracker(t)}).Wrap(plain)
	assert.Equal(t, plain.Addr(), ln.Addr())
	assert.True(t, ln.NetListener() == net.Listener(plain))

	f, err := ln.File()
	require.NoError(t, err)
	defer f.Close()
	same, err := net.FileListener(f)
	require.NoError(t, err)
	defer same.Close()
	assert.Equal(t, ln.Addr().String(), same.Addr().String())

	raw, err := ln.SyscallConn()
	require.NoError(t, err)
	called := false
	require.NoError(t, raw.Control(func(uintptr) { called = true }))
	assert.True(t, called)
}

func TestIPv6(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	ln := (&listener.Config{Tracker: tr}).Wrap(tcptest.Listen(t, tcptest.IPv6()))
	conn, client := dialAndAccept(t, ln)
	s := tr.Of(conn).Snapshot()
	assert.Equal(t, client.LocalAddr().String(), s.Remote.String())
	assert.True(t, s.Remote.(*net.TCPAddr).IP.Equal(net.IPv6loopback))
	assert.NotNil(t, tr.Lookup(s.Local, s.Remote))
}

func TestNetConfigDoesTheListening(t *testing.T) {
	controlled := false
	c := listener.Config{Tracker: leaktest.Tracker(t), NetConfig: &net.ListenConfig{
		Control: func(string, string, syscall.RawConn) error { controlled = true; return nil },
	}}
	needSockets(t)
	listen(t, &c, "tcp", "127.0.0.1:0")
	assert.True(t, controlled)
}

func TestTLSAbove(t *testing.T) {
	tr := leaktest.Tracker(t)
	server, client := tcptest.TLSConfigs(t)
	ln := tls.NewListener(listen(t, &listener.Config{Tracker: tr, Name: "tls"}, "tcp", "127.0.0.1:0"), server)
	go func() {
		c, err := tls.Dial("tcp", ln.Addr().String(), client)
		if err == nil {
			io.WriteString(c, "over TLS")
			c.Close()
		}
	}()
	conn, err := ln.Accept()
	require.NoError(t, err)
	require.IsType(t, (*tls.Conn)(nil), conn)
	require.IsType(t, (*tcpstate.Conn)(nil), conn.(*tls.Conn).NetConn())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, "over TLS", string(got))
	assert.Equal(t, "tls", tr.Of(conn).Snapshot().Name)
	require.NoError(t, conn.Close())
	assert.Zero(t, tr.Stats().Open)
}

// Above TLS is the wrong place: the connection below is watched all the same,
// and the *tls.Conn stays what it is, or net/http would not speak HTTP/2.
func TestTLSBelow(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	server, client := tcptest.TLSConfigs(t)
	ln := (&listener.Config{Tracker: tr}).Wrap(tls.NewListener(tcptest.Listen(t), server))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := tls.Dial("tcp", ln.Addr().String(), client); err == nil {
			c.Close()
		}
	}()
	conn, err := ln.Accept()
	require.NoError(t, err)
	require.IsType(t, (*tls.Conn)(nil), conn)
	require.NotNil(t, tr.Of(conn))
	assert.False(t, tr.Of(conn).Snapshot().Wrapped)
	io.Copy(io.Discard, conn)
	conn.Close()
	<-done
}

func TestHTTPServerAbove(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+r.URL.Path)
	})
	get := func(srv *httptest.Server, want string) {
		resp, err := srv.Client().Get(srv.URL + "/hello")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, want, string(body))
	}
	for name, start := range map[string]func(*httptest.Server) (want string){
		"HTTP/1.1": func(s *httptest.Server) string { s.Start(); return "HTTP/1.1 /hello" },
		"HTTPS":    func(s *httptest.Server) string { s.StartTLS(); return "HTTP/1.1 /hello" },
		"HTTP/2": func(s *httptest.Server) string {
			s.EnableHTTP2 = true
			s.StartTLS()
			return "HTTP/2.0 /hello"
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := leaktest.Tracker(t)
			srv := httptest.NewUnstartedServer(hello)
			srv.Listener.Close()
			srv.Listener = listen(t, &listener.Config{Tracker: tr, Name: "http"}, "tcp", "127.0.0.1:0")
			want := start(srv)
			get(srv, want)
			assert.EqualValues(t, 1, tr.Stats().Opened)
			assert.Equal(t, 1, tr.Stats().Open)
			srv.Close()
			tcptest.WaitUntil(t, "the server's connections to be closed", func() bool { return tr.Stats().Open == 0 })
		})
	}
}

// A connection that is hijacked is the Conn, so a proxy splices.
func TestHijackedConnectionIsTheConn(t *testing.T) {
	tr := leaktest.Tracker(t)
	types := make(chan net.Conn, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		assert.NoError(t, err)
		types <- c
	})}
	defer srv.Close()
	ln := listen(t, &listener.Config{Tracker: tr}, "tcp", "127.0.0.1:0")
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	hijacked := <-types
	assert.IsType(t, (*tcpstate.Conn)(nil), hijacked)
	require.NoError(t, hijacked.Close())
	require.NoError(t, srv.Close())
	<-served
}

func TestListenersShowsTheListenerUntilItCloses(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	ln := listen(t, &listener.Config{Tracker: tr, Name: "api"}, "tcp", "127.0.0.1:0")
	all := slices.Collect(tr.Listeners())
	require.Len(t, all, 1)
	assert.Equal(t, "api", all[0].Name)
	require.NoError(t, ln.Close())
	require.Error(t, ln.Close())
	assert.Empty(t, slices.Collect(tr.Listeners()))
}
