package tcpstate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Thousands of probes that are sent over loopback at once are dropped before
// they reach their peers, which are alive.
func TestLostProbesSayNothingOfAPeerOnThisHost(t *testing.T) {
	var limits Thresholds
	f := facts{now: 1e9, sample: sample{ok: true, state: Established, probes: 2}, limits: &limits}
	require.Equal(t, KindPeerDeadProbes, f.deadProbes().kind)
	f.near = true
	require.Zero(t, f.deadProbes())
	f.near, f.sample.probes = false, 1
	require.Empty(t, f.deadProbes().kind, "one may be lost")
}
