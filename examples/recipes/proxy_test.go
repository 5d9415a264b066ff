package recipes

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// An answer that begins after the client has ended its direction comes through.
func TestTheProxyPassesOnTheEndOfEachDirection(t *testing.T) {
	tracker := leaktest.Tracker(t)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer backend.Close()
	go func() {
		c, err := backend.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		question, _ := io.ReadAll(c)
		_, _ = io.WriteString(c, "you asked: "+string(question))
	}()
	config := listener.Config{Tracker: tracker}
	ln, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = TCPProxy(context.Background(), c, &dialer.Dialer{Tracker: tracker}, backend.Addr().String())
		}
		served <- err
	}()

	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	_, err = io.WriteString(client, "why?")
	require.NoError(t, err)
	require.NoError(t, client.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "you asked: why?", string(answer))
	require.NoError(t, <-served)
}
