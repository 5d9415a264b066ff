package tcpinfo_test

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

const (
	established = 1
	closeWait   = 8
	listen      = 10
)

func pair(t *testing.T, mptcp bool) (client, server *net.TCPConn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(mptcp)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(mptcp)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func control(t *testing.T, c syscall.Conn, f func(fd uintptr)) {
	t.Helper()
	rc, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, rc.Control(f))
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, time.Millisecond, what)
}

func TestGetReturnsTheLengthTheKernelWrote(t *testing.T) {
	client, _ := pair(t, false)
	control(t, client, func(fd uintptr) {
		buf := make([]byte, tcpinfo.MaxSize)
		n, err := tcpinfo.Get(fd, buf)
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 104, "every kernel since 2.6")
		require.Less(t, n, tcpinfo.MaxSize, "MaxSize has become too small")
		require.Equal(t, byte(established), buf[0])
		require.Equal(t, make([]byte, tcpinfo.MaxSize-n), buf[n:], "nothing behind the length is touched")

		n, err = tcpinfo.Get(fd, buf[:10])
		require.NoError(t, err)
		require.Equal(t, 10, n)

		n, err = tcpinfo.Get(fd, nil)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestStateOfConnAndListener(t *testing.T) {
	client, server := pair(t, false)
	state := func(c syscall.Conn) (s uint8) {
		control(t, c, func(fd uintptr) {
			var err error
			s, err = tcpinfo.State(fd)
			require.NoError(t, err)
		})
		return s
	}
	require.Equal(t, uint8(established), state(client))
	require.NoError(t, client.CloseWrite())
	eventually(t, "CLOSE-WAIT", func() bool { return state(server) == closeWait })

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	require.Equal(t, uint8(listen), state(ln.(*net.TCPListener)))
}

func TestQueuesCountUnreadAndUnackedBytes(t *testing.T) {
	client, server := pair(t, false)
	queues := func(c syscall.Conn) (recv, send int) {
		control(t, c, func(fd uintptr) {
			var err error
			recv, send, err = tcpinfo.Queues(fd)
			require.NoError(t, err)
		})
		return recv, send
	}
	_, err := client.Write([]byte("hello"))
	require.NoError(t, err)
	eventually(t, "five bytes wait", func() bool { recv, _ := queues(server); return recv == 5 })
	eventually(t, "and are acknowledged", func() bool { _, send := queues(client); return send == 0 })

	require.NoError(t, client.CloseWrite())
	eventually(t, "FIN", func() (closed bool) {
		control(t, server, func(fd uintptr) {
			s, err := tcpinfo.State(fd)
			closed = err == nil && s == closeWait
		})
		return closed
	})
	recv, _ := queues(server)
	require.Equal(t, 5, recv, "the FIN is not counted")

	_, err = io.ReadFull(server, make([]byte, 5))
	require.NoError(t, err)
	recv, _ = queues(server)
	require.Zero(t, recv)
}

func TestQueuesCountWhatThePeerDoesNotTake(t *testing.T) {
	client, _ := pair(t, false)
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	_, err := client.Write(make([]byte, 64<<20)) // more than both buffers hold
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	control(t, client, func(fd uintptr) {
		_, send, err := tcpinfo.Queues(fd)
		require.NoError(t, err)
		require.Positive(t, send)
	})
}

// The peer's FIN is a byte of the queue on sockets made for Multipath TCP only,
// and not before the bytes in front of it have moved.
func TestQueuesWithTheFIN(t *testing.T) {
	for name, tt := range map[string]struct{ listener, dialer, want bool }{
		"plain":    {false, false, false},
		"fallback": {false, true, true},
		"mptcp":    {true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			var lc net.ListenConfig
			lc.SetMultipathTCP(tt.listener)
			ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			var d net.Dialer
			d.SetMultipathTCP(tt.dialer)
			c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			s, err := ln.Accept()
			require.NoError(t, err)
			_, err = s.Write([]byte("hello"))
			require.NoError(t, err)
			if tt.want {
				// The kernel moves what it was asked for.
				require.Eventually(t, func() bool {
					var recv int
					control(t, c.(*net.TCPConn), func(fd uintptr) { recv, _, _ = tcpinfo.Queues(fd) })
					return recv == 5
				}, 5*time.Second, time.Millisecond)
			}
			require.NoError(t, s.Close())
			want := 5
			if tt.want {
				want = 6
			}
			require.Eventually(t, func() bool {
				var recv int
				control(t, c.(*net.TCPConn), func(fd uintptr) {
					recv, _, _ = tcpinfo.Queues(fd)
					require.Equal(t, tt.want, tcpinfo.MPTCPSocket(fd))
				})
				return recv == want
			}, 5*time.Second, time.Millisecond)
		})
	}
}

func TestQueuesOfAListenerAreInvalid(t *testing.T) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	control(t, ln.(*net.TCPListener), func(fd uintptr) {
		_, _, err := tcpinfo.Queues(fd)
		require.ErrorIs(t, err, unix.EINVAL)
	})
}

