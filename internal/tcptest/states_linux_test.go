package tcptest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestPairIsEstablishedAtBothEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []tcptest.Option
	}{
		{"plain", nil},
		{"small buffers", []tcptest.Option{tcptest.SmallBuffers()}},
		{"IPv6", []tcptest.Option{tcptest.IPv6()}},
		{"MPTCP", []tcptest.Option{tcptest.MPTCP(true)}},
		{"MPTCP small IPv6", []tcptest.Option{tcptest.MPTCP(true), tcptest.SmallBuffers(), tcptest.IPv6()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := tcptest.Pair(t, tt.opts...)
			tcptest.WaitState(t, client, tcptest.Established)
			tcptest.WaitState(t, server, tcptest.Established)
			tcptest.WaitTable(t, client.LocalAddr(), client.RemoteAddr(), tcptest.Established)
			tcptest.WaitTable(t, server.LocalAddr(), server.RemoteAddr(), tcptest.Established)
			echo(t, client, server)
		})
	}
}

func TestCloseWaitAndFinWait2FaceEachOther(t *testing.T) {
	client, server := tcptest.Pair(t)
	closeWrite(t, server)
	tcptest.WaitState(t, client, tcptest.CloseWait)
	tcptest.WaitState(t, server, tcptest.FinWait2)
}

func TestFinWait1UntilThePeerHears(t *testing.T) {
	client, server := tcptest.Pair(t)
	heal := tcptest.Deafen(t, server)
	closeWrite(t, client)
	tcptest.WaitState(t, client, tcptest.FinWait1)
	if got := tcptest.State(t, server); got != tcptest.Established {
		t.Errorf("server is in %s, want ESTABLISHED: it hears nothing", tcptest.StateName(got))
	}
	heal()
	tcptest.WaitState(t, client, tcptest.FinWait2)
	tcptest.WaitState(t, server, tcptest.CloseWait)
}

func TestFinWait1WithoutAnFD(t *testing.T) {
	client, server := tcptest.Pair(t)
	local, remote := client.LocalAddr(), client.RemoteAddr()
	heal := tcptest.Deafen(t, server)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	tcptest.WaitTable(t, local, remote, tcptest.FinWait1)
	heal()
	tcptest.WaitTable(t, local, remote, tcptest.FinWait2)
	tcptest.Reset(t, server)
	tcptest.WaitTable(t, local, remote, tcptest.Absent)
}

func TestLastAckUntilThePeerHears(t *testing.T) {
	client, server := tcptest.Pair(t)
	closeWrite(t, server)
	tcptest.WaitState(t, client, tcptest.CloseWait)
	heal := tcptest.Deafen(t, server)
	closeWrite(t, client)
	tcptest.WaitState(t, client, tcptest.LastAck)
	heal()
	tcptest.WaitState(t, client, tcptest.Closed)
}

func TestClosingWhenTwoFinsCross(t *testing.T) {
	client, server := tcptest.Pair(t)
	healClient := tcptest.Deafen(t, client)
	healServer := tcptest.Deafen(t, server)
	closeWrite(t, client)
	closeWrite(t, server)
	tcptest.WaitState(t, client, tcptest.FinWait1)
	tcptest.WaitState(t, server, tcptest.FinWait1)
	healClient()
	tcptest.WaitState(t, client, tcptest.Closing)
	healServer()
	tcptest.WaitTable(t, client.LocalAddr(), client.RemoteAddr(), tcptest.TimeWait)
}

func TestClosingAgainstFinWait2WhenOnlyTheFinIsLost(t *testing.T) {
	client, server := tcptest.Pair(t)
	healClient := tcptest.DropFIN(t, client)
	healServer := tcptest.DropFIN(t, server)
	closeWrite(t, client)
	closeWrite(t, server)
	tcptest.WaitState(t, client, tcptest.FinWait1)
	tcptest.WaitState(t, server, tcptest.FinWait1)
	healClient()
	tcptest.WaitState(t, client, tcptest.Closing)
	tcptest.WaitState(t, server, tcptest.FinWait2)
	healServer()
	tcptest.WaitTable(t, client.LocalAddr(), client.RemoteAddr(), tcptest.TimeWait)
}

