package harness

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ending is a way to a TLS server that tells how clients end their
// connections. It is closed when the test ends.
type Ending struct {
	ln    net.Listener
	ended chan bool
	wg    sync.WaitGroup
}

// NewEnding returns a way to target, "host:port". Its clients may speak TLS up
// to version 1.2, in which alerts can be told from data by those who pass by.
func NewEnding(t testing.TB, target string) *Ending {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := &Ending{ln: ln, ended: make(chan bool, 100)}
	e.wg.Go(func() { e.accept(target) })
	t.Cleanup(func() {
		ln.Close()
		e.wg.Wait()
	})
	return e
}

// Addr returns the address that the client dials.
func (e *Ending) Addr() string { return e.ln.Addr().String() }

// Announced waits for the end of a client's connection and reports whether an
// alert, such as close_notify, was the last that it sent. Each end is told of
// once, in order.
func (e *Ending) Announced(t testing.TB) bool {
	t.Helper()
	var announced bool
	WaitUntil(t, "the client to end its connection", func() bool {
		select {
		case announced = <-e.ended:
			return true
		default:
			return false
		}
	})
	return announced
}

func (e *Ending) accept(target string) {
	for {
		client, err := e.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", target)
		if err != nil {
			client.Close()
			continue
		}
		e.wg.Go(func() {
			var back sync.WaitGroup
			back.Go(func() { io.Copy(client, server) })
			sent := &records{Reader: client}
			io.Copy(server, sent)
			e.ended <- sent.last == alert
			server.Close()
			back.Wait()
			client.Close()
		})
	}
}

// alert is the type of the records of alerts (RFC 5246, section 6.2.1).
const alert = 21

// records reads TLS records and remembers the type of the last one.
type records struct {
	io.Reader
	last   byte
	header []byte // of the record that is being read, until complete
	rest   int    // of its content
}

// Read implements io.Reader.
func (r *records) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	for got := b[:n]; len(got) > 0; {
		if r.rest == 0 {
			take := min(5-len(r.header), len(got))
			r.header = append(r.header, got[:take]...)
			got = got[take:]
			if len(r.header) == 5 {
				r.last, r.rest = r.header[0], int(r.header[3])<<8|int(r.header[4])
				r.header = r.header[:0]
			}
			continue
		}
		take := min(r.rest, len(got))
		r.rest -= take
		got = got[take:]
	}
	return n, err
}
