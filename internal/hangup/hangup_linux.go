package hangup

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Table is memory shared with the server: by the port of the client, when the
// server has closed the connection, as Now says. Zero: it has not.
type Table [1 << 16]atomic.Int64

// of returns the entry of the connection with this address at the client.
func (t *Table) of(client net.Addr) *atomic.Int64 { return &t[client.(*net.TCPAddr).Port] }

func mapTable(f *os.File) (*Table, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(Table{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*Table)(unsafe.Pointer(&b[0])), nil
}

// tableFD is the descriptor by which the server gets the table.
const tableFD = 3

// child makes a program the server.
const child = "TCPSTATE_HANGUP"

// Main is called first by programs that start a Server. In the process that is
// the server it does not return.
func Main() {
	if os.Getenv(child) == "" {
		return
	}
	err := serve(os.NewFile(tableFD, "table"))
	fmt.Fprintln(os.Stderr, "hangup:", err)
	os.Exit(1)
}

// serve answers connections and closes each after 5 to 100 ms. It greets, so
// that the client knows that its entry in the table is a new one.
func serve(f *os.File) error {
	table, err := mapTable(f)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		at := table.of(c.RemoteAddr())
		at.Store(0)
		c.Write([]byte{'!'})
		go answer(c)
		time.AfterFunc(time.Duration(5+rand.IntN(95))*time.Millisecond, func() {
			c.Close()
			at.Store(Now())
		})
	}
}

// answer speaks as much of the Redis protocol as a PING takes.
func answer(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		var n int
		if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
			return
		}
		reply := "-ERR unknown command\r\n"
		for i := range n {
			var size int
			if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
				return
			}
			b := make([]byte, size+2)
			if _, err := io.ReadFull(r, b); err != nil {
				return
			}
			if i == 0 && strings.EqualFold(string(b[:size]), "ping") {
				reply = "+PONG\r\n"
			}
		}
		io.WriteString(c, reply)
	}
}

// Server is the server as its clients know it.
type Server struct {
	Addr  string
	Table *Table

	cmd  *exec.Cmd
	in   io.Closer
	stop sync.Once
}

// Start runs this program once more, as the server.
func Start() (*Server, error) {
	f, err := os.CreateTemp("", "hangup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	os.Remove(f.Name())
	if err := f.Truncate(int64(unsafe.Sizeof(Table{}))); err != nil {
		return nil, err
	}
	s := new(Server)
	if s.Table, err = mapTable(f); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), child+"=1")
	s.cmd.Stderr = os.Stderr
	s.cmd.ExtraFiles = []*os.File{f}
	s.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.in = out
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("no word from the server: %w", err)
	}
	s.Addr = strings.TrimSpace(line)
	return s, nil
}

// Stop ends the server. It may be called more than once.
func (s *Server) Stop() { s.stop.Do(s.end) }

func (s *Server) end() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.in.Close()
	unix.Munmap((*[unsafe.Sizeof(Table{})]byte)(unsafe.Pointer(s.Table))[:])
}