func TestNothingAllocates(t *testing.T) {
	client, _ := pair(t, false)
	control(t, client, func(fd uintptr) {
		var buf [tcpinfo.MaxSize]byte
		for name, f := range map[string]func(){
			"Get":    func() { _, _ = tcpinfo.Get(fd, buf[:]) },
			"State":  func() { _, _ = tcpinfo.State(fd) },
			"Queues": func() { _, _, _ = tcpinfo.Queues(fd) },
			"MPTCP":  func() { _ = tcpinfo.MPTCP(fd) },
			"made":   func() { _ = tcpinfo.MPTCPSocket(fd) },
		} {
			require.Zero(t, testing.AllocsPerRun(100, f), name)
		}
	})
}

func TestErrorsOfWhatIsNoSocket(t *testing.T) {
	const noFD = 1<<31 - 1 // the largest int32: never open
	_, err := tcpinfo.Get(noFD, make([]byte, 8))
	require.ErrorIs(t, err, unix.EBADF)
	var sys *os.SyscallError
	require.ErrorAs(t, err, &sys)
	require.Equal(t, "getsockopt", sys.Syscall)
	require.False(t, tcpinfo.NotTCP(noFD, err), "closed is not the same as no TCP")

	_, err = tcpinfo.State(noFD)
	require.ErrorIs(t, err, unix.EBADF)
	_, _, err = tcpinfo.Queues(noFD)
	require.ErrorIs(t, err, unix.EBADF)
	require.False(t, tcpinfo.MPTCP(noFD))
	require.False(t, tcpinfo.MPTCPSocket(noFD))
}

func TestClosedConnIsNotAskedAtAll(t *testing.T) {
	client, _ := pair(t, false)
	rc, err := client.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, client.Close())
	err = rc.Control(func(uintptr) { t.Error("called with a closed fd") })
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestNotTCP(t *testing.T) {
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	control(t, udp.(*net.UDPConn), func(fd uintptr) {
		_, err := tcpinfo.Get(fd, make([]byte, 8))
		require.Error(t, err)
		require.True(t, tcpinfo.NotTCP(fd, err))
	})

	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	control(t, r, func(fd uintptr) {
		_, err := tcpinfo.State(fd)
		require.ErrorIs(t, err, unix.ENOTSOCK)
		require.True(t, tcpinfo.NotTCP(fd, err))
	})

	client, _ := pair(t, false)
	control(t, client, func(fd uintptr) {
		require.False(t, tcpinfo.NotTCP(fd, unix.EOPNOTSUPP), "a failed question on a TCP socket")
	})
}

func TestMPTCPAgreesWithNet(t *testing.T) {
	for _, asked := range []bool{false, true} {
		client, server := pair(t, asked)
		for _, c := range []*net.TCPConn{client, server} {
			want, err := c.MultipathTCP()
			require.NoError(t, err)
			if asked && !want {
				t.Log("this kernel does not speak MPTCP")
			}
			control(t, c, func(fd uintptr) { require.Equal(t, want, tcpinfo.MPTCP(fd)) })
		}
	}
}

// TestMPTCPAfterFallback accepts a plain client on an MPTCP listener and dials
// a plain listener with an MPTCP socket: the second still says MPTCP in
// SO_PROTOCOL.
func TestMPTCPAfterFallback(t *testing.T) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	control(t, c.(*net.TCPConn), func(fd uintptr) {
		require.False(t, tcpinfo.MPTCP(fd))
		require.True(t, tcpinfo.MPTCPSocket(fd))
		s, err := tcpinfo.State(fd)
		require.NoError(t, err)
		require.Equal(t, uint8(established), s)
	})
}

func BenchmarkGet(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	rc, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(b, err)
	var buf [tcpinfo.MaxSize]byte
	f := func(fd uintptr) { _, err = tcpinfo.Get(fd, buf[:]) }
	b.ReportAllocs()
	for b.Loop() {
		if rc.Control(f); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPatienceOf(t *testing.T) {
	client, _ := pair(t, false)
	require.NoError(t, client.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 4}))
	control(t, client, func(fd uintptr) {
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1500))
		p, ok := tcpinfo.PatienceOf(fd)
		require.True(t, ok)
		require.Equal(t, tcpinfo.Patience{
			User: 1500 * time.Millisecond, Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 4, KeepAlive: true,
		}, p)
	})
	_, ok := tcpinfo.PatienceOf(1<<31 - 1)
	require.False(t, ok)
}
