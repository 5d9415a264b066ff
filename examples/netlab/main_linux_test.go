package netlab

import (
	"flag"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) {
	Serve()
	flag.Parse()
	// The cases wait for the kernel's timers, not for a processor.
	flag.Set("test.parallel", "10")
	tcptest.Main(m)
}
