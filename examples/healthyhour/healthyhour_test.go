package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// TestNothingIsFoundInHealthyTraffic runs for half a minute, or for as long as
// TCPSTATE_HEALTHY says.
func TestNothingIsFoundInHealthyTraffic(t *testing.T) {
	d := 30 * time.Second
	if s := os.Getenv("TCPSTATE_HEALTHY"); s != "" {
		var err error
		d, err = time.ParseDuration(s)
		require.NoError(t, err)
	}
	found, err := run(t.Context(), d, leaktest.Tracker(t), t.Output())
	require.NoError(t, err)
	require.Zero(t, found)
}
