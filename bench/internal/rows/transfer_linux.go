package rows

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/child"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
)

// Large transfers: a process of its own moves the bytes, so that its processor
// time is known, and this one is at both ends. Calls are counted by strace in
// another run, of a size that always takes the same number of them.

func init() {
	child.Register("proxy", func(args []string) error { return serveTransfers(args, proxy) })
	child.Register("http file", func(args []string) error { return serveTransfers(args, files) })
}

// transferColumns are the columns of transfers. Spans are made at Close, so that
// they do not matter.
var transferColumns = []string{row.Plain, row.Tracker, row.Metrics, "conntrack", "storj"}

// proxyCopy is a proxy: io.Copy from one connection to another.
func proxyCopy(ctx context.Context, e *row.Env) (row.Result, error) {
	sink, err := newSink(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer sink.l.Close()
	return transfers(ctx, e, "proxy", sink.l.Addr().String(), func(address string, size int64) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		piece := make([]byte, 256<<10)
		for left := size; left > 0; left -= int64(len(piece)) {
			if _, err := c.Write(piece[:min(left, int64(len(piece)))]); err != nil {
				return err
			}
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		return sink.took(ctx, size)
	})
}

// httpFile serves a file by http.ServeContent.
func httpFile(ctx context.Context, e *row.Env) (row.Result, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return row.Result{}, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "f.bin")
	if err := os.WriteFile(name, make([]byte, transferSize(e)), 0o600); err != nil {
		return row.Result{}, err
	}
	return transfers(ctx, e, "http file", name, func(address string, size int64) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, fileRequest); err != nil {
			return err
		}
		n, err := drain(c)
		if err == nil && n < size {
			err = fmt.Errorf("%d bytes of %d", n, size)
		}
		return err
	})
}

const fileRequest = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

func transferSize(e *row.Env) int64 { return row.Pick[int64](e, 1<<20, 64<<20, 256<<20) }

// transfers compares processor time per GB, and counts calls.
func transfers(ctx context.Context, e *row.Env, program, arg string, transfer func(address string, size int64) error) (row.Result, error) {
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.close()
		}
	}()
	for _, column := range transferColumns {
		s, err := startServer(ctx, program, column, arg)
		if err != nil {
			return row.Result{}, err
		}
		servers = append(servers, s)
	}
	size := transferSize(e)
	cpu := make([][]float64, len(servers)) // ns per GB
	rounds := row.Pick(e, 1, 5, 15)
	for r := range rounds {
		for k := range servers {
			i := (r + k) % len(servers)
			ns, err := servers[i].measure(func() error { return transfer(servers[i].address, size) })
			if err != nil {
				return row.Result{}, fmt.Errorf("%s: %w", transferColumns[i], err)
			}
			perGB := ns / float64(size) * 1e9
			cpu[i] = append(cpu[i], perGB)
			e.Raw.Batch(program, transferColumns[i], 1, row.Value{V: perGB, Unit: "cpu-ns/GB"})
		}
	}
	var res row.Result
	for i, column := range transferColumns {
		d := make([]float64, rounds)
		for r := range d {
			if d[r] = cpu[i][r]; i > 0 {
				d[r] -= cpu[0][r]
			}
		}
		dist := pairs.DistOf(d)
		res.Add(row.Cell{Of: "cpu per GB", Column: column, Value: dist.Median, Spread: dist.Error, Unit: row.Nanoseconds, More: i > 0})
	}
	return res, addCalls(ctx, &res, program)
}

// server is a child that moves bytes.
type server struct {
	cmd     *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Scanner
	address string
}

func startServer(ctx context.Context, program, column, arg string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.CommandContext(ctx, self)}
	child.Prepare(s.cmd, program, column, arg)
	s.cmd.Stderr = os.Stderr
	if s.ask, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.answers = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if !s.answers.Scan() {
		s.close()
		return nil, fmt.Errorf("%s %s does not start", program, column)
	}
	s.address = s.answers.Text()
	return s, nil
}

