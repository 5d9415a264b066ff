package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestAVerdictIsLookedAtWhenItIsDueUnlessThereAreMany(t *testing.T) {
	const now = int64(time.Hour)
	for name, c := range map[string]struct {
		n          int
		due, after time.Duration // from now; due 0: none
	}{
		"nothing due":  {1, 0, time.Second},
		"within":       {1, 300 * time.Millisecond, 300 * time.Millisecond},
		"at once":      {1, time.Microsecond, 100 * time.Millisecond},
		"later":        {1, time.Minute, time.Second},
		"the last few": {64, 300 * time.Millisecond, 300 * time.Millisecond},
		"many":         {65, 300 * time.Millisecond, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			due := int64(0)
			if c.due != 0 {
				due = now + int64(c.due)
			}
			require.Equal(t, c.after, time.Duration(lookAt(c.n, now, due)-now))
		})
	}
}

// Nineteen thousand of them are looked at every ten seconds.
func TestALookAtAnIdleConnectionAllocatesNothing(t *testing.T) {
	d := newDocket(t, Config{})
	inner, _ := tcptest.Pair(t)
	c := d.tr.Track(inner, Origin{})
	defer c.Close()
	d.tr.judge.mu.Lock()
	defer d.tr.judge.mu.Unlock()
	require.Zero(t, testing.AllocsPerRun(100, func() { d.tr.look(c.e, d.tr.now(), 0) }))
	require.True(t, d.tr.judge.sampler.sample.ok)
	require.Zero(t, d.tr.judge.sampler.seen, "it keeps nothing alive")
}