func TestTimeWaitIsOnlyInTheTable(t *testing.T) {
	client, server := tcptest.Pair(t)
	local, remote := client.LocalAddr(), client.RemoteAddr()
	if err := errors.Join(client.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	tcptest.WaitTable(t, local, remote, tcptest.TimeWait)
	tcptest.WaitTable(t, remote, local, tcptest.Absent)
}

func TestSynSentAtADeadListener(t *testing.T) {
	before := tcptest.FDCount(t)
	t.Run("dial", func(t *testing.T) {
		c := tcptest.Dialing(t, nil, tcptest.DeadListener(t))
		tcptest.WaitState(t, c, tcptest.SynSent)
	})
	if got := tcptest.FDCount(t); got != before {
		t.Errorf("%d fds after the cleanup, want %d", got, before)
	}
}

func TestSynReceivedWhenTheClientIsDeaf(t *testing.T) {
	ln := tcptest.Listen(t)
	c := tcptest.Dialing(t, &net.Dialer{Control: tcptest.DeafControl}, ln.Addr().String())
	tcptest.WaitState(t, c, tcptest.SynSent)
	tcptest.WaitTable(t, ln.Addr(), tcptest.LocalAddr(t, c), tcptest.SynReceived)
}

func TestSynReceivedWhenTheLastAckIsLost(t *testing.T) {
	ln := tcptest.Listen(t)
	heal := tcptest.OnlySYN(t, ln)
	c := tcptest.Connect(t, ln)
	tcptest.WaitState(t, c, tcptest.Established)
	tcptest.WaitTable(t, ln.Addr(), c.LocalAddr(), tcptest.SynReceived)
	heal()
	tcptest.WaitTable(t, ln.Addr(), c.LocalAddr(), tcptest.Established)
}

func TestListenIsListening(t *testing.T) {
	for _, opts := range [][]tcptest.Option{nil, {tcptest.IPv6()}, {tcptest.MPTCP(true)}} {
		ln := tcptest.Listen(t, opts...)
		tcptest.WaitTable(t, ln.Addr(), nil, tcptest.Listening)
		if len(opts) == 0 {
			tcptest.WaitState(t, ln, tcptest.Listening)
		}
	}
}

func TestFullBacklogKeepsTheNextInSynSent(t *testing.T) {
	ln := tcptest.FullBacklogListener(t)
	c := tcptest.Dialing(t, nil, ln.Addr().String())
	tcptest.WaitState(t, c, tcptest.SynSent)
	first, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	tcptest.WaitState(t, c, tcptest.Established) // the next SYN is welcome
}

func TestCloseWithUnreadBytesResetsThePeer(t *testing.T) {
	client, server := tcptest.Pair(t)
	write(t, client, "unread")
	tcptest.WaitUntil(t, "the bytes", func() bool { return info(t, server).Bytes_received == 6 })
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	tcptest.WaitState(t, client, tcptest.Closed)
}

func TestCloseWithFDAfterReset(t *testing.T) {
	client, server := tcptest.Pair(t)
	local, remote := client.LocalAddr(), client.RemoteAddr()
	tcptest.Reset(t, server)
	tcptest.WaitState(t, client, tcptest.Closed)
	tcptest.WaitTable(t, local, remote, tcptest.Absent)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want ECONNRESET", err)
	}
}

func TestCloseWithFDAfterTimeout(t *testing.T) {
	for _, tt := range []struct {
		name   string
		timers tcptest.Timers
		write  bool
	}{
		{"user timeout", tcptest.Timers{UserTimeout: 300 * time.Millisecond}, true},
		{"keepalive count", tcptest.Timers{Idle: time.Second, Interval: time.Second, Count: 1}, false},
		{"keepalive user timeout", tcptest.Timers{Idle: time.Second, Interval: time.Second, UserTimeout: 500 * time.Millisecond}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, server := tcptest.Pair(t)
			tcptest.SetTimers(t, client, tt.timers)
			tcptest.Deafen(t, server)
			if tt.write {
				write(t, client, "x")
			}
			start := time.Now()
			tcptest.WaitState(t, client, tcptest.Closed)
			t.Logf("after %v", time.Since(start).Round(time.Millisecond))
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("read: %v, want ETIMEDOUT", err)
			}
		})
	}
}
