//go:build !js

package listener_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Some servers insist on a *net.TCPConn.
func ExampleConfig_noWrap() {
	c := listener.Config{Name: "legacy", NoWrap: true}
	ln, err := c.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			defer c.Close()
			io.Copy(io.Discard, c)
		}
	}()

	conn, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Printf("%T, tracked: %t\n", conn, tcpstate.Of(conn).Open())
	// Output: *net.TCPConn, tracked: true
}
