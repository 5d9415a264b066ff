package tcptest_test

import (
	"flag"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) {
	// Scenarios wait for the kernel most of the time. The flag still works.
	if err := flag.Set("test.parallel", "48"); err != nil {
		panic(err)
	}
	tcptest.Main(m)
}

// leaky makes TestLeaveThingsBehind do that, in a process of its own.
const leaky = "TCPTEST_LEAKY"

func TestLeaveThingsBehind(t *testing.T) {
	if os.Getenv(leaky) == "" {
		t.Skip("run by TestMainFailsOnLeftovers")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go acceptForEver(ln)
}

func acceptForEver(ln net.Listener) {
	for {
		if _, err := ln.Accept(); err != nil {
			return
		}
	}
}

func TestMainFailsOnLeftovers(t *testing.T) {
	t.Parallel() // waits for Deadline
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestLeaveThingsBehind$")
	cmd.Env = append(os.Environ(), leaky+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("no failure:\n%s", out)
	}
	wants := []string{"PASS", "left behind", "acceptForEver"}
	if runtime.GOOS == "linux" {
		wants = append(wants, "socket:[")
	}
	for _, want := range wants {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
}
