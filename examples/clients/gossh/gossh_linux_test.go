package gossh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os/user"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is sshd with a client's way to it.
type setup struct {
	srv    *harness.Server
	path   *harness.Path
	rig    *harness.Rig
	config *ssh.ClientConfig
}

func newSetup(t *testing.T, options ...string) *setup {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	me, err := user.Current()
	require.NoError(t, err)
	s := &setup{
		srv: harness.SSH(t, ssh.MarshalAuthorizedKey(signer.PublicKey()), options...), rig: harness.New(t),
		config: &ssh.ClientConfig{
			User: me.Username, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // made a moment ago by the test
		},
	}
	s.rig.Hide(t, Hide)
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

// dial returns a client that is closed when the test ends.
func (s *setup) dial(t *testing.T) *ssh.Client {
	t.Helper()
	c, err := Dial(t.Context(), s.rig.Dialer("bastion"), s.path.Addr(), s.config)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// run runs a command as one should.
func run(t *testing.T, c *ssh.Client, command string) string {
	t.Helper()
	session, err := c.NewSession()
	require.NoError(t, err)
	defer session.Close()
	out, err := session.Output(command)
	require.NoError(t, err)
	return string(out)
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	s := newSetup(t)
	c := s.dial(t)
	require.Equal(t, "hello\n", run(t, c, "echo hello"))
	s.rig.Silent(t) // a quiet client is a healthy one
	require.Equal(t, "hello\n", run(t, c, "echo hello"))
	s.srv.Restart(t) // a session outlives sshd's listener
	s.path.FIN()
	require.Error(t, c.Wait())
	s.rig.WaitGone(t, "bastion") // the client closes the connection that has ended

	c = s.dial(t)
	require.Equal(t, "hello\n", run(t, c, "echo hello"))
	require.NoError(t, c.Close())
	s.rig.WaitGone(t, "bastion")
	s.rig.Silent(t)
}

// The timeout of the library is for TCP only.
func TestAHandshakeThatTheServerNeverAnswersIsFound(t *testing.T) {
	s := newSetup(t)
	s.config.Timeout = time.Minute
	s.path.Stall()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Dial(ctx, s.rig.Dialer("bastion"), s.path.Addr(), s.config) // leak: handshake
		ended <- err
	}()
	harness.WaitUntil(t, "the connection", func() bool { return len(s.rig.Conns("bastion")) == 1 })
	got := s.rig.Finds(t, tcpstate.KindHandshakeStalled, "bastion", "dial", "handshake")
	require.Contains(t, got.String(), "ssh")
	require.Contains(t, got.Sites[0].Frames[0].Function, t.Name())
	cancel()
	require.Error(t, <-ended)
	s.rig.WaitGone(t, "bastion")
	s.path.Flow()
}

// A forward that ends one direction only: when its user has left, nobody closes
// his connection, as long as the remote end does not leave too.
func TestAForwardedConnectionThatNobodyClosesIsFound(t *testing.T) {
	s := newSetup(t)
	c := s.dial(t)
	remote := quiet(t)
	users, local := s.forwarded(t)
	defer local.Close()
	upstream, err := c.Dial("tcp", remote)
	require.NoError(t, err)
	defer upstream.Close()
	go io.Copy(local, upstream)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(upstream, local) // leak: forward
	}()

	_, err = io.WriteString(users, "hello")
	require.NoError(t, err)
	require.NoError(t, users.Close())
	<-copied
	s.rig.Finds(t, tcpstate.KindCloseWaitEOFSeen, "forward", "eof", "forward")
}

