package tcpstate_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestSmoke(t *testing.T) {
	tr := new(tcpstate.Tracker)
	clk := testclock.Install(tr)
	defer testclock.Remove(tr)
	defer tr.Close()
	c, s := tcptest.Pair(t)
	conn := tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	clk.Advance(2 * time.Second)
	c.Write([]byte("hello"))
	buf := make([]byte, 100)
	conn.Read(buf)
	c.Close()
	_, err := conn.Read(buf)
	require.Equal(t, io.EOF, err)
	clk.Advance(33 * time.Second)
	fs := tr.Findings()
	require.Len(t, fs, 1)
	fs[0].WriteTo(os.Stdout)
	tr.Report(os.Stdout)
	conn.Close()
	clk.Advance(2 * time.Second)
	require.Empty(t, tr.Findings())
}

//go:noinline
func drop(t *testing.T, tr *tcpstate.Tracker) *net.TCPConn {
	c, s := tcptest.Pair(t)
	ln := tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	_ = ln
	return c
}

func TestSmokeCollected(t *testing.T) {
	t.Skip()
	tr := new(tcpstate.Tracker)
	defer tr.Close()
	drop(t, tr)
	for range 10 {
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
	fs := tr.Findings()
	require.Len(t, fs, 1)
	fs[0].WriteTo(os.Stdout)
}
