package sockdiag

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func start(t testing.TB) *Conn {
	t.Helper()
	c, err := Open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func tupleOf(local, remote net.Addr) (t Tuple) {
	t.Local = local.(*net.TCPAddr).AddrPort()
	if remote != nil {
		t.Remote = remote.(*net.TCPAddr).AddrPort()
	}
	return t
}

func of(c net.Conn) Tuple { return tupleOf(c.LocalAddr(), c.RemoteAddr()) }

func look(t testing.TB, c *Conn, tuple Tuple) Result {
	t.Helper()
	res, err := c.Lookup(nil, []Tuple{tuple})
	require.NoError(t, err)
	require.Equal(t, tuple, res[0].Tuple)
	return res[0]
}

// await looks until the socket is in a state.
func await(t testing.TB, c *Conn, tuple Tuple, state uint8) (s Socket) {
	t.Helper()
	tcptest.WaitUntil(t, tcptest.StateName(state), func() bool {
		r := look(t, c, tuple)
		s = r.Socket
		return r.Status == Found && s.State == state
	})
	require.Equal(t, bare(tuple.Remote), s.Remote)
	return s
}

func awaitGone(t testing.TB, c *Conn, tuple Tuple) {
	t.Helper()
	tcptest.WaitUntil(t, "the end of the socket", func() bool { return look(t, c, tuple).Status == Gone })
}

// dumped returns all sockets of a query, of which the kernel may show one twice
// when its table changes.
func dumped(t testing.TB, c *Conn, q Query) (ss []Socket) {
	t.Helper()
	q.Timeout = tcptest.Deadline
	seen := make(map[uint64]bool)
	d, err := c.Dump(q, func(s *Socket) bool {
		if !seen[s.Cookie] {
			seen[s.Cookie] = true
			ss = append(ss, *s)
		}
		return true
	})
	require.NoError(t, err)
	require.True(t, d.Complete)
	require.GreaterOrEqual(t, d.Sockets, len(ss))
	return ss
}

func port(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

// Every state, as lookup, dump and /proc/net/tcp see it.
func TestEveryState(t *testing.T) {
	for family, opts := range map[string][]tcptest.Option{"IPv4": nil, "IPv6": {tcptest.IPv6()}} {
		pair := func(t *testing.T) (client, server *net.TCPConn) { return tcptest.Pair(t, opts...) }
		for name, tt := range map[string]struct {
			state uint8
			reach func(t *testing.T) (local, remote net.Addr)
			check func(t *testing.T, s Socket)
		}{
			"ESTABLISHED": {tcptest.Established, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				_, err := s.Write([]byte("hello"))
				require.NoError(t, err)
				conn := start(t)
				tcptest.WaitUntil(t, "the bytes", func() bool { return look(t, conn, of(c)).Socket.RecvQueue == 5 })
				return c.LocalAddr(), c.RemoteAddr()
			}, func(t *testing.T, s Socket) {
				require.NotZero(t, s.Inode)
				require.NotZero(t, s.Cookie)
				require.Equal(t, uint32(os.Getuid()), s.UID)
				require.True(t, s.HasShutdown)
				require.Zero(t, s.Shutdown)
				require.Zero(t, s.Device)
			}},
			"SYN-SENT": {tcptest.SynSent, func(t *testing.T) (_, _ net.Addr) {
				ln := tcptest.Listen(t, opts...)
				tcptest.Deafen(t, ln)
				c := tcptest.Dialing(t, nil, ln.Addr().String())
				tcptest.WaitState(t, c, tcptest.SynSent)
				return tcptest.LocalAddr(t, c), ln.Addr()
			}, func(t *testing.T, s Socket) {
				require.Equal(t, Retransmit, s.Timer)
				require.Positive(t, s.Expires)
				require.NotZero(t, s.Inode)
			}},
			"SYN-RECV": {tcptest.SynReceived, func(t *testing.T) (_, _ net.Addr) {
				ln := tcptest.Listen(t, opts...)
				c := tcptest.Dialing(t, &net.Dialer{Control: tcptest.DeafControl}, ln.Addr().String())
				tcptest.WaitState(t, c, tcptest.SynSent)
				return ln.Addr(), tcptest.LocalAddr(t, c)
			}, func(t *testing.T, s Socket) {
				require.Equal(t, Retransmit, s.Timer)
				require.Zero(t, s.Inode)
				require.False(t, s.HasShutdown)
			}},
			"FIN-WAIT-1": {tcptest.FinWait1, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				tcptest.Deafen(t, s)
				require.NoError(t, c.CloseWrite())
				return c.LocalAddr(), c.RemoteAddr()
			}, func(t *testing.T, s Socket) {
				require.Equal(t, Retransmit, s.Timer)
				require.NotZero(t, s.Inode)
				require.Equal(t, ShutWrite, s.Shutdown)
				require.Equal(t, uint32(1), s.SendQueue, "the FIN")
			}},
			"FIN-WAIT-1 closed": {tcptest.FinWait1, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				tcptest.Deafen(t, s)
				local, remote := c.LocalAddr(), c.RemoteAddr()
				require.NoError(t, c.Close())
				return local, remote
			}, func(t *testing.T, s Socket) {
				require.Zero(t, s.Inode)
				require.Equal(t, ShutRead|ShutWrite, s.Shutdown)
				n, err := Orphans()
				require.NoError(t, err)
				require.Positive(t, n)
			}},
			"FIN-WAIT-1 at a zero window": {tcptest.FinWait1, func(t *testing.T) (_, _ net.Addr) {
				c, _ := tcptest.Pair(t, append([]tcptest.Option{tcptest.SmallBuffers()}, opts...)...)
				tcptest.FillWindow(t, c)
				local, remote := c.LocalAddr(), c.RemoteAddr()
				require.NoError(t, c.Close())
				return local, remote
			}, func(t *testing.T, s Socket) {
				require.Equal(t, ZeroWindow, s.Timer)
				require.Greater(t, s.SendQueue, uint32(1))
				require.Zero(t, s.Inode)
			}},
			"FIN-WAIT-2": {tcptest.FinWait2, func(t *testing.T) (_, _ net.Addr) {
				c, _ := pair(t)
				require.NoError(t, c.CloseWrite())
				return c.LocalAddr(), c.RemoteAddr()
			}, func(t *testing.T, s Socket) {
				require.NotZero(t, s.Inode)
				require.Equal(t, ShutWrite, s.Shutdown)
			}},
			"FIN-WAIT-2 closed": {tcptest.FinWait2, func(t *testing.T) (_, _ net.Addr) {
				c, _ := pair(t)
				local, remote := c.LocalAddr(), c.RemoteAddr()
				require.NoError(t, c.Close())
				return local, remote
			}, func(t *testing.T, s Socket) {
				require.Zero(t, s.Inode)
				require.Positive(t, s.Expires)
				require.Contains(t, []Timer{TimeWaitTimer, Keepalive}, s.Timer, "it depends on tcp_fin_timeout")
			}},
			"CLOSE-WAIT": {tcptest.CloseWait, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				require.NoError(t, s.CloseWrite())
				return c.LocalAddr(), c.RemoteAddr()
			}, func(t *testing.T, s Socket) {
				require.Equal(t, ShutRead, s.Shutdown)
				require.Equal(t, uint32(1), s.RecvQueue, "the FIN")
			}},
			"LAST-ACK": {tcptest.LastAck, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				require.NoError(t, s.CloseWrite())
				tcptest.WaitState(t, c, tcptest.CloseWait)
				tcptest.Deafen(t, s)
				local, remote := c.LocalAddr(), c.RemoteAddr()
				require.NoError(t, c.Close())
				return local, remote
			}, func(t *testing.T, s Socket) {
				require.Equal(t, Retransmit, s.Timer)
				require.Zero(t, s.Inode)
			}},
			"CLOSING": {tcptest.Closing, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				heal := tcptest.Deafen(t, c)
				tcptest.Deafen(t, s)
				require.NoError(t, errors.Join(c.CloseWrite(), s.CloseWrite()))
				heal()
				return c.LocalAddr(), c.RemoteAddr()
			}, func(t *testing.T, s Socket) {
				require.Equal(t, ShutRead|ShutWrite, s.Shutdown)
			}},
			"TIME-WAIT": {tcptest.TimeWait, func(t *testing.T) (_, _ net.Addr) {
				c, s := pair(t)
				local, remote := c.LocalAddr(), c.RemoteAddr()
				require.NoError(t, c.Close())
				_, err := s.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, s.Close())
				return local, remote
			}, func(t *testing.T, s Socket) {
				require.Equal(t, TimeWaitTimer, s.Timer)
				require.Positive(t, s.Expires)
				require.Zero(t, s.Inode)
				require.False(t, s.HasShutdown)
			}},
			"LISTEN": {tcptest.Listening, func(t *testing.T) (_, _ net.Addr) {
				return tcptest.Listen(t, opts...).Addr(), nil
			}, func(t *testing.T, s Socket) {
				require.Zero(t, s.RecvQueue)
				require.Positive(t, s.SendQueue, "the limit of the accept queue")
				require.NotZero(t, s.Inode)
			}},
		} {
			t.Run(family+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := start(t)
				local, remote := tt.reach(t)
				tuple := tupleOf(local, remote)
				var s Socket
				if remote == nil {
					r := look(t, c, tuple)
					require.Equal(t, Found, r.Status)
					s = r.Socket
				} else {
					s = await(t, c, tuple, tt.state)
				}
				require.Equal(t, tt.state, s.State)
				require.Equal(t, tuple.Local, s.Local)
				tt.check(t, s)
				require.Equal(t, tt.state, tcptest.TableState(t, local, remote))

				q := Query{States: 1 << tt.state, LocalPort: tuple.Local.Port(), RemotePort: tuple.Remote.Port()}
				for _, q.Family = range []Family{Both, map[string]Family{"IPv4": IPv4, "IPv6": IPv6}[family]} {
					var got []Socket
					for _, d := range dumped(t, c, q) {
						if d.Local == s.Local && (remote == nil || d.Remote == s.Remote) {
							got = append(got, d)
						}
					}
					require.Len(t, got, 1)
					require.Equal(t, tt.state, got[0].State)
					require.Equal(t, []any{s.Cookie, s.Inode, s.UID}, []any{got[0].Cookie, got[0].Inode, got[0].UID})
					tt.check(t, got[0])
				}
			})
		}
	}
}

