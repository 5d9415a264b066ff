package zerocopy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// This file is the program that strace watches: the test binary itself, asked
// by its environment to make one copy.

// pieceSize is small enough for the kernel to take a piece in one call, and to
// queue it in one buffer.
const (
	pieceSize = 32 << 10
	pieces    = 8
	bulkSize  = 4 << 20
)

// child is one run of one scenario.
type child struct {
	ends    ends
	tracker *tcpstate.Tracker
	dir     string
	fds     map[string]string // the descriptors that the scenario copies between, as strace -y writes them
}

// ends says which ends of a copy are tracked.
type ends string

const (
	plain      ends = "plain"
	tracked    ends = "tracked"
	fromPlain  ends = "from plain"
	toPlain    ends = "to plain"
	trackerOff ends = "tracker off"
)

func (e ends) source() bool      { return e != plain && e != fromPlain }
func (e ends) destination() bool { return e != plain && e != toPlain }

// run makes the copy and prints the descriptors it used.
func run(scenario string, e ends) (err error) {
	c := &child{ends: e, tracker: new(tcpstate.Tracker), fds: make(map[string]string)}
	c.tracker.Config.Off = e == trackerOff
	if c.dir, err = os.MkdirTemp("", "zerocopy"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	if err := scenarios[scenario](c); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c.fds)
}

// Calls that cannot succeed, to be found in what strace writes.
const (
	beginMark = "/tcpstate-zerocopy-begin"
	endMark   = "/tcpstate-zerocopy-end"
)

// watched runs f between the marks.
func watched(f func() error) error {
	_ = unix.Access(beginMark, 0)
	err := f()
	_ = unix.Access(endMark, 0)
	return err
}

var scenarios = map[string]func(*child) error{
	"Copy conn to conn": func(c *child) error {
		return c.between(pieceSize, func(dst io.Writer, src io.Reader) (int64, error) { return io.Copy(dst, src) })
	},
	"CopyN conn to conn": func(c *child) error {
		return c.between(pieces*pieceSize, func(dst io.Writer, src io.Reader) (int64, error) {
			return io.CopyN(dst, src, pieceSize)
		})
	},
	"CopyN past the end": func(c *child) error {
		return c.between(pieceSize, func(dst io.Writer, src io.Reader) (int64, error) {
			n, err := io.CopyN(dst, src, 2*pieceSize)
			if err == io.EOF {
				err = nil
			}
			return n, err
		})
	},
	"Copy conn to file": func(c *child) error {
		return c.toFile(pieceSize, func(dst io.Writer, src io.Reader) (int64, error) { return io.Copy(dst, src) })
	},
	"CopyN conn to file": func(c *child) error {
		return c.toFile(pieces*pieceSize, func(dst io.Writer, src io.Reader) (int64, error) {
			return io.CopyN(dst, src, pieceSize)
		})
	},
	"Copy file to conn": func(c *child) error {
		return c.fromFile(func(dst io.Writer, src io.Reader) (int64, error) { return io.Copy(dst, src) })
	},
	"CopyN file to conn": func(c *child) error {
		return c.fromFile(func(dst io.Writer, src io.Reader) (int64, error) { return io.CopyN(dst, src, pieceSize) })
	},
	"Copy conn to unix":        (*child).toUnix,
	"Copy unix to conn":        (*child).fromUnix,
	"Buffers":                  (*child).buffers,
	"http file":                (*child).httpFile,
	"bulk Copy conn to conn":   (*child).bulk,
	"bulk Copy there and back": (*child).tunnel,
	"http large file":          (*child).httpBig,
}

// between copies size bytes that are queued already, followed by the end of the
// stream, with as many calls of copy as it takes.
func (c *child) between(size int, copy func(io.Writer, io.Reader) (int64, error)) error {
	src, feeder, err := c.accepted("src")
	if err != nil {
		return err
	}
	dst, sink, err := c.dialed("dst")
	if err != nil {
		return err
	}
	return c.copyPieces(src, feeder, dst, size, copy, func() (int, error) { return received(sink) })
}

