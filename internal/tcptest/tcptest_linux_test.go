package tcptest_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestZeroWindowEndsWhenThePeerReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []tcptest.Option
		most int
	}{
		{"small buffers", []tcptest.Option{tcptest.SmallBuffers()}, 64 << 10},
		{"default buffers", nil, 64 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := tcptest.Pair(t, tt.opts...)
			start := time.Now()
			n := tcptest.FillWindow(t, client)
			t.Logf("window closed after %d bytes, %v", n, time.Since(start))
			if n == 0 || n > tt.most {
				t.Errorf("wrote %d bytes, want 1 to %d", n, tt.most)
			}
			closeWrite(t, client)
			if err := server.SetReadDeadline(time.Now().Add(tcptest.Deadline)); err != nil {
				t.Fatal(err)
			}
			got, err := io.Copy(io.Discard, server)
			if err != nil || got != int64(n) {
				t.Errorf("read %d bytes, error %v; want %d, nil", got, err, n)
			}
		})
	}
}

func TestADeafSocketStillSends(t *testing.T) {
	for name, opts := range map[string][]tcptest.Option{"IPv4": nil, "IPv6": {tcptest.IPv6()}} {
		t.Run(name, func(t *testing.T) {
			client, server := tcptest.Pair(t, opts...)
			heal := tcptest.Deafen(t, client)
			echo(t, client, server)
			write(t, server, "pong")
			tcptest.WaitUntil(t, "a retransmission", func() bool { return info(t, server).Total_retrans > 0 })
			if got := info(t, client).Bytes_received; got != 0 {
				t.Errorf("client received %d bytes, want 0", got)
			}
			heal()
			readFull(t, client, make([]byte, 4))
		})
	}
}

func TestDeafenOnADualStackSocket(t *testing.T) {
	ln, err := net.Listen("tcp", ":0") // IPv6 socket, IPv4 peer, and MPTCP
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	tcptest.WaitTable(t, server.LocalAddr(), server.RemoteAddr(), tcptest.Established)
	tcptest.Deafen(t, server.(*net.TCPConn))
	write(t, client, "x")
	tcptest.WaitUntil(t, "a retransmission", func() bool { return info(t, client.(*net.TCPConn)).Total_retrans > 0 })
	if got := info(t, server.(*net.TCPConn)).Bytes_received; got != 0 {
		t.Errorf("server received %d bytes, want 0", got)
	}
}

func TestDropDataLosesOnlyPayload(t *testing.T) {
	client, server := tcptest.Pair(t)
	heal := tcptest.DropData(t, server)
	closeWrite(t, client) // a bare FIN passes
	tcptest.WaitState(t, server, tcptest.CloseWait)
	echoed := make([]byte, 1)
	write(t, server, "s") // the server's data and the client's bare ACK pass
	readFull(t, client, echoed)
	heal()

	client, server = tcptest.Pair(t)
	heal = tcptest.DropData(t, server)
	write(t, client, "c")
	tcptest.WaitUntil(t, "a retransmission", func() bool { return info(t, client).Total_retrans > 0 })
	if got := info(t, server).Bytes_received; got != 0 {
		t.Errorf("server received %d bytes, want 0", got)
	}
	heal()
	readFull(t, server, echoed)
}

func TestDropFINLetsDataThrough(t *testing.T) {
	client, server := tcptest.Pair(t)
	heal := tcptest.DropFIN(t, server)
	echo(t, client, server)
	closeWrite(t, client)
	tcptest.WaitState(t, client, tcptest.FinWait1)
	heal()
	tcptest.WaitState(t, server, tcptest.CloseWait)
}

func TestHealTwiceAndAfterCloseIsHarmless(t *testing.T) {
	client, server := tcptest.Pair(t)
	heal := tcptest.Deafen(t, server)
	heal()
	heal()
	echo(t, client, server)
	heal = tcptest.Deafen(t, server)
	server.Close()
	heal()
}

func TestFDCountSeesASocket(t *testing.T) {
	before := tcptest.FDCount(t)
	ln := tcptest.Listen(t)
	if got := tcptest.FDCount(t); got != before+1 {
		t.Errorf("%d fds with a listener, want %d", got, before+1)
	}
	ln.Close()
	if got := tcptest.FDCount(t); got != before {
		t.Errorf("%d fds without, want %d", got, before)
	}
}

func TestEpollWatchesSeesGosAndAnother(t *testing.T) {
	client, _ := tcptest.Pair(t)
	inode := tcptest.InodeOf(t, client)
	if got := watchesOf(t, inode); got != 1 {
		t.Errorf("%d watches on a conn, want 1", got)
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epfd)
	onFD(t, client, func(fd int) error {
		return unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLRDHUP})
	})
	if got := watchesOf(t, inode); got != 2 {
		t.Errorf("%d watches after EPOLL_CTL_ADD, want 2", got)
	}
	client.Close()
	if got := watchesOf(t, inode); got != 0 {
		t.Errorf("%d watches after Close, want 0", got)
	}
}

func watchesOf(t *testing.T, inode uint64) (n int) {
	t.Helper()
	for _, w := range tcptest.EpollWatches(t) {
		if w.Inode == inode {
			n++
		}
	}
	return n
}

func TestMPTCPCannotBeMadeDeaf(t *testing.T) {
	_, server := tcptest.Pair(t, tcptest.MPTCP(true))
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := tcptest.DeafControl("", "", raw); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("DeafControl: %v, want EOPNOTSUPP", err)
	}
}

func info(t *testing.T, c syscall.Conn) (i *unix.TCPInfo) {
	t.Helper()
	onFD(t, c, func(fd int) (err error) {
		i, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return i
}

func onFD(t *testing.T, c syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}
