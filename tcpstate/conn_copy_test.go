package tcpstate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// A kind of connection end for the copies below.
type endKind string

const (
	plainEnd   endKind = "plain"
	trackedEnd endKind = "tracked"
	offEnd     endKind = "wrapped, not tracked"
)

// endMaker makes wrapped ends.
type endMaker struct{ on, off *tcpstate.Tracker }

func newEndMaker(t *testing.T) endMaker {
	m := endMaker{on: leaktest.Tracker(t), off: leaktest.Tracker(t)}
	require.NoError(t, m.off.Set(func(c *tcpstate.Config) { c.Off = true }))
	return m
}

func (m endMaker) wrap(kind endKind, c *net.TCPConn) tcpConn {
	switch kind {
	case trackedEnd:
		return m.on.Track(c, tcpstate.Origin{Role: tcpstate.Server})
	case offEnd:
		return m.off.Track(c, tcpstate.Origin{Role: tcpstate.Server})
	}
	return c
}

// payloadSize fits into the buffers of every platform.
const payloadSize = 40_000

var payload = func() []byte {
	b := make([]byte, payloadSize)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}()

// copies are the ways to copy; limit is that of a CopyN or a LimitedReader.
// They return what the caller sees, with the remaining N of the LimitedReader.
var copies = map[string]func(dst io.Writer, src io.Reader, limit int64) (n, left int64, err error){
	"Copy": func(dst io.Writer, src io.Reader, limit int64) (int64, int64, error) {
		n, err := io.Copy(dst, src)
		return n, 0, err
	},
	"CopyN": func(dst io.Writer, src io.Reader, limit int64) (int64, int64, error) {
		n, err := io.CopyN(dst, src, limit)
		return n, 0, err
	},
	"Copy of a LimitedReader": func(dst io.Writer, src io.Reader, limit int64) (int64, int64, error) {
		lr := &io.LimitedReader{R: src, N: limit}
		n, err := io.Copy(dst, lr)
		return n, lr.N, err
	},
	"Copy of a LimitedReader in another": func(dst io.Writer, src io.Reader, limit int64) (int64, int64, error) {
		lr := &io.LimitedReader{R: io.LimitReader(src, limit), N: limit + 1}
		n, err := io.Copy(dst, lr)
		return n, lr.N, err
	},
	"ReadFrom": func(dst io.Writer, src io.Reader, limit int64) (int64, int64, error) {
		rf, ok := dst.(io.ReaderFrom)
		if !ok {
			return 0, 0, nil
		}
		n, err := rf.ReadFrom(src)
		return n, 0, err
	},
}

// limits for payloadSize bytes and the end of the stream after them.
var limits = map[string]int64{
	"nothing": 0, "negative": -1, "less": payloadSize / 3, "exactly": payloadSize, "more": payloadSize + 7,
}

// sources put payload into a connection, or bring it into a state.
var sources = map[string]func(t *testing.T, c tcpConn, peer *net.TCPConn){
	"ends": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		send(t, peer)
		require.NoError(t, peer.CloseWrite())
	},
	"reset after": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		send(t, peer)
		tcptest.Reset(t, peer)
		tcptest.WaitState(t, c, tcptest.Closed)
	},
	"deadline after": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		send(t, peer)
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
	},
	"closed": func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, c.Close()) },
}

var destinations = map[string]func(t *testing.T, c tcpConn, peer *net.TCPConn){
	"open":   func(t *testing.T, c tcpConn, peer *net.TCPConn) {},
	"closed": func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, c.Close()) },
	"shut":   func(t *testing.T, c tcpConn, peer *net.TCPConn) { require.NoError(t, c.CloseWrite()) },
	"reset": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		tcptest.Reset(t, peer)
		tcptest.WaitState(t, c, tcptest.Closed)
	},
	"deadline": func(t *testing.T, c tcpConn, peer *net.TCPConn) {
		require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
	},
}

func send(t *testing.T, c *net.TCPConn) {
	n, err := c.Write(payload)
	require.NoError(t, err)
	require.Equal(t, payloadSize, n)
}

// drain returns a function that waits for everything that arrives at c.
func drain(c io.Reader) func() string {
	got := make(chan string, 1)
	go func() {
		b, err := io.ReadAll(c)
		got <- content(b) + describe(err)
	}()
	return func() string { return <-got }
}

// content describes what was copied, briefly.
func content(b []byte) string {
	if bytes.HasPrefix(payload, b) {
		return fmt.Sprintf("%d bytes ", len(b))
	}
	return fmt.Sprintf("%d WRONG bytes ", len(b))
}