func TestGoneIsNotFound(t *testing.T) {
	c := start(t)
	client, server := tcptest.Pair(t)
	a, b := of(client), of(server)
	first := await(t, c, a, tcptest.Established)
	await(t, c, b, tcptest.Established)

	heal := tcptest.Deafen(t, server)
	require.NoError(t, client.Close())
	s := await(t, c, a, tcptest.FinWait1)
	require.Equal(t, first.Cookie, s.Cookie)
	heal()
	s = await(t, c, a, tcptest.FinWait2)
	require.Equal(t, first.Cookie, s.Cookie, "also when the kernel has replaced the socket by an entry")
	tcptest.Reset(t, server)
	awaitGone(t, c, a)
	awaitGone(t, c, b)
}

// A server's connection that is gone must not be taken for the listener on the
// same port, which is what the kernel finds instead.
func TestGoneBesideItsListener(t *testing.T) {
	for name, address := range map[string]string{"own address": "127.0.0.1:0", "any address": "[::]:0"} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			ln := listenOn(t, address)
			client := dial(t, ln, nil)
			server, err := ln.Accept()
			require.NoError(t, err)
			tuple := of(server)
			s := await(t, c, tuple, tcptest.Established)
			require.Equal(t, uint32(tcptest.InodeOf(t, server.(*net.TCPConn))), s.Inode)

			tcptest.Reset(t, server.(*net.TCPConn))
			awaitGone(t, c, tuple)
			awaitGone(t, c, of(client))
			require.Equal(t, Found, look(t, c, tupleOf(ln.Addr(), nil)).Status)
			require.NoError(t, ln.Close())
			require.Equal(t, Gone, look(t, c, tupleOf(ln.Addr(), nil)).Status)
			require.Zero(t, c.Stats().Stray)
		})
	}
}