// copyPieces feeds the source piece by piece, so that the kernel has each
// before it is copied.
func (c *child) copyPieces(src net.Conn, feeder *net.TCPConn, dst io.Writer, size int,
	copy func(io.Writer, io.Reader) (int64, error), arrived func() (int, error)) error {
	for left := size; left > 0; left -= pieceSize {
		if err := feed(feeder, src, left == pieceSize); err != nil {
			return err
		}
		err := watched(func() error {
			n, err := copy(dst, src)
			if err == nil && n != pieceSize {
				err = fmt.Errorf("copied %d bytes", n)
			}
			return err
		})
		if err != nil {
			return err
		}
		if n, err := arrived(); err != nil || n != pieceSize {
			return fmt.Errorf("%d bytes arrived: %w", n, err)
		}
	}
	return nil
}

// feed queues a piece at src, and the end of the stream after the last.
func feed(feeder *net.TCPConn, src net.Conn, last bool) error {
	if _, err := feeder.Write(make([]byte, pieceSize)); err != nil {
		return err
	}
	want := pieceSize
	if last {
		if err := feeder.CloseWrite(); err != nil {
			return err
		}
	}
	return until(func() (bool, error) {
		var queued int
		var state uint8
		err := control(src, func(fd int) (err error) {
			if queued, err = unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil {
				return err
			}
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil {
				state = info.State
			}
			return err
		})
		return queued >= want && (!last || state == 8), err // 8: CLOSE-WAIT
	})
}

// received reads a piece.
func received(sink net.Conn) (int, error) { return io.ReadFull(sink, make([]byte, pieceSize)) }

func (c *child) toFile(size int, copy func(io.Writer, io.Reader) (int64, error)) error {
	src, feeder, err := c.accepted("src")
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(c.dir, "f"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.note("dst", f); err != nil {
		return err
	}
	seen := int64(0)
	return c.copyPieces(src, feeder, f, size, copy, func() (int, error) {
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		n := st.Size() - seen
		seen = st.Size()
		return int(n), nil
	})
}

func (c *child) file(size int) (*os.File, error) {
	name := filepath.Join(c.dir, "f")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		return nil, err
	}
	return os.Open(name)
}

func (c *child) fromFile(copy func(io.Writer, io.Reader) (int64, error)) error {
	dst, sink, err := c.dialed("dst")
	if err != nil {
		return err
	}
	f, err := c.file(pieceSize)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.note("src", f); err != nil {
		return err
	}
	err = watched(func() error { _, err := copy(dst, f); return err })
	if err != nil {
		return err
	}
	_, err = received(sink)
	return err
}

func (c *child) unixPair() (near, far *net.UnixConn, err error) {
	ln, err := net.Listen("unix", filepath.Join(c.dir, "s"))
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	n, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	f, err := ln.Accept()
	if err != nil {
		return nil, nil, err
	}
	return n.(*net.UnixConn), f.(*net.UnixConn), nil
}

func (c *child) toUnix() error {
	src, feeder, err := c.accepted("src")
	if err != nil {
		return err
	}
	dst, sink, err := c.unixPair()
	if err != nil {
		return err
	}
	if err := c.note("dst", dst); err != nil {
		return err
	}
	return c.copyPieces(src, feeder, dst, pieceSize,
		func(w io.Writer, r io.Reader) (int64, error) { return io.Copy(w, r) },
		func() (int, error) { return received(sink) })
}

func (c *child) fromUnix() error {
	dst, sink, err := c.dialed("dst")
	if err != nil {
		return err
	}
	src, feeder, err := c.unixPair()
	if err != nil {
		return err
	}
	if err := c.note("src", src); err != nil {
		return err
	}
	if _, err := feeder.Write(make([]byte, pieceSize)); err != nil {
		return err
	}
	if err := feeder.Close(); err != nil {
		return err
	}
	if err := watched(func() error { _, err := io.Copy(dst, src); return err }); err != nil {
		return err
	}
	_, err = received(sink)
	return err
}

func (c *child) buffers() error {
	dst, sink, err := c.dialed("dst")
	if err != nil {
		return err
	}
	part := make([]byte, pieceSize/4)
	bufs := net.Buffers{part, part, part, part}
	if err := watched(func() error { _, err := bufs.WriteTo(dst); return err }); err != nil {
		return err
	}
	_, err = received(sink)
	return err
}

