package rows

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
)

// A copy is repeatable when everything that is to be copied is there before it
// begins, and fits into the buffers of one call.
const (
	pieceSize = 32 << 10
	pieces    = 8
)

// No such files: strace shows that somebody asked for them.
const (
	beginMark = "/tcpstate-bench-begin"
	endMark   = "/tcpstate-bench-end"
)

func init() {
	child.Register("proxy calls", func(args []string) error { return traced(args[0], (*watched).proxy) })
	child.Register("http file calls", func(args []string) error { return traced(args[0], (*watched).file) })
	child.Register("dial+close calls", func(args []string) error { return traced(args[0], lived(dialedLife)) })
	child.Register("accept+close calls", func(args []string) error { return traced(args[0], lived(acceptedLife)) })
}

// calls are how often something was called with success.
type calls map[string]int

func (c calls) total() (n int) {
	for _, k := range c {
		n += k
	}
	return n
}

// inKernel counts the calls whose bytes never come to Go, inGo all others.
func (c calls) inKernel() (n float64) {
	for name, k := range c {
		if byKernel(name) {
			n += float64(k)
		}
	}
	return n
}

func (c calls) inGo() float64 { return float64(c.total()) - c.inKernel() }

// unlike counts the calls that only one of both makes.
func (c calls) unlike(other calls) (n float64) {
	names := maps.Clone(c)
	maps.Copy(names, other)
	for name := range names {
		n += math.Abs(float64(c[name] - other[name]))
	}
	return n
}

// byKernel reports whether a call moves data without a look at it.
func byKernel(name string) bool {
	return slices.Contains([]string{"splice", "tee", "sendfile", "copy_file_range"}, name)
}

// beyond returns what c has more of than other.
func (c calls) beyond(other calls) calls {
	more := make(calls)
	for name, k := range c {
		if k > other[name] {
			more[name] = k - other[name]
		}
	}
	return more
}

func (c calls) String() string {
	var s []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		s = append(s, fmt.Sprintf("%d %s", c[name], name))
	}
	return strings.Join(s, ", ")
}

// tracing reports whether strace can be used, and says so if not. In CI that is
// an error: nobody would ever know.
func tracing(ctx context.Context, res *row.Result) (bool, error) {
	out, err := exec.CommandContext(ctx, "strace", "-f", "-o", os.DevNull, "true").CombinedOutput()
	if err == nil {
		return true, nil
	}
	err = fmt.Errorf("strace: %w %s", err, out)
	if os.Getenv("TCPSTATE_CI") == "1" {
		return false, err
	}
	res.Notef("System calls are not counted: %v", err)
	return false, nil
}

// Calls of interest, as strace -e takes them.
const (
	moving  = `trace=/^(splice|tee|sendfile.*|copy_file_range|(p?read|p?write)v?2?(64)?|(send|recv)m?msg|sendto|recvfrom|f?access(at2?)?)$`
	onConns = `trace=/^(socket|connect|accept4?|close|shutdown|(get|set)sockopt|getsockname|getpeername|ioctl|fcntl|epoll_ctl|f?access(at2?)?)$`
)

// countCalls runs a child under strace and counts its calls between the marks:
// those that move data, or where the child names no ends, all.
func countCalls(ctx context.Context, trace, program, column string) (calls, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "log")
	cmd := exec.CommandContext(ctx, "strace", "-f", "-y", "-o", log, "-e", "signal=none", "-s", "32", "-e", trace, self)
	child.Prepare(cmd, program+" calls", column)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w %s", program, column, err, stderr.String())
	}
	var e ends
	if err := json.Unmarshal(out, &e); err != nil {
		return nil, err
	}
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if e.From == nil && e.To == nil {
		return parseCalls(f, func(string, []string) bool { return true })
	}
	return parseCalls(f, e.moves)
}

