package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// watchPool watches a pool that always says s.
func watchPool(tr *tcpstate.Tracker, name string, s tcpstate.PoolStats) (stop func()) {
	return tr.WatchPool(tcpstate.Origin{Name: name}, func() (tcpstate.PoolStats, bool) { return s, true })
}

func TestAReadOfALentConnectionAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	tr := newTracker(t)
	inner, _ := tcptest.Pair(t)
	defer watchPool(tr, "db", tcpstate.PoolStats{})()
	c := tr.Track(inner, tcpstate.Origin{Name: "db"})
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Read(nil) }))
}

func TestPoolsAreAskedInTheOrderOfTheirNamesUntilTheyAreStopped(t *testing.T) {
	tr := newTracker(t)
	names := func() (all []string) {
		for s := range tr.Pools() {
			all = append(all, s.Name)
		}
		return all
	}
	stopB := watchPool(tr, "b", tcpstate.PoolStats{Name: "is set by the tracker"})
	p := tr.NewPool(tcpstate.Origin{Name: "a"})
	there := true
	defer p.Report(func() (tcpstate.PoolStats, bool) { return tcpstate.PoolStats{}, there })()
	require.Equal(t, []string{"a", "b"}, names())
	for range tr.Pools() {
		break
	}
	stopB()
	stopB()
	require.Equal(t, []string{"a"}, names())
	there = false
	require.Empty(t, names())
	there = true
	require.Empty(t, names(), "what is gone is not asked again")

	watchPool(tr, "c", tcpstate.PoolStats{})
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	require.Empty(t, names())
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Off = false }))
	require.Equal(t, []string{"c"}, names())
	require.NoError(t, tr.Close())
	require.Empty(t, names())
	watchPool(tr, "d", tcpstate.PoolStats{})()
	require.Empty(t, names())
}

func TestAPoolThatPanicsIsForgotten(t *testing.T) {
	r := newRig(t)
	r.dialed(tcpstate.Expect{})
	asked := 0
	r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) {
		if asked++; asked > 1 {
			panic("no")
		}
		return tcpstate.PoolStats{}, true
	})
	r.clk.Advance(40 * time.Second)
	require.Equal(t, 2, asked)
	for range r.tr.Pools() {
		t.Fatal("it is forgotten")
	}
	require.Equal(t, uint64(1), r.tr.Stats().Panics)
}

func TestOnlySoManyPoolsAreAsked(t *testing.T) {
	tr := newTracker(t)
	for range tcpstate.MaxPools + 3 {
		watchPool(tr, "db", tcpstate.PoolStats{})
	}
	n := 0
	for range tr.Pools() {
		n++
	}
	require.Equal(t, tcpstate.MaxPools, n)
	require.Equal(t, uint64(3), tr.Stats().PoolsMissed)
}

func TestThereIsNothingToWatchWithoutANameOrStatistics(t *testing.T) {
	tr := newTracker(t)
	watchPool(tr, "", tcpstate.PoolStats{})()
	tr.WatchPool(tcpstate.Origin{Name: "db"}, nil)()
	tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { return tcpstate.PoolStats{}, false })()
	tr.NewPool(tcpstate.Origin{Name: "db"}).Report(nil)()
	(*tcpstate.Pool)(nil).Report(func() (tcpstate.PoolStats, bool) { return tcpstate.PoolStats{}, true })()
	for range tr.Pools() {
		t.Fatal("there is none")
	}
}

// A full pool is asked every second, another one as often as connections are
// looked at.
func TestAPoolIsAskedMoreOftenWhileItIsFull(t *testing.T) {
	r := newRig(t)
	r.dialed(tcpstate.Expect{})
	asked, s := 0, tcpstate.PoolStats{Used: 1, Max: 2}
	defer r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { asked++; return s, true })()
	r.clk.Advance(60 * time.Second)
	require.InDelta(t, 7, asked, 1)
	s.Used, asked = 2, 0
	r.clk.Advance(60 * time.Second)
	require.InDelta(t, 55, asked, 6)
}
