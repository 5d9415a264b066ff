package dialer_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A Dialer dials like the net.Dialer in it. Its connections are reported under
// its name.
func ExampleDialer() {
	server := echoServer()
	defer server.Close()

	d := dialer.Dialer{
		Name:      "payments",
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
	}
	conn, err := d.DialContext(context.Background(), "tcp", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	s := tcpstate.Of(conn).Snapshot()
	fmt.Println(s.Name, s.State)
	// Output: payments ESTABLISHED
}

// Clients with a dial function of their own keep it: it is wrapped.
func ExampleDialer_Wrap() {
	server := echoServer()
	defer server.Close()

	throughProxy := func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address) // and talk to the proxy
	}
	d := dialer.Dialer{Name: "database"}
	dial := d.Wrap(throughProxy) // for a field called Dialer, DialFunc, DialContext

	conn, err := dial(context.Background(), "tcp", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(tcpstate.Of(conn).Snapshot().Name)
	// Output: database
}

// Long silences are normal on this connection.
func ExampleDialer_expect() {
	server := echoServer()
	defer server.Close()

	d := dialer.Dialer{Name: "events", Expect: tcpstate.Expect{LongLived: true}}
	conn, err := d.Dial("tcp", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(tcpstate.Of(conn).Open())
	// Output: true
}

// DialTLS is tls.Dialer over a connection that is tracked.
func ExampleDialer_DialTLS() {
	d := dialer.Dialer{Name: "mail"}
	conn, err := d.DialTLS(context.Background(), "tcp", "mail.example.com:993", &tls.Config{MinVersion: tls.VersionTLS13})
	if err != nil {
		log.Print(err)
		return
	}
	defer conn.Close()
}

// echoServer returns a listener that sends back what it gets.
func echoServer() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln
}
