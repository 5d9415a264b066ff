package faketime_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/faketime"
)

func TestABubbleIsToldFromTheMachine(t *testing.T) {
	require.False(t, faketime.On())
	switch runtime.GOOS {
	case "windows", "js", "plan9":
		t.Skip("nothing tells a bubble here")
	}
	synctest.Test(t, func(t *testing.T) {
		require.True(t, faketime.On())
		time.Sleep(100 * 365 * 24 * time.Hour)
		require.True(t, faketime.On())
	})
}

// Sleep returns although a goroutine of the bubble would not let time.Sleep.
func TestSleepNeedsNoTimeOfTheBubble(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("it is time.Sleep here")
	}
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		for range 10 {
			faketime.Sleep(time.Microsecond)
		}
		require.Zero(t, time.Since(begin))
	})
	require.Positive(t, time.Since(real))
}