func listenOn(t testing.TB, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dial connects by IPv4.
func dial(t testing.TB, ln net.Listener, control func(string, string, syscall.RawConn) error) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: tcptest.Deadline, Control: control}
	c, err := d.DialContext(t.Context(), "tcp4", (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port(ln.Addr()))}).String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.(*net.TCPConn).SetLinger(0); c.Close() })
	return c.(*net.TCPConn)
}

// An IPv6 socket with an IPv4 peer is found by its IPv4 addresses, written
// either way, and is IPv6 in a dump.
func TestAnIPv4PeerOfAnIPv6Socket(t *testing.T) {
	c := start(t)
	ln := listenOn(t, "[::]:0")
	client := dial(t, ln, nil)
	server, err := ln.Accept()
	require.NoError(t, err)
	defer server.Close()

	plain := Tuple{Local: bare(of(server).Local), Remote: bare(of(server).Remote)}
	require.True(t, plain.Local.Addr().Is4())
	mapped := Tuple{Local: map4(plain.Local), Remote: map4(plain.Remote)}
	a, b := look(t, c, plain), look(t, c, mapped)
	require.Equal(t, Found, a.Status)
	require.Equal(t, Found, b.Status)
	require.Equal(t, a.Socket.Cookie, b.Socket.Cookie)
	require.Equal(t, plain.Local, b.Socket.Local)

	q := Query{LocalPort: plain.Local.Port(), RemotePort: port(client.LocalAddr()), Family: IPv6}
	ss := dumped(t, c, q)
	require.Len(t, ss, 1)
	require.Equal(t, a.Socket.Cookie, ss[0].Cookie)
	require.Equal(t, plain.Remote, ss[0].Remote)
	q.Family = IPv4
	require.Empty(t, dumped(t, c, q))
	q.Family = Both
	require.Len(t, dumped(t, c, q), 1)
}