// measure returns the processor time that the child used during f, in ns.
func (s *server) measure(f func() error) (float64, error) {
	before, err := s.used()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := s.used()
	return after - before, err
}

func (s *server) used() (float64, error) {
	if _, err := io.WriteString(s.ask, "\n"); err != nil {
		return 0, err
	}
	if !s.answers.Scan() {
		return 0, errors.New("no answer")
	}
	return strconv.ParseFloat(s.answers.Text(), 64)
}

// close ends the child, which waits for the end of its input.
func (s *server) close() {
	s.ask.Close()
	_ = s.cmd.Wait()
}

// serveTransfers is the child: it prints its address, and then for each line of
// input its processor time.
func serveTransfers(args []string, serve func(ctx context.Context, w *ways.Way, l net.Listener, arg string) error) error {
	ctx := context.Background()
	w, done, err := ways.Named(ctx, args[0])
	if err != nil {
		return err
	}
	defer done()
	l, err := ways.Listen(ctx)
	if err != nil {
		return err
	}
	go serve(ctx, w, w.Wrap(l), args[1])
	fmt.Println(l.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var use unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
			return err
		}
		fmt.Println(use.Utime.Nano() + use.Stime.Nano())
	}
	return nil
}

// proxy passes on what comes, one connection after the other.
func proxy(ctx context.Context, w *ways.Way, l net.Listener, upstream string) error {
	for {
		down, err := l.Accept()
		if err != nil {
			return err
		}
		up, err := w.Dial(ctx, "tcp", upstream)
		if err != nil {
			return err
		}
		if _, err = io.Copy(up, down); err != nil {
			fmt.Fprintln(os.Stderr, "proxy:", err)
		}
		up.Close()
		down.Close()
	}
}

// files serves one file.
func files(_ context.Context, _ *ways.Way, l net.Listener, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return serveFile(l, f)
}

func serveFile(l net.Listener, f *os.File) error {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream") // nobody has to look what it is
		http.ServeContent(w, r, "", time.Time{}, f)
	})}
	return srv.Serve(l)
}

// sink takes what a proxy passes on.
type sink struct {
	l     *net.TCPListener
	taken chan int64 // by connection
}

func newSink(ctx context.Context) (*sink, error) {
	l, err := ways.Listen(ctx)
	if err != nil {
		return nil, err
	}
	s := &sink{l, make(chan int64, 1)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := drain(c) // too few bytes tell
			c.Close()
			s.taken <- n
		}
	}()
	return s, nil
}

func (s *sink) took(ctx context.Context, size int64) error {
	select {
	case n := <-s.taken:
		if n != size {
			return fmt.Errorf("%d bytes of %d came through", n, size)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return errors.New("the end does not come through")
	}
}

// drain reads to the end.
func drain(c net.Conn) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
}

// addCalls adds how the data is moved.
func addCalls(ctx context.Context, res *row.Result, program string) error {
	if ok, err := tracing(ctx, res); !ok {
		return err
	}
	var plain calls
	for i, column := range transferColumns {
		c, err := countCalls(ctx, moving, program, column)
		if err != nil {
			return err
		}
		if i == 0 {
			plain = c
			res.Notef("%s: %v for %d pieces of %d kB.", column, c, pieces, pieceSize>>10)
		}
		res.Add(row.Cell{Of: "in kernel", Column: column, Value: c.inKernel() - less(i, plain.inKernel()), More: i > 0, Unit: "calls"},
			row.Cell{Of: "in Go", Column: column, Value: c.inGo() - less(i, plain.inGo()), More: i > 0, Unit: "calls"})
		if column == row.Metrics {
			res.Check(budget.Calls, c.unlike(plain), 0)
		}
	}
	return nil
}

// less is what is taken off a column: nothing off the first.
func less(column int, plain float64) float64 {
	if column == 0 {
		return 0
	}
	return plain
}
