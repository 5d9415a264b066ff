// Package probetwins shows on a real path, between two network namespaces, which
// keepalive probes end a connection and that those of Watch.Probe do not. It has
// tests only.
package probetwins

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// network is two namespaces with a cable between.
type network struct {
	client, server string // namespaces
	address        string // of the server
}

var networks atomic.Int32

// newNetwork builds a network, or skips the test where that is not possible.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			impossible(t, err.Error())
		}
	}
	id := fmt.Sprintf("%d-%d", os.Getpid(), networks.Add(1))
	n := &network{client: "tsc" + id, server: "tss" + id, address: "192.0.2.2"}
	for i, ns := range []string{n.client, n.server} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			impossible(t, fmt.Sprintf("no network namespaces: %v: %s", err, out))
		}
		t.Cleanup(func() { run(t, "ip", "netns", "delete", ns) })
		if i == 1 {
			run(t, "ip", "-n", n.client, "link", "add", "v", "type", "veth", "peer", "name", "v", "netns", ns)
		}
	}
	for i, ns := range []string{n.client, n.server} {
		run(t, "ip", "-n", ns, "address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "v")
		run(t, "ip", "-n", ns, "link", "set", "v", "up")
	}
	return n
}

// impossible skips the test, and fails it where it is known to work.
func impossible(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("TCPSTATE_CI") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// connect returns the ends of a new connection through the cable.
func (n *network) connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	var ln *net.TCPListener
	in(t, n.server, func() (err error) {
		ln, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(n.address)})
		return err
	})
	defer ln.Close()
	in(t, n.client, func() (err error) {
		client, err = net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
		return err
	})
	t.Cleanup(func() { client.Close() })
	server, err := ln.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// in runs f with the sockets of a namespace. Its thread ends with it.
func in(t *testing.T, ns string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		handle, err := os.Open("/run/netns/" + ns)
		if err == nil {
			defer handle.Close()
			err = unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

// counter counts the segments that arrive for server.
func (n *network) counter(t *testing.T, server *net.TCPConn) (read func() int) {
	table := n.table(t, "count", server, "prerouting priority -300", "counter")
	packets := regexp.MustCompile(`counter packets (\d+)`)
	return func() int {
		found := packets.FindStringSubmatch(run(t, "ip", "netns", "exec", n.server, "nft", "list", "table", "inet", table))
		require.Len(t, found, 2)
		c, err := strconv.Atoi(found[1])
		require.NoError(t, err)
		return c
	}
}

// cut makes the path to server lose everything until heal is called.
func (n *network) cut(t *testing.T, server *net.TCPConn) (heal func()) {
	table := n.table(t, "cut", server, "input priority 0", "drop")
	return func() { run(t, "ip", "netns", "exec", n.server, "nft", "delete", "table", "inet", table) }
}

func (n *network) table(t *testing.T, what string, server *net.TCPConn, hook, verdict string) (name string) {
	t.Helper()
	port := server.LocalAddr().(*net.TCPAddr).Port
	name = fmt.Sprint(what, port)
	cmd := exec.Command("ip", "netns", "exec", n.server, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(
		"table inet %s {\n chain c {\n type filter hook %s;\n tcp dport %d %s\n }\n}\n", name, hook, port, verdict))
	out, err := cmd.CombinedOutput()
	if err != nil {
		impossible(t, fmt.Sprintf("nft: %v: %s", err, out))
	}
	return name
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
