package tcptest_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestPairCarriesBytesBothWays(t *testing.T) {
	client, server := tcptest.Pair(t)
	echo(t, client, server)
	echo(t, server, client)
}

func TestTLSConfigsMakeATrustedConnection(t *testing.T) {
	serverConfig, clientConfig := tcptest.TLSConfigs(t)
	clientConn, serverConn := tcptest.Pair(t)
	client, server := tls.Client(clientConn, clientConfig), tls.Server(serverConn, serverConfig)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Error(err)
		clientConn.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	echo(t, client, server)
}

func TestWaitUntilReturnsOnceTrue(t *testing.T) {
	start := time.Now()
	calls := 0
	tcptest.WaitUntil(t, "the third call", func() bool { calls++; return calls == 3 })
	if took := time.Since(start); took > tcptest.Deadline/2 {
		t.Errorf("took %v", took)
	}
}

func echo(t *testing.T, from, to net.Conn) {
	t.Helper()
	write(t, from, "ping")
	readFull(t, to, make([]byte, 4))
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func readFull(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(tcptest.Deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
}

func closeWrite(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}
