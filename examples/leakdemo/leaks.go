package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"go.opentelemetry.io/otel"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// leak is one way to lose a connection.
type leak struct {
	kind  tcpstate.Kind
	plant func(context.Context, *backends) error
}

var leaks = []leak{
	{tcpstate.KindCloseWaitUnreadBody, checkInvoice},
	{tcpstate.KindCloseWaitNotReading, uploadAndLeave},
	{tcpstate.KindCloseWaitEOFSeen, sayGoodbye},
	{tcpstate.KindLeakCollected, probe},
}

var tracer = otel.Tracer("leakdemo")

// checkInvoice looks at the status of a response and forgets its body. The
// answer is 20 kB, and the server closes after it.
func checkInvoice(ctx context.Context, b *backends) error {
	ctx, span := tracer.Start(ctx, "check invoice")
	defer span.End()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.payments+"/invoices/4711", nil)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req) // LEAK close_wait.unread_body
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("invoice: %s", resp.Status) // and on success, too, nobody closes resp.Body
	}
	return nil
}

// report is a handler that waits for a result without reading the request or
// looking at its context. While the body is unread, net/http does not notice
// that the client has left.
func (b *backends) report(w http.ResponseWriter, r *http.Request) { // LEAK close_wait.not_reading
	b.reporting <- struct{}{}
	result := <-b.results
	fmt.Fprintln(w, result)
}

// uploadAndLeave posts to the handler above and gives up waiting.
func uploadAndLeave(ctx context.Context, b *backends) error {
	ctx, span := tracer.Start(ctx, "upload report")
	defer span.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Headers first, then half of the body: the server is in the handler when
	// the connection breaks.
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.apiAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	body := bytes.Repeat([]byte("x"), 4000)
	_, err = fmt.Fprintf(conn, "POST /v1/reports HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%s", 2*len(body), body)
	if err != nil {
		return err
	}
	select {
	case <-b.reporting:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// chat is a line server that remembers its sessions and never forgets them.
type chat struct {
	mu       sync.Mutex // guards sessions
	sessions map[net.Conn]bool
}

func (c *chat) serve(conn net.Conn) {
	c.mu.Lock()
	c.sessions[conn] = true
	c.mu.Unlock()
	buf := make([]byte, 1024)
	for {
		n, err := conn.Read(buf) // LEAK close_wait.eof_seen
		if err != nil {
			return // without conn.Close
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

// sayGoodbye talks to the chat server and hangs up.
func sayGoodbye(ctx context.Context, b *backends) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.chatAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "goodbye\n"); err != nil {
		return err
	}
	answer := make([]byte, len("goodbye\n"))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != "goodbye\n" {
		return errors.New("chat: wrong answer")
	}
	return nil
}

// probe connects to see whether somebody listens, and drops the connection.
func probe(ctx context.Context, b *backends) error {
	_, err := b.dial.DialContext(ctx, "tcp", b.echoAddr) // LEAK leak.collected
	return err
}
