package pool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool"
)

// A Pool lends connections. Close returns one, and the next Get lends it again.
func Example() {
	server := wordServer()
	defer server.Close()

	p := &pool.Pool{Name: "words", MaxConns: 10}
	defer p.Close()

	for range 3 {
		if err := ask(p, server.Addr().String()); err != nil {
			log.Fatal(err)
		}
	}
	s := p.Stats()
	fmt.Println(s.Gets, "loans,", s.Dials, "dial")
	// Output:
	// hello
	// hello
	// hello
	// 3 loans, 1 dial
}

func ask(p *pool.Pool, addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := p.Get(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()

	conn.SetDeadline(time.Now().Add(time.Second)) // Close takes it back
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	fmt.Print(answer)
	return err
}

// A protocol error is nothing that the pool could know of.
func ExampleConn_Discard() {
	server := wordServer()
	defer server.Close()
	p := new(pool.Pool)
	defer p.Close()

	conn, err := p.Get(context.Background(), "tcp", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // does nothing after Discard
	if !understood(conn) {
		conn.Discard()
	}
	fmt.Println(p.Stats().Idle, "idle,", p.Stats().Discarded.Caller, "discarded")
	// Output: 0 idle, 1 discarded
}

// DialTLS of the Dialer makes connections whose TCP state is tracked.
func ExamplePool_tls() {
	d := dialer.Dialer{Name: "payments"}
	p := &pool.Pool{
		Name: "payments",
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.DialTLS(ctx, network, address, &tls.Config{MinVersion: tls.VersionTLS13})
		},
	}
	defer p.Close()
}

// Close waits for connections that are lent out, and then says who has them.
func ExamplePool_Close() {
	server := wordServer()
	defer server.Close()
	p := &pool.Pool{CloseTimeout: 10 * time.Millisecond}
	conn, err := p.Get(context.Background(), "tcp", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	if leak, ok := errors.AsType[*pool.LeakError](p.Close()); ok {
		for _, l := range leak.Loans {
			fmt.Println("lent by", l.Site.Frames()[0].File)
		}
	}
	conn.Close() // closed, since the pool is
	fmt.Println(p.Close())
	// Output:
	// lent by pool/example_test.go
	// <nil>
}

func understood(net.Conn) bool { return false }

// wordServer sends back what it gets.
func wordServer() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l
}
