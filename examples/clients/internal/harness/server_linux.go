package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Server is a server process of one test. It is killed when the test ends, and
// by the kernel when the test process dies.
type Server struct {
	dir  string // its files; belongs to its user
	port int
	spec spec

	process *process // nil: stopped
}

// spec is how a server is run.
type spec struct {
	binary string         // name or path
	args   []string       // without the binary
	env    []string       // on top of the test's
	user   string         // that it runs as when the test is root; empty: the test's
	quit   syscall.Signal // ends it in order
	ready  func(addr string) error
}

// need returns the path of a server's binary. Without one the test is skipped,
// or fails where all servers should be installed (TCPSTATE_CI=1).
func need(t testing.TB, binary, pkg string) string {
	t.Helper()
	candidates := []string{binary}
	if !filepath.IsAbs(binary) {
		candidates = append(candidates, "/usr/sbin/"+binary)
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	if os.Getenv("TCPSTATE_CI") == "1" {
		t.Fatalf("%s is not installed (Debian package %s)", binary, pkg)
	}
	skipped.Store(true)
	t.Skipf("%s is not installed (Debian package %s)", binary, pkg)
	panic("unreachable")
}

// newServer returns a server that does not run yet: a directory that belongs
// to user, and a free port.
func newServer(t testing.TB, user string) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir(), port: FreePort(t), spec: spec{user: user, quit: syscall.SIGTERM, ready: accepts}}
	if cred := s.credential(t); cred != nil {
		// Another user has to get there, and nobody else needs to look.
		require.NoError(t, os.Chmod(filepath.Dir(s.dir), 0o711))
		require.NoError(t, os.Chown(s.dir, int(cred.Uid), int(cred.Gid)))
	}
	require.NoError(t, os.Chmod(s.dir, 0o700))
	return s
}

// ports is how many ports FreePort has tried.
var ports atomic.Int32

// FreePort returns a loopback port for a server of the test, below those that
// the kernel gives to clients. Nobody else gets it until the test ends, be it in
// this process or in another, also while the server is restarted.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10_000 + (os.Getpid()*100+int(ports.Add(1)))%20_000
		if reserve(t, port) {
			return port
		}
	}
	t.Fatal("no free port")
	panic("unreachable")
}

// reserve binds a socket to port, or reports false where there is one already.
// With SO_REUSEADDR, which servers set, another one may then listen there.
func reserve(t testing.TB, port int) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		require.NoError(t, unix.Close(fd))
		return false
	}
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	return true
}

// credential returns the identity of the server's user, nil where that is the
// test's.
func (s *Server) credential(t testing.TB) *syscall.Credential {
	t.Helper()
	if s.spec.user == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(s.spec.user)
	require.NoError(t, err)
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	require.NoError(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// file writes a file into the server's directory and returns its path.
func (s *Server) file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	if cred := s.credential(t); cred != nil {
		require.NoError(t, os.Chown(path, int(cred.Uid), int(cred.Gid)))
	}
	return path
}

// run runs a command to its end, as the server's user.
func (s *Server) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), s.spec.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential(t), Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is sent when the thread dies
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
}

// template makes the server's directory "data" a copy of what install has made
// of it for the first server called name.
func (s *Server) template(t testing.TB, name string, install func(data string)) string {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	templates.Lock()
	defer templates.Unlock()
	dir, ok := templates.dirs[name]
	if !ok {
		install(data)
		data, dir = newTemplate(t, name), data // copied the other way round
	}
	out, err := exec.CommandContext(t.Context(), "cp", "-a", dir+"/.", data).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return filepath.Join(s.dir, "data")
}

// Addr returns the address of the server, "127.0.0.1:port". It stays when the
// server is restarted.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port returns its port.
func (s *Server) Port() int { return s.port }

// Start starts the server and waits until it accepts connections.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	require.Nil(t, s.process, "the server runs already")
	p := start(&s.spec, s.dir, s.credential(t))
	s.process = p
	t.Cleanup(func() { p.kill() })
	WaitUntil(t, s.spec.binary+" to start", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("%s ended: %v\n%s", s.spec.binary, p.err, p.output())
		default:
		}
		return s.spec.ready(s.Addr()) == nil
	})
}

// Stop ends the server in order: it closes its connections. What it takes
// longer than ten seconds for, it does not do.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	require.NotNil(t, s.process, "the server does not run")
	s.process.end(s.spec.quit)
	s.process = nil
}

// Kill ends the server at once, as a crash.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	require.NotNil(t, s.process, "the server does not run")
	s.process.kill()
	s.process = nil
}

// Restart is Stop and Start.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Start(t)
}

// Log returns what the server has written since it was last started.
func (s *Server) Log() string {
	if s.process == nil {
		return ""
	}
	return s.process.output()
}

// process is a running server with its group.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when err is set
	err   error

	mu  sync.Mutex // guards following fields
	out bytes.Buffer
}

// start starts a process. The thread that does it lives until the process has
// ended, because Pdeathsig is sent when that thread dies, see prctl(2).
func start(sp *spec, dir string, cred *syscall.Credential) *process {
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.Command(sp.binary, sp.args...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), sp.env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second // children may hold the pipe
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		p.err = p.cmd.Start()
		close(started)
		if p.err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	<-started
	return p
}

// Write keeps what the process writes, up to a megabyte.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Len() < 1<<20 {
		p.out.Write(b)
	}
	return len(b), nil
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// end asks the process to end, then kills what is left of its group.
func (p *process) end(quit syscall.Signal) {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(quit) // has ended already
		select {
		case <-p.ended:
		case <-time.After(10 * time.Second):
		}
	}
	p.kill()
}

func (p *process) kill() {
	if p.cmd.Process != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // none is left
	}
	<-p.ended
}

// accepts reports whether somebody accepts connections.
func accepts(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// speaks returns a check that sends a request and wants an answer that begins
// with first.
func speaks(request string, first byte) func(addr string) error {
	return func(addr string) error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte(request)); err != nil {
			return err
		}
		var got [1]byte
		if _, err := c.Read(got[:]); err != nil {
			return err
		}
		if got[0] != first {
			return fmt.Errorf("the answer begins with %q", got[0])
		}
		return nil
	}
}