// describe is an error as a caller can tell it: the types on the way down and
// what it is in the end.
func describe(err error) string {
	if err == nil {
		return "nil"
	}
	var b strings.Builder
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e := e.(type) {
		case *net.OpError:
			fmt.Fprintf(&b, "%T(%s %s) ", e, e.Op, e.Net)
		case *os.SyscallError:
			fmt.Fprintf(&b, "%T(%s) ", e, e.Syscall)
		case *os.PathError:
			fmt.Fprintf(&b, "%T(%s) ", e, e.Op)
		default:
			fmt.Fprintf(&b, "%T(%v) ", e, e)
		}
	}
	return b.String()
}

// reason is what remains of an error when the way to it is left out.
func reason(err error) string {
	for err != nil && errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return fmt.Sprint(err)
}

// outcome is what one copy did.
type outcome struct {
	n, left     int64
	err, reason string
	dst         string // what arrived
	rest        string // what is still to be read from the source
}

func (m endMaker) copyBetweenConns(t *testing.T, srcKind, dstKind endKind, source, destination, way string, limit int64) (o outcome) {
	in, feeder := tcptest.Pair(t)
	out, sink := tcptest.Pair(t)
	src, dst := m.wrap(srcKind, in), m.wrap(dstKind, out)
	sources[source](t, src, feeder)
	destinations[destination](t, dst, sink)
	arrived := drain(sink)
	var err error
	o.n, o.left, err = copies[way](dst, src, limit)
	o.err, o.reason = describe(err), reason(err)
	dst.Close()
	o.dst = arrived()
	feeder.CloseWrite()
	src.SetReadDeadline(time.Now().Add(tcptest.Deadline))
	o.rest = drain(src)()
	src.Close()
	return o
}

// TestCopiesBetweenConnsEqualPlainOnes runs each way to copy between two plain
// connections and between wrapped ones.
func TestCopiesBetweenConnsEqualPlainOnes(t *testing.T) {
	m := newEndMaker(t)
	each := func(t *testing.T, source, destination, way string, limit int64) {
		want := m.copyBetweenConns(t, plainEnd, plainEnd, source, destination, way, limit)
		for _, kinds := range [][2]endKind{{trackedEnd, trackedEnd}, {offEnd, offEnd}, {trackedEnd, offEnd}, {plainEnd, trackedEnd}} {
			got := m.copyBetweenConns(t, kinds[0], kinds[1], source, destination, way, limit)
			assert.Equal(t, want, got, "from %s to %s", kinds[0], kinds[1])
		}
		// net does not splice from a type it does not know, so an error has
		// another name, and user space may hold a buffer when a write fails.
		got := m.copyBetweenConns(t, trackedEnd, plainEnd, source, destination, way, limit)
		assert.Equal(t, want.reason, got.reason, "from tracked to plain")
		if destination == "open" {
			got.err, got.reason = want.err, want.reason
			assert.Equal(t, want, got, "from tracked to plain")
		}
	}
	for way := range copies {
		for source := range sources {
			t.Run(way+"/"+source, func(t *testing.T) { each(t, source, "open", way, 2*payloadSize) })
		}
		for destination := range destinations {
			t.Run(way+"/into/"+destination, func(t *testing.T) { each(t, "ends", destination, way, 2*payloadSize) })
		}
		if way == "Copy" || way == "ReadFrom" {
			continue
		}
		for name, limit := range limits {
			t.Run(way+"/limit/"+name, func(t *testing.T) { each(t, "ends", "open", way, limit) })
		}
	}
}

