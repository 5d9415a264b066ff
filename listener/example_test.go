package listener_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// The shortest way: net.Listen becomes listener.Listen.
func Example() {
	ln, err := listener.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()

	conn, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	fmt.Printf("%s %v\n", got, err)
	fmt.Println(tcpstate.Of(conn).Snapshot().Role)
	// Output:
	// hello <nil>
	// server
}

// A web server takes the listener in Serve.
func ExampleConfig_Listen() {
	c := listener.Config{Name: "api"}
	ln, err := c.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(ln) }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Printf("%s %v\n", body, err)
	srv.Close()
	fmt.Println(<-done)
	// Output:
	// hello <nil>
	// http: Server closed
}

// TLS goes above: the tracked connection is the one below it.
func ExampleConfig_Wrap() {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	c := listener.Config{Name: "secure"}
	ln := tls.NewListener(c.Wrap(plain), &tls.Config{ /* certificates */ })
	defer ln.Close()
	fmt.Println(ln.Addr().Network())
	// Output: tcp
}