// The kernel lists them for any ports.
func TestSocketsThatAreOnlyBoundAreLeftOut(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := unix.Getsockname(fd)
	require.NoError(t, err)
	port := uint16(bound.(*unix.SockaddrInet4).Port)

	c := start(t)
	for name, q := range map[string]Query{
		"all":           {},
		"one state":     {States: 1 << tcptest.Closed},
		"its own port":  {LocalPort: port},
		"another port":  {LocalPort: port - 1},
		"all but one":   {States: ^uint32(1 << tcptest.Listening)},
		"one remote":    {RemotePort: 1},
		"IPv4 and IPv6": {Family: Both},
	} {
		for _, s := range dumped(t, c, q) {
			require.False(t, s.State == tcpClose && s.Local.Port() == port && s.Remote.Port() == 0, name)
		}
	}
}

func map4(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

// Of an MPTCP connection the tuple finds the TCP socket of its path, and only a
// dump the one that the application holds.
func TestMultipathTCP(t *testing.T) {
	for family, opts := range map[string][]tcptest.Option{
		"IPv4": {tcptest.MPTCP(true)}, "IPv6": {tcptest.MPTCP(true), tcptest.IPv6()},
	} {
		t.Run(family, func(t *testing.T) {
			c := start(t)
			client, server := tcptest.Pair(t, opts...)
			tuple := of(client)
			s := await(t, c, tuple, tcptest.Established)
			t.Logf("path: inode %d", s.Inode)

			q := Query{MPTCP: true, Info: true, LocalPort: tuple.Local.Port()}
			for _, q.Family = range []Family{Both, map[string]Family{"IPv4": IPv4, "IPv6": IPv6}[family]} {
				ss := dumped(t, c, q)
				require.Len(t, ss, 1)
				require.Equal(t, tcptest.Established, ss[0].State)
				require.Equal(t, uint32(tcptest.InodeOf(t, client)), ss[0].Inode)
				require.Nil(t, ss[0].Info)
				require.NotEqual(t, s.Cookie, ss[0].Cookie)
			}

			require.NoError(t, client.Close())
			_, err := server.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			q.States = 1 << tcptest.FinWait2
			tcptest.WaitUntil(t, "FIN-WAIT-2", func() bool {
				ss := dumped(t, c, q)
				return len(ss) == 1 && ss[0].Inode == 0
			})
			r := look(t, c, tuple)
			require.Equal(t, Found, r.Status)
			t.Logf("the path meanwhile: %s, inode %d", tcptest.StateName(r.Socket.State), r.Socket.Inode)
			require.NoError(t, server.Close())
			await(t, c, tuple, tcptest.TimeWait)
		})
	}
}

func TestASocketBoundToADeviceNeedsItsName(t *testing.T) {
	bind := func(_, _ string, raw syscall.RawConn) (err error) {
		e := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") })
		return errors.Join(e, err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skipf("no loopback device of that name: %v", err)
	}
	c := start(t)
	ln := tcptest.Listen(t)
	client := dial(t, ln, bind) // allowed since Linux 5.7
	tuple := of(client)
	require.Equal(t, Gone, look(t, c, tuple).Status)
	tuple.Device = uint32(lo.Index)
	r := look(t, c, tuple)
	require.Equal(t, Found, r.Status)
	require.Equal(t, uint32(lo.Index), r.Socket.Device)

	// The device does no harm to a socket that is bound to none.
	other := of(tcptest.Connect(t, ln))
	other.Device = uint32(lo.Index)
	require.Equal(t, Found, look(t, c, other).Status)
}

func TestAZoneNamesTheDevice(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skipf("no loopback device of that name: %v", err)
	}
	c := start(t)
	client, _ := tcptest.Pair(t, tcptest.IPv6())
	tuple := of(client)
	for zone, want := range map[string]Status{"lo": Found, strconv.Itoa(lo.Index): Found, "nowhere": Unknown} {
		zoned := Tuple{Remote: tuple.Remote, Local: netip.AddrPortFrom(tuple.Local.Addr().WithZone(zone), tuple.Local.Port())}
		res, err := c.Lookup(nil, []Tuple{zoned})
		require.Equal(t, want, res[0].Status, zone)
		if want == Unknown {
			require.ErrorIs(t, err, unix.ENODEV)
		} else {
			require.NoError(t, err)
		}
	}
}

// What a listener has not handed out: handshakes that do not end, and
// connections that nobody accepts.
func TestWhatWaitsAtAListener(t *testing.T) {
	c := start(t)
	ln := tcptest.Listen(t)
	const halfOpen, waiting = 3, 4
	for range halfOpen {
		tcptest.Dialing(t, &net.Dialer{Control: tcptest.DeafControl}, ln.Addr().String())
	}
	for range waiting {
		tcptest.Connect(t, ln)
	}
	tcptest.Connect(t, ln)
	server, err := ln.Accept()
	require.NoError(t, err)
	defer server.Close()

	count := func(state uint8, ok func(Socket) bool) (n int) {
		for _, s := range dumped(t, c, Query{States: 1 << state, LocalPort: port(ln.Addr())}) {
			if ok(s) {
				n++
			}
		}
		return n
	}
	tcptest.WaitUntil(t, "SYN-RECV", func() bool {
		return count(tcptest.SynReceived, func(s Socket) bool { return s.Inode == 0 }) == halfOpen
	})
	require.Equal(t, waiting, count(tcptest.Established, func(s Socket) bool { return s.Inode == 0 }))
	require.Equal(t, 1, count(tcptest.Established, func(s Socket) bool { return s.Inode != 0 }))

	r := look(t, c, tupleOf(ln.Addr(), nil))
	require.Equal(t, Found, r.Status)
	require.Equal(t, uint32(waiting), r.Socket.RecvQueue)

	before, err := SynRetransmits()
	require.NoError(t, err)
	tcptest.WaitUntil(t, "SYN-ACKs sent again", func() bool {
		return count(tcptest.SynReceived, func(s Socket) bool { return s.Retrans >= 1 }) == halfOpen
	})
	tcptest.WaitUntil(t, "their count", func() bool {
		after, err := SynRetransmits()
		require.NoError(t, err)
		return after >= before+halfOpen
	})
}

func TestTimeWaitsOfADestination(t *testing.T) {
	c := start(t)
	ln := tcptest.Listen(t)
	const n = 5
	mine := make(map[netip.AddrPort]bool)
	for range n {
		client := tcptest.Connect(t, ln)
		mine[of(client).Local] = true
		server, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, client.Close())
		_, err = server.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, server.Close())
	}
	tcptest.WaitUntil(t, "TIME-WAIT", func() bool {
		found := 0
		for _, s := range dumped(t, c, Query{States: 1 << tcptest.TimeWait, RemotePort: port(ln.Addr())}) {
			// The port may have been that of another listener a minute ago.
			if mine[s.Local] {
				found++
			}
		}
		return found == n
	})
}