// parseCalls reads what strace -f -y writes: "pid call(args) = result". A call that
// another thread interrupts is on two lines. Counted are the calls between the
// marks that succeed and are wanted.
func parseCalls(log io.Reader, wanted func(call string, args []string) bool) (calls, error) {
	made, begun := make(calls), make(map[string]string)
	counting, marks := false, 0
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		pid, text, ok := strings.Cut(lines.Text(), " ")
		text = strings.TrimSpace(text)
		if begin, unfinished := strings.CutSuffix(text, " <unfinished ...>"); unfinished {
			begun[pid] = begin
			continue
		}
		if _, rest, resumed := strings.Cut(text, " resumed>"); resumed && strings.HasPrefix(text, "<...") {
			text = begun[pid] + rest
		}
		if strings.Contains(text, beginMark) || strings.Contains(text, endMark) {
			counting = strings.Contains(text, beginMark)
			marks++
			continue
		}
		call, rest, isCall := strings.Cut(text, "(")
		at := strings.LastIndex(rest, ") ")
		if !ok || !isCall || !counting || at < 0 {
			continue
		}
		if _, result, _ := strings.Cut(rest[at:], "= "); strings.HasPrefix(result, "-") || strings.HasPrefix(result, "?") {
			continue // nothing to do yet
		}
		call = strings.TrimSuffix(call, "64")
		if wanted(call, strings.Split(rest[:at], ", ")) {
			made[call]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if marks == 0 || marks%2 != 0 || made.total() == 0 {
		return nil, fmt.Errorf("strace shows %d marks and %d calls", marks, made.total())
	}
	return made, nil
}

// ends are descriptors between which data is moved, as strace -y writes them,
// "7<what it is>": a descriptor of the tracker's own may get the number of a
// connection that was closed.
type ends struct{ From, To []string }

// moves reports whether a call moves data from or to e. What the kernel moves by
// itself, it moves for us: nobody else asks for that here.
func (e *ends) moves(call string, args []string) bool {
	switch {
	case byKernel(call):
		return true
	case strings.Contains(call, "read"), strings.Contains(call, "recv"):
		return slices.Contains(e.From, args[0])
	default:
		return slices.Contains(e.To, args[0])
	}
}

// watched is the child that strace watches.
type watched struct {
	way *ways.Way

	mu   sync.Mutex // guards following fields
	ends ends
}

// traced runs a copy and prints the descriptors.
func traced(column string, copy func(*watched, context.Context) error) error {
	ctx := context.Background()
	w, done, err := ways.Named(ctx, column)
	if err != nil {
		return err
	}
	defer done()
	c := &watched{way: w}
	if err := copy(c, ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return json.NewEncoder(os.Stdout).Encode(c.ends)
}

func (c *watched) between(f func() error) error {
	_ = unix.Access(beginMark, 0)
	err := f()
	_ = unix.Access(endMark, 0)
	return err
}

// proxy copies pieces that are there already, each to the end of its stream.
func (c *watched) proxy(ctx context.Context) error {
	sink, err := ways.Listen(ctx)
	if err != nil {
		return err
	}
	defer sink.Close()
	for range pieces {
		if err := c.onePiece(ctx, sink); err != nil {
			return err
		}
	}
	return nil
}

func (c *watched) onePiece(ctx context.Context, sink *net.TCPListener) error {
	l, err := ways.Listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	feeder, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer feeder.Close()
	src, err := c.way.Wrap(noting{l, c}).Accept()
	if err != nil {
		return err
	}
	defer src.Close()
	noted := c.ends.To[len(c.ends.To)-1]
	dst, err := c.way.Dial(ctx, "tcp", sink.Addr().String())
	if err != nil {
		return err
	}
	defer dst.Close()
	far, err := sink.AcceptTCP()
	if err != nil {
		return err
	}
	defer far.Close()
	if _, err := feeder.Write(make([]byte, pieceSize)); err != nil {
		return err
	}
	if err := feeder.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if err := arrived(noted); err != nil {
		return err
	}
	// Wrappers hide the descriptor, but the data can come from and go to nowhere
	// else.
	all, err := sockets()
	if err != nil {
		return err
	}
	c.ends.From, c.ends.To = append(c.ends.From, all...), append(c.ends.To, all...)
	return c.between(func() error {
		n, err := io.Copy(dst, src)
		if err == nil && n != pieceSize {
			err = fmt.Errorf("copied %d bytes", n)
		}
		return err
	})
}

// file serves a file that fits into one call, over a connection each. Reads of
// the connection are not counted: how often a server looks whether another
// request has come is up to the scheduler.
func (c *watched) file(ctx context.Context) error {
	f, err := os.CreateTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, pieceSize)); err != nil {
		return err
	}
	if err := c.from(f); err != nil {
		return err
	}
	l, err := ways.Listen(ctx)
	if err != nil {
		return err
	}
	// All at once, so that no client gets the number of a descriptor that the
	// server has closed.
	var clients []net.Conn
	for range pieces {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		clients = append(clients, conn)
	}
	go serveFile(c.way.Wrap(noting{l, c}), f)
	return c.between(func() error {
		for _, conn := range clients {
			if _, err := io.WriteString(conn, fileRequest); err != nil {
				return err
			}
			if n, err := drain(conn); err != nil || n < pieceSize {
				return fmt.Errorf("%d bytes came: %w", n, err)
			}
		}
		return nil
	})
}

// livesWatched is how many connections come and go while strace watches: what is done
// once for all of them is not much of each.
const livesWatched = 50

func lived(life func(context.Context, *ways.Way, *net.TCPListener) func() error) func(*watched, context.Context) error {
	return func(c *watched, ctx context.Context) error {
		l, err := ways.Listen(ctx)
		if err != nil {
			return err
		}
		defer l.Close()
		once := life(ctx, c.way, l)
		if err := once(); err != nil {
			return err
		}
		return c.between(func() error { return times(once)(livesWatched) })
	}
}

// from notes where data comes from.
func (c *watched) from(s syscall.Conn) error {
	fd, err := descriptor(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends.From = append(c.ends.From, fd)
	return err
}

// sockets returns the descriptors of this process that are sockets.
func sockets() ([]string, error) {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var fds []string
	for _, f := range all {
		if fd, _ := shown(f.Name()); strings.Contains(fd, "<socket:") {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// noting notes the descriptors of connections before anything is wrapped.
type noting struct {
	*net.TCPListener
	c *watched
}

func (l noting) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	fd, err := descriptor(conn)
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.c.ends.To = append(l.c.ends.To, fd)
	return conn, err
}

func descriptor(s syscall.Conn) (fd string, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return "", err
	}
	cerr := raw.Control(func(n uintptr) { fd, err = shown(fmt.Sprint(n)) })
	return fd, errors.Join(cerr, err)
}

// shown returns a descriptor of this process as strace -y writes it.
func shown(fd string) (string, error) {
	what, err := os.Readlink(filepath.Join("/proc/self/fd", fd))
	return fd + "<" + what + ">", err
}

// arrived waits until a piece and the end of the stream are there, which no
// event tells of.
func arrived(descriptor string) error {
	var fd int
	if _, err := fmt.Sscan(descriptor, &fd); err != nil {
		return err
	}
	const closeWait = 8 // include/net/tcp_states.h
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil {
			return err
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		if queued >= pieceSize && info.State == closeWait {
			return nil
		}
	}
	return errors.New("the piece does not arrive")
}
