package netlab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The addresses of the lab.
const (
	AddrA  = "192.0.2.2"
	AddrRA = "192.0.2.1" // the router, as seen by A
	AddrRB = "198.51.100.1"
	AddrB  = "198.51.100.2"
	// AddrVIP is routed by R to B, which does not have it and drops silently
	// what comes for it: an address that works only once R rewrites it.
	AddrVIP = "203.0.113.10"
)

// Deadline is how long the lab waits for a fact of the kernel or of a tracker.
const Deadline = 30 * time.Second

// Lab is two hosts and the router between them.
type Lab struct {
	A, B, R *Host
	t       testing.TB
}

// New builds a lab that ends with the test. It skips the test, with the reason,
// where namespaces cannot be made; in CI (TCPSTATE_CI is set) a tool that is
// missing is a failure.
func New(t testing.TB) *Lab {
	t.Helper()
	need(t)
	l := &Lab{t: t}
	l.A, l.B, l.R = newHost(t, "A", "a0"), newHost(t, "B", "b0"), newHost(t, "R", "")
	l.R.IP(fmt.Sprintf("link add ra type veth peer name a0 netns %d", l.A.pid()),
		fmt.Sprintf("link add rb type veth peer name b0 netns %d", l.B.pid()),
		"addr add "+AddrRA+"/24 dev ra", "addr add "+AddrRB+"/24 dev rb",
		"link set ra up", "link set rb up",
		"route add "+AddrVIP+" via "+AddrB)
	l.A.IP("addr add "+AddrA+"/24 dev a0", "link set a0 up", "route add default via "+AddrRA)
	l.B.IP("addr add "+AddrB+"/24 dev b0", "link set b0 up", "route add default via "+AddrRB)
	l.R.Sysctl("net/ipv4/ip_forward", "1")
	return l
}

func need(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"unshare", "nsenter", "ip", "ss", "nft", "conntrack"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("TCPSTATE_CI") != "" {
				t.Fatalf("%s is missing; .ci/run installs it", tool)
			}
			t.Skip(tool + " is not installed")
		}
	}
	if out, err := exec.Command("unshare", "--net", "true").CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made here: %v: %s", err, out)
	}
}

// Host is a network namespace.
type Host struct {
	name   string
	device string // its link to the router
	t      testing.TB
	holder *exec.Cmd // lives in the namespace, which ends with it
}

const filterTable = `table inet lab {
	chain input { type filter hook input priority 0; }
	chain output { type filter hook output priority 0; }
	chain forward { type filter hook forward priority 0; }
}`

func newHost(t testing.TB, name, device string) *Host {
	t.Helper()
	h := &Host{name: name, device: device, t: t}
	h.holder = exec.Command("unshare", "--net", "sh", "-c", "echo ready; exec cat >/dev/null")
	stdin, err := h.holder.StdinPipe()
	must(t, err)
	stdout, err := h.holder.StdoutPipe()
	must(t, err)
	must(t, h.holder.Start())
	t.Cleanup(func() {
		stdin.Close()
		h.holder.Wait()
	})
	// Once it has spoken, it is in the namespace.
	_, err = io.ReadFull(stdout, make([]byte, len("ready\n")))
	must(t, err)
	h.IP("link set lo up")
	h.NFT(filterTable)
	return h
}

func (h *Host) pid() int { return h.holder.Process.Pid }

// command returns a command that runs in the namespace.
func (h *Host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", h.pid()), "--", name}, args...)...)
}

// run runs a command in the namespace and returns what it printed.
func (h *Host) run(stdin, name string, args ...string) string {
	h.t.Helper()
	cmd := h.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("netlab: on %s: %s %s: %v: %s%s\n%s", h.name, name, strings.Join(args, " "), err, &out, &errs, stdin)
	}
	return out.String()
}

// Run runs a command on the host and returns what it printed.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	return h.run("", name, args...)
}

// IP runs commands of ip(8).
func (h *Host) IP(commands ...string) {
	h.t.Helper()
	h.run(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
}

// NFT runs a script of nft(8).
func (h *Host) NFT(script string) {
	h.t.Helper()
	h.run(script, "nft", "-f", "-")
}

var handleRE = regexp.MustCompile(`# handle (\d+)`)

// Rule adds a rule to the chain input, output or forward, and returns what
// removes it.
func (h *Host) Rule(chain, rule string) (remove func()) {
	h.t.Helper()
	out := h.Run("nft", "--echo", "--handle", "add rule inet lab "+chain+" "+rule)
	m := handleRE.FindStringSubmatch(out)
	if m == nil {
		h.t.Fatalf("netlab: nft did not tell the handle of the rule: %q", out)
	}
	return func() {
		h.t.Helper()
		h.Run("nft", "delete rule inet lab "+chain+" handle "+m[1])
	}
}

// Drop drops silently what matches, and returns what heals it. An empty match
// is everything.
func (h *Host) Drop(chain, match string) (heal func()) {
	h.t.Helper()
	return h.Rule(chain, match+" counter drop")
}

// DropFirst drops what matches until so many bytes of IP packets would be
// exceeded: 100 is one SYN, FIN or keepalive probe.
func (h *Host) DropFirst(chain, match string, bytes int) {
	h.t.Helper()
	h.Rule(chain, fmt.Sprintf("%s quota until %d bytes counter drop", match, bytes))
}

// Dropped returns how many packets the rules of chain have dropped.
func (h *Host) Dropped(chain string) int {
	h.t.Helper()
	n := 0
	for _, m := range droppedRE.FindAllStringSubmatch(h.Run("nft", "list chain inet lab "+chain), -1) {
		var packets int
		fmt.Sscan(m[1], &packets)
		n += packets
	}
	return n
}

var droppedRE = regexp.MustCompile(`counter packets (\d+) bytes \d+ drop`)

// Sysctl sets a value of this namespace: "net/ipv4/ip_forward", "1".
func (h *Host) Sysctl(path, value string) {
	h.t.Helper()
	if !strings.HasPrefix(path, "net/") {
		h.t.Fatalf("netlab: %s does not belong to a network namespace", path)
	}
	h.run(value, "tee", filepath.Join("/proc/sys", path))
}

// SS returns what ss(8) shows of the TCP sockets that match its filter
// expression, one line each.
func (h *Host) SS(filter ...string) []string {
	h.t.Helper()
	out := h.Run("ss", append([]string{"-tinoeaHO"}, filter...)...)
	var lines []string
	for line := range strings.Lines(out) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// Wait polls until cond holds, and fails the test when it does not. what
// completes the sentence "waited for …".
func (l *Lab) Wait(what string, cond func() bool) {
	l.t.Helper()
	for end := time.Now().Add(Deadline); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("netlab: waited %v for %s\nA:\n%s\nB:\n%s", Deadline, what,
				strings.Join(l.A.SS(), "\n"), strings.Join(l.B.SS(), "\n"))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
}