// In CLOSE a socket is in no table, although its descriptor is open.
func TestResetIsGone(t *testing.T) {
	c := start(t)
	client, server := tcptest.Pair(t)
	tcptest.Reset(t, server)
	tcptest.WaitState(t, client, tcptest.Closed)
	awaitGone(t, c, of(client))
}

// many returns the tuples of n open connections, both ends of each.
func many(t testing.TB, n int) (ts []Tuple) {
	t.Helper()
	ln := tcptest.Listen(t)
	for range n {
		client := tcptest.Connect(t, ln)
		server, err := ln.AcceptTCP()
		require.NoError(t, err)
		t.Cleanup(func() { _ = server.SetLinger(0); server.Close() })
		ts = append(ts, of(client), of(server))
	}
	return ts
}

// absent turns tuples into some that no socket has.
func absent(ts []Tuple) (gone []Tuple) {
	for _, t := range ts {
		t.Remote = netip.AddrPortFrom(t.Remote.Addr(), 1)
		gone = append(gone, t)
	}
	return gone
}

func TestFiveHundredTuples(t *testing.T) {
	c := start(t)
	open := many(t, 125)
	gone := absent(open)
	var ts []Tuple
	for i := range open {
		ts = append(ts, open[i], gone[i])
	}
	require.Len(t, ts, 500)
	res, info, err := c.LookupInfo(nil, nil, ts)
	require.NoError(t, err)
	require.Len(t, res, len(ts))
	for i, r := range res {
		require.Equal(t, ts[i], r.Tuple)
		if i%2 == 1 {
			require.Equal(t, Gone, r.Status)
			continue
		}
		require.Equal(t, Found, r.Status)
		require.Equal(t, ts[i].Local, r.Socket.Local)
		require.GreaterOrEqual(t, len(r.Socket.Info), 104)
		require.Equal(t, tcptest.Established, r.Socket.Info[0])
	}
	require.GreaterOrEqual(t, len(info), 250*104)
	require.Equal(t, Stats{Asked: 500, Found: 250, Gone: 250}, c.Stats())

	// What is left of a dump in many parts is no answer to anything else.
	for _, q := range []Query{{Max: 1}, {Max: 1, Family: IPv4}, {Timeout: 1, Info: true}} {
		d, err := c.Dump(q, func(s *Socket) bool { return true })
		require.NoError(t, err)
		require.False(t, d.Complete)
		require.Equal(t, Found, look(t, c, ts[0]).Status)
	}
	require.Zero(t, c.Stats().Stray)

	byCookie := make(map[uint64]bool)
	for _, s := range dumped(t, c, Query{Info: true}) {
		byCookie[s.Cookie] = true
	}
	for i := 0; i < len(res); i += 2 {
		require.True(t, byCookie[res[i].Socket.Cookie])
	}
}