// bulk copies while the source is filled and the destination emptied: how many
// calls that takes is up to the scheduler.
func (c *child) bulk() error {
	src, feeder, err := c.accepted("src")
	if err != nil {
		return err
	}
	dst, sink, err := c.dialed("dst")
	if err != nil {
		return err
	}
	errs := make(chan error, 2)
	go fill(feeder, errs)
	go empty(sink, errs)
	err = watched(func() error {
		n, err := io.Copy(dst, src)
		if n != bulkSize {
			err = errors.Join(err, fmt.Errorf("copied %d bytes", n))
		}
		return err
	})
	return errors.Join(err, dst.Close(), <-errs, <-errs)
}

func fill(c *net.TCPConn, errs chan<- error) {
	_, err := c.Write(make([]byte, bulkSize))
	errs <- errors.Join(err, c.CloseWrite())
}

func empty(c net.Conn, errs chan<- error) {
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
	if n != bulkSize {
		err = errors.Join(err, fmt.Errorf("%d bytes arrived", n))
	}
	errs <- err
}

// tunnel is a proxy: two copies at once, one in each direction.
func (c *child) tunnel() error {
	front, client, err := c.accepted("src")
	if err != nil {
		return err
	}
	back, server, err := c.dialed("dst")
	if err != nil {
		return err
	}
	errs := make(chan error, 6)
	go fill(client, errs)
	go fill(server.(*net.TCPConn), errs)
	go empty(client, errs)
	go empty(server, errs)
	return watched(func() error {
		half := func(dst, src net.Conn) {
			_, err := io.Copy(dst, src)
			errs <- errors.Join(err, dst.(interface{ CloseWrite() error }).CloseWrite())
		}
		go half(back, front)
		go half(front, back)
		var all error
		for range cap(errs) {
			all = errors.Join(all, <-errs)
		}
		return all
	})
}

// httpFile serves one request for a file that fits into one call, httpBig one
// that does not.
func (c *child) httpFile() error { return c.http(pieceSize) }
func (c *child) httpBig() error  { return c.http(bulkSize) }

func (c *child) http(size int) error {
	f, err := c.file(size)
	if err != nil {
		return err
	}
	defer f.Close()
	ln, err := c.listen()
	if err != nil {
		return err
	}
	defer ln.Close()
	// The request is there before the server looks.
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	srv := &http.Server{
		ConnContext: func(ctx context.Context, sc net.Conn) context.Context {
			if err := c.note("dst", sc.(syscall.Conn)); err != nil {
				panic(err)
			}
			return ctx
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "f.bin", time.Time{}, f)
		}),
	}
	if err := c.note("src", f); err != nil {
		return err
	}
	return watched(func() error {
		go srv.Serve(ln)
		answer, err := io.ReadAll(conn)
		if err == nil && (!strings.HasPrefix(string(answer[:20]), "HTTP/1.1 200 OK") || len(answer) < size) {
			err = fmt.Errorf("answer of %d bytes", len(answer))
		}
		return errors.Join(err, srv.Close())
	})
}

// listen listens as a program would, with the listener package or without.
func (c *child) listen() (net.Listener, error) {
	if !c.ends.source() {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	lc := listener.Config{Tracker: c.tracker, Name: "zerocopy"}
	return lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// accepted returns an accepted connection and its plain client.
func (c *child) accepted(name string) (net.Conn, *net.TCPConn, error) {
	ln, err := c.listen()
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	conn, err := ln.Accept()
	if err != nil {
		return nil, nil, err
	}
	return conn, peer.(*net.TCPConn), c.note(name, conn.(syscall.Conn))
}

// dialed returns a dialed connection and its plain server.
func (c *child) dialed(name string) (conn, peer net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	d := dialer.Dialer{Tracker: c.tracker, Name: "zerocopy"}
	dial := d.Dial
	if !c.ends.destination() {
		dial = net.Dial
	}
	if conn, err = dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if peer, err = ln.Accept(); err != nil {
		return nil, nil, err
	}
	return conn, peer, c.note(name, conn.(syscall.Conn))
}

// note remembers a descriptor under a name.
func (c *child) note(name string, s syscall.Conn) error {
	return control(s, func(fd int) error {
		what, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		c.fds[name] = fmt.Sprintf("%d<%s>", fd, strings.TrimSuffix(what, " (deleted)"))
		return err
	})
}

func control(s any, f func(fd int) error) error {
	raw, err := s.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(cerr, err)
}

// until waits for cond, which no event tells of.
func until(cond func() (bool, error)) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok, err := cond(); ok || err != nil {
			return err
		}
	}
	return errors.New("waited too long")
}