// The same forward that passes on the end of each direction.
func TestAForwardThatPassesEndsOnIsSilent(t *testing.T) {
	s := newSetup(t)
	c := s.dial(t)
	echo := echoServer(t)
	users, local := s.forwarded(t)
	upstream, err := c.Dial("tcp", echo)
	require.NoError(t, err)
	back := make(chan error, 1)
	go func() {
		_, err := io.Copy(local, upstream)
		_ = upstream.Close() // io.EOF when the remote end was first
		back <- errors.Join(err, local.Close())
	}()
	go func() {
		_, _ = io.Copy(upstream, local)
		_ = upstream.(interface{ CloseWrite() error }).CloseWrite()
	}()

	_, err = io.WriteString(users, "hello")
	require.NoError(t, err)
	require.NoError(t, users.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(users)
	require.NoError(t, err)
	require.Equal(t, "hello", string(answer))
	require.NoError(t, <-back)
	require.Equal(t, "hello\n", run(t, c, "echo hello"))
	s.rig.WaitGone(t, "forward")
	s.rig.Silent(t)
}

// forwarded returns both ends of a connection to a forward's listener.
func (s *setup) forwarded(t *testing.T) (users, local net.Conn) {
	t.Helper()
	cfg := listener.Config{Tracker: s.rig.Tracker, Name: "forward"}
	ln, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	users, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { users.Close() })
	local, err = ln.Accept()
	require.NoError(t, err)
	return users, local
}

// quiet returns the address of a server that reads and says nothing until the
// test ends, and echoServer that of one that repeats what it hears when it has
// heard all.
func quiet(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		<-t.Context().Done()
	})
}

func echoServer(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		if said, err := io.ReadAll(c); err == nil {
			_, _ = c.Write(said)
		}
	})
}

func serve(t *testing.T, handle func(net.Conn)) string {
	return harness.NewProgram(t, func(ln net.Listener) func() {
		return harness.Serving(func() error { return harness.Accept(ln, handle) }, func() { ln.Close() })
	}).Addr()
}

// The library has no ping of its own accord: what programs send every so often
// is this request.
func TestAKeepaliveRequestFindsASilentServer(t *testing.T) {
	s := newSetup(t)
	c := s.dial(t)
	_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
	require.NoError(t, err)
	s.path.Stall()
	answered := make(chan error, 1)
	go func() {
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatal("answered: ", err)
	case <-time.After(50 * time.Millisecond): // as long as such a program waits
		require.NoError(t, c.Close())
	}
	require.Error(t, <-answered)
	s.path.Flow()
	s.rig.WaitGone(t, "bastion")
	s.rig.Silent(t)
	harness.Kept(t)
}

// sshd asks as well, and ends those that do not answer: the client answers
// while its program does nothing.
func TestTheServersKeepaliveIsAnswered(t *testing.T) {
	s := newSetup(t, "ClientAliveInterval 1", "ClientAliveCountMax 3")
	c := s.dial(t)
	require.Equal(t, "done\n", run(t, c, "sleep 6; echo done")) // without an answer it ends after four
	s.rig.Silent(t)
}

func TestTheSocketHasTheOptionsOfTheDialer(t *testing.T) {
	s := newSetup(t)
	d := s.rig.Dialer("bastion")
	own, want := harness.NetDialer()
	d.NetDialer = own
	c, err := Dial(t.Context(), d, s.path.Addr(), s.config)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, want, s.path.Links()[0].Options(t))
}

// The library ends one direction of a channel, see the forward above, and never
// one of the connection below. It could.
func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	rig := harness.New(t)
	harness.ClosesOneWay(t, nil, func(addr string) (net.Conn, error) {
		return rig.Dialer("bastion").DialContext(t.Context(), "tcp", addr)
	})
}

func TestTheTimeoutOfTheDialHolds(t *testing.T) {
	s := newSetup(t)
	s.config.Timeout = 50 * time.Millisecond
	var timeout net.Error
	_, err := Dial(t.Context(), s.rig.Dialer("bastion"), tcptest.DeadListener(t), s.config)
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())

	s.rig.Silent(t)
}

// A refused login leaves no connection behind.
func TestARefusedLoginIsClosed(t *testing.T) {
	s := newSetup(t)
	s.config.Auth = []ssh.AuthMethod{ssh.Password("no")}
	_, err := Dial(t.Context(), s.rig.Dialer("bastion"), s.path.Addr(), s.config)
	require.ErrorContains(t, err, "unable to authenticate")
	s.rig.WaitGone(t, "bastion")
	s.rig.Silent(t)
}
