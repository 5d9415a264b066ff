package tcpstate_test

import (
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// BenchmarkPair measures what a proxy pays for a tunnel that is healthy.
func BenchmarkPair(b *testing.B) {
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	_, s := tcptest.Pair(b)
	c, _ := tcptest.Pair(b)
	down, up := tr.Track(s, tcpstate.Origin{Role: tcpstate.Server}), tr.Track(c, tcpstate.Origin{})
	b.ReportAllocs()
	for b.Loop() {
		tcpstate.Pair(down, up).End()
	}
}