// TestCopiesWithFilesEqualPlainOnes copies between a connection and what is no
// TCP connection, in both directions.
func TestCopiesWithFilesEqualPlainOnes(t *testing.T) {
	m := newEndMaker(t)
	dir := t.TempDir()
	kinds := []endKind{trackedEnd, offEnd}

	into := map[string]func(t *testing.T) (w io.Writer, arrived func() string){
		"file": func(t *testing.T) (io.Writer, func() string) {
			f, err := os.Create(filepath.Join(dir, "into"))
			require.NoError(t, err)
			return f, func() string {
				require.NoError(t, f.Close())
				b, err := os.ReadFile(f.Name())
				require.NoError(t, err)
				return content(b)
			}
		},
		"appending file": func(t *testing.T) (io.Writer, func() string) {
			f, err := os.OpenFile(filepath.Join(t.TempDir(), "appended"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			require.NoError(t, err)
			return f, func() string {
				require.NoError(t, f.Close())
				b, err := os.ReadFile(f.Name())
				require.NoError(t, err)
				return content(b)
			}
		},
		"closed file": func(t *testing.T) (io.Writer, func() string) {
			f, err := os.Create(filepath.Join(dir, "closed"))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			return f, func() string { return "" }
		},
		"unix": func(t *testing.T) (io.Writer, func() string) {
			c, peer := unixPair(t)
			arrived := drain(peer)
			return c, func() string { c.Close(); return arrived() }
		},
		"buffer": func(t *testing.T) (io.Writer, func() string) {
			b := new(bytes.Buffer)
			return b, func() string { return content(b.Bytes()) }
		},
		"failing writer": func(t *testing.T) (io.Writer, func() string) {
			return writerFunc(func(b []byte) (int, error) { return len(b) / 2, io.ErrShortWrite }), func() string { return "" }
		},
	}
	for way := range copies {
		for name, open := range into {
			for limitName, limit := range limits {
				t.Run(way+"/to/"+name+"/"+limitName, func(t *testing.T) {
					run := func(kind endKind) (o outcome) {
						c, peer := tcptest.Pair(t)
						src := m.wrap(kind, c)
						defer src.Close()
						sources["ends"](t, src, peer)
						w, arrived := open(t)
						var err error
						o.n, o.left, err = copies[way](w, src, limit)
						o.err, o.reason = describe(err), reason(err)
						o.dst, o.rest = arrived(), drain(src)()
						return o
					}
					want := run(plainEnd)
					for _, kind := range kinds {
						assert.Equal(t, want, run(kind), kind)
					}
				})
			}
		}
	}

	from := map[string]func(t *testing.T) io.Reader{
		"file": func(t *testing.T) io.Reader {
			name := filepath.Join(dir, "from")
			require.NoError(t, os.WriteFile(name, payload, 0o600))
			f, err := os.Open(name)
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
			return f
		},
		"unix": func(t *testing.T) io.Reader {
			c, peer := unixPair(t)
			go func() { peer.Write(payload); peer.Close() }()
			return c
		},
		"buffer": func(*testing.T) io.Reader { return bytes.NewBuffer(bytes.Clone(payload)) },
		"reader": func(*testing.T) io.Reader { return struct{ io.Reader }{bytes.NewReader(payload)} },
		"failing reader": func(*testing.T) io.Reader {
			return io.MultiReader(bytes.NewReader(payload), readerFunc(func([]byte) (int, error) { return 0, io.ErrNoProgress }))
		},
	}
	for way := range copies {
		for name, open := range from {
			for limitName, limit := range limits {
				t.Run(way+"/from/"+name+"/"+limitName, func(t *testing.T) {
					run := func(kind endKind) (o outcome) {
						c, peer := tcptest.Pair(t)
						dst := m.wrap(kind, c)
						arrived := drain(peer)
						src := open(t)
						var err error
						o.n, o.left, err = copies[way](dst, src, limit)
						o.err, o.reason = describe(err), reason(err)
						dst.Close()
						o.dst, o.rest = arrived(), drainFrom(src)
						return o
					}
					want := run(plainEnd)
					for _, kind := range kinds {
						assert.Equal(t, want, run(kind), kind)
					}
				})
			}
		}
	}
}

// drainFrom counts what is left in a source.
func drainFrom(r io.Reader) string {
	n, err := io.Copy(io.Discard, r)
	return fmt.Sprint(n, describe(err))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// unixPair returns the two ends of a unix stream connection.
func unixPair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcpstate") // t.TempDir may be too long a path
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skipf("no unix sockets: %v", err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.UnixConn), s.(*net.UnixConn)
}

func TestBuffersAreWrittenWhole(t *testing.T) {
	m := newEndMaker(t)
	run := func(kind endKind, closed bool) string {
		c, peer := tcptest.Pair(t)
		dst := m.wrap(kind, c)
		arrived := drain(peer)
		if closed {
			dst.Close()
		}
		bufs := net.Buffers{payload[:10], nil, payload[10:5000], payload[5000:]}
		n, err := bufs.WriteTo(dst)
		dst.Close()
		return fmt.Sprint(n, describe(err), len(bufs), arrived())
	}
	for _, closed := range []bool{false, true} {
		want := run(plainEnd, closed)
		assert.Equal(t, want, run(trackedEnd, closed))
		assert.Equal(t, want, run(offEnd, closed))
	}
}

func TestCopyFromNothingReturnsEINVAL(t *testing.T) {
	tr := leaktest.Tracker(t)
	inner, _ := tcptest.Pair(t)
	dst, none := tr.Track(inner, tcpstate.Origin{}), tr.Track(nil, tcpstate.Origin{})
	defer dst.Close()
	for way, copy := range copies {
		_, _, err := copy(dst, none, 5)
		assert.ErrorIs(t, err, syscall.EINVAL, "from nothing, %s", way)
		_, _, err = copy(none, strings.NewReader("payload"), 5)
		assert.ErrorIs(t, err, syscall.EINVAL, "into nothing, %s", way)
	}
}