// A full buffer loses answers. None of them becomes "gone".
func TestAFullReceiveBuffer(t *testing.T) {
	c := start(t)
	require.NoError(t, unix.SetsockoptInt(int(c.t.(socket)), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	ts := many(t, 15)
	res, err := c.Lookup(nil, ts)
	require.ErrorIs(t, err, unix.ENOBUFS)
	unknown := 0
	for _, r := range res {
		require.NotEqual(t, Gone, r.Status)
		if r.Status == Unknown {
			unknown++
		}
	}
	st := c.Stats()
	require.Positive(t, st.Found)
	require.Positive(t, unknown)
	require.Equal(t, Stats{Asked: 30, Found: uint64(30 - unknown), Lost: uint64(unknown), Overruns: 1}, st)

	// The next question has the buffer for itself.
	res, err = c.Lookup(nil, ts[:1])
	require.NoError(t, err)
	require.Equal(t, Found, res[0].Status)
}

// The largest batch fits into the buffer that every socket gets, answered with
// all the kernel has to say.
func TestABatchFitsIntoTheBuffer(t *testing.T) {
	c := start(t)
	// It is doubled (socket(7)): three quarters of the usual 212992.
	require.NoError(t, unix.SetsockoptInt(int(c.t.(socket)), unix.SOL_SOCKET, unix.SO_RCVBUF, 212992/2*3/4))
	_, _, err := c.LookupInfo(nil, nil, many(t, batch/2))
	require.NoError(t, err)
	require.Equal(t, Stats{Asked: batch, Found: batch}, c.Stats())
}

// Processes with privileges may send to anybody's netlink socket.
func TestAnswersOfAnotherProcess(t *testing.T) {
	c := start(t)
	client, _ := tcptest.Pair(t)
	sa, err := unix.Getsockname(int(c.t.(socket)))
	require.NoError(t, err)
	liar, err := openSocket()
	require.NoError(t, err)
	defer liar.close()
	err = unix.Sendto(int(liar.(socket)), failure(c.seq+1, unix.ENOENT), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: sa.(*unix.SockaddrNetlink).Pid})
	if errors.Is(err, unix.EPERM) {
		t.Skipf("needs CAP_NET_ADMIN: %v", err)
	}
	require.NoError(t, err)
	require.Equal(t, Found, look(t, c, of(client)).Status)
	require.Equal(t, Stats{Asked: 1, Found: 1, Foreign: 1}, c.Stats())
}

func TestAfterClose(t *testing.T) {
	c, err := Open()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), os.ErrClosed)
	res, err := c.Lookup(nil, make([]Tuple, 2))
	require.ErrorIs(t, err, os.ErrClosed)
	require.Equal(t, make([]Result, 2), res)
	_, err = c.Dump(Query{}, all)
	require.ErrorIs(t, err, os.ErrClosed)

	var zero Conn
	_, err = zero.Lookup(nil, nil)
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestLookupDoesNotAllocate(t *testing.T) {
	c := start(t)
	ts := many(t, batch)
	ts = append(ts, absent(ts)...)
	dst, info, err := c.LookupInfo(nil, nil, ts)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { dst, err = c.Lookup(dst[:0], ts[:1]) }), "alone")
	require.Zero(t, testing.AllocsPerRun(20, func() { dst, err = c.Lookup(dst[:0], ts) }), "batched")
	require.Zero(t, testing.AllocsPerRun(20, func() { dst, info, err = c.LookupInfo(dst[:0], info[:0], ts) }), "with tcp_info")
	require.NoError(t, err)
}

func BenchmarkLookup(b *testing.B) {
	c := start(b)
	open := many(b, 250)
	var dst []Result
	var info []byte
	for _, bb := range []struct {
		name   string
		tuples []Tuple
		info   bool
	}{
		{"alone", open[:1], false}, {"alone gone", absent(open[:1]), false}, {"alone info", open[:1], true},
		{"batched", open, false}, {"batched gone", absent(open), false}, {"batched info", open, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			var err error
			for b.Loop() {
				if bb.info {
					dst, info, err = c.LookupInfo(dst[:0], info[:0], bb.tuples)
				} else {
					dst, err = c.Lookup(dst[:0], bb.tuples)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(bb.tuples)), "ns/tuple")
		})
	}
}

func BenchmarkDump(b *testing.B) {
	c := start(b)
	many(b, 500)
	for name, q := range map[string]Query{
		"all":          {Timeout: time.Second},
		"IPv4":         {Family: IPv4, Timeout: time.Second},
		"of one state": {States: 1 << tcptest.SynReceived, Timeout: time.Second},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				d, err := c.Dump(q, all)
				if err != nil {
					b.Fatal(err)
				}
				n = d.Sockets
			}
			b.ReportMetric(float64(n), "sockets")
		})
	}
}
