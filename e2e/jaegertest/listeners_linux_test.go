package jaegertest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/e2e/jaegertest"
)

// TestEverySocketIsOnLoopback reads from the kernel what Jaeger listens on, so
// that a listener which Start does not know of cannot go unseen.
func TestEverySocketIsOnLoopback(t *testing.T) {
	jaeger := jaegertest.Start(t)
	sockets := socketInodes(t, jaeger.Pid())

	var tcp, udp int
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", jaeger.Pid(), table))
		if os.IsNotExist(err) {
			continue // no IPv6 here
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			// sl local_address rem_address st … inode, see proc_net_tcp(5).
			field := strings.Fields(line)
			if len(field) < 10 || !sockets[field[9]] {
				continue
			}
			const listen, unconnected = "0A", "07"
			switch {
			case strings.HasPrefix(table, "tcp") && field[3] == listen:
				tcp++
			case strings.HasPrefix(table, "udp") && field[3] == unconnected:
				udp++
			}
			// 127.0.0.1 in the byte order of the machine.
			if address, _, _ := strings.Cut(field[1], ":"); address != "0100007F" && address != "7F000001" {
				t.Errorf("%s: a socket on %s in state %s, want only 127.0.0.1", table, field[1], field[3])
			}
		}
	}
	// Admin, query ×2, OTLP ×2, collector ×2 and the agent's HTTP; the agent's three.
	if tcp != 8 || udp != 3 {
		t.Errorf("got %d TCP and %d UDP listeners, want 8 and 3", tcp, udp)
	}
}

// socketInodes returns the inode numbers of the sockets that a process has open.
func socketInodes(t *testing.T, pid int) map[string]bool {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	inodes := make(map[string]bool)
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}
