package harness

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := removeTemplates(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestEveryServerStartsAndRestarts(t *testing.T) {
	certs := NewCerts(t)
	for name, start := range map[string]func(testing.TB) *Server{
		"redis":         func(t testing.TB) *Server { return Redis(t, nil) },
		"redis tls":     func(t testing.TB) *Server { return Redis(t, certs) },
		"postgres":      func(t testing.TB) *Server { return Postgres(t, nil) },
		"postgres tls":  func(t testing.TB) *Server { return Postgres(t, certs) },
		"mariadb":       func(t testing.TB) *Server { return MariaDB(t, certs) },
		"nginx":         func(t testing.TB) *Server { return Nginx(t, nil, "location / { return 200 hello; }") },
		"nginx tls":     func(t testing.TB) *Server { return Nginx(t, certs, "location / { return 200 hello; }") },
		"mosquitto":     func(t testing.TB) *Server { return Mosquitto(t, nil) },
		"mosquitto tls": func(t testing.TB) *Server { return Mosquitto(t, certs) },
		"rabbitmq":      func(t testing.TB) *Server { return RabbitMQ(t, nil) },
		"rabbitmq tls":  func(t testing.TB) *Server { return RabbitMQ(t, certs) },
		"ssh":           func(t testing.TB) *Server { return SSH(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.Restart(t)
			s.Kill(t)
			require.Error(t, accepts(s.Addr()))
		})
	}
}

func TestAPortIsTheServersUntilTheTestEnds(t *testing.T) {
	var port int
	t.Run("reserved", func(t *testing.T) {
		port = FreePort(t)
		require.False(t, reserve(t, port))
		require.Error(t, accepts(addr(port)))
		for range 2 {
			ln, err := net.Listen("tcp", addr(port))
			require.NoError(t, err)
			require.NoError(t, accepts(addr(port)))
			require.False(t, reserve(t, port))
			require.NoError(t, ln.Close())
		}
		require.False(t, reserve(t, port))
	})
	require.True(t, reserve(t, port))
}

func addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func TestAPathPassesBytesAndEndsOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go Accept(ln, func(c net.Conn) { _, _ = io.Copy(c, c) })
	dial := func(p *Path) *net.TCPConn {
		c, err := net.Dial("tcp", p.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		_, err = io.WriteString(c, "x")
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err)
		return c.(*net.TCPConn)
	}

	t.Run("half close", func(t *testing.T) {
		p := NewPath(t, ln.Addr().String())
		c := dial(p)
		_, err := io.WriteString(c, "hello")
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello", string(answer))
		WaitUntil(t, "the link to end", func() bool { return len(p.Links()) == 0 })
	})
	t.Run("FIN", func(t *testing.T) {
		p := NewPath(t, ln.Addr().String())
		c := dial(p)
		p.FIN()
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	t.Run("reset", func(t *testing.T) {
		p := NewPath(t, ln.Addr().String())
		c := dial(p)
		p.Reset()
		_, err := c.Read(make([]byte, 1))
		require.ErrorContains(t, err, "reset")
	})
	t.Run("stall and flow", func(t *testing.T) {
		p := NewPath(t, ln.Addr().String())
		c := dial(p)
		p.Stall()
		got := make(chan error, 1)
		_, err := io.WriteString(c, "x")
		require.NoError(t, err)
		go func() {
			_, err := io.ReadFull(c, make([]byte, 1))
			got <- err
		}()
		select {
		case err := <-got:
			t.Fatal("passed on: ", err)
		default:
		}
		p.Flow()
		require.NoError(t, <-got)
	})
}
