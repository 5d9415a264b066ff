package tcpstate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	kindA = KindCloseWaitNotReading
	kindB = KindLeakDeadSocket
)

func entries(d *docket, n int) []*entry {
	es := make([]*entry, n)
	for i := range es {
		es[i] = d.entry("payments", line(88))
	}
	return es
}

func TestFiveThousandLeaksFromOneLineAreOneReport(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	es := entries(d, 5000)
	d.finds(kindA, es[:10]...)
	got := a.hears(d, "opened")
	require.Equal(t, 10, got[0].Group.Open, "what was found in one pass is told at once")
	for i := 10; i < 5000; i += 100 {
		d.finds(kindA, es[i:min(i+100, 5000)]...)
	}
	a.hears(d)
	require.Len(t, d.tr.Findings(), 5000)

	d.wait(time.Minute)
	got = a.hears(d, "reminded")
	require.Equal(t, 5000, got[0].Group.Open)
	require.Equal(t, uint64(4990), got[0].Group.NewlyOpened)
	d.wait(time.Hour)
	a.hears(d) // nothing has changed

	for i := range 100 {
		d.finds("", es[i])
		d.wait(time.Second)
	}
	got = a.hears(d, "reminded")
	require.Equal(t, uint64(1), got[0].Group.NewlyCleared)
	d.wait(5 * time.Minute)
	got = a.hears(d, "reminded")
	require.Equal(t, uint64(99), got[0].Group.NewlyCleared)

	d.finds("", es[100:]...)
	got = a.hears(d, "cleared")
	require.Equal(t, uint64(5000), got[0].Group.Opened)
	require.Equal(t, uint64(4900), got[0].Group.NewlyCleared)
	require.Empty(t, d.tr.Findings())
	require.Zero(t, d.tr.Stats().Warnings)
	require.Equal(t, uint64(5000), d.tr.Stats().Found)
}

func TestRemindersComeAtGrowingIntervals(t *testing.T) {
	d := newDocket(t, Config{Thresholds: Thresholds{Reminder: 10 * time.Second}})
	a := d.observe()
	d.finds(kindA, d.entry("payments", line(88)))
	var at []time.Duration
	begin := d.tr.now()
	for range 4 * 3600 {
		d.finds(kindA, d.entry("payments", line(88)))
		d.wait(time.Second)
		d.drained()
		if n := len(a.all()); n > len(at)+1 {
			at = append(at, time.Duration(d.tr.now()-begin).Round(time.Second))
		}
	}
	require.InDeltaSlice(t, []float64{10, 30, 70, 150, 310, 630, 1270, 2550, 5110, 8710, 12310}, seconds(at), 5)
}

func seconds(ds []time.Duration) []float64 {
	out := make([]float64, len(ds))
	for i, d := range ds {
		out[i] = d.Seconds()
	}
	return out
}

func TestWithoutRemindersOnlyBeginningAndEndAreTold(t *testing.T) {
	d := newDocket(t, Config{Thresholds: Thresholds{Reminder: -1}})
	a := d.observe()
	es := entries(d, 10)
	d.finds(kindA, es[0])
	d.finds(kindA, es[1:]...)
	d.wait(3 * time.Hour)
	a.hears(d, "opened")
	d.finds("", es...)
	require.Equal(t, uint64(9), a.hears(d, "cleared")[0].Group.NewlyOpened)
	d.finds(kindA, es[0])
	a.hears(d, "opened")
}

func TestTheExampleOfAGroupIsOneThatIsStillOpen(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	es := entries(d, 3)
	d.finds(kindA, es...)
	require.Equal(t, es[0].id, a.hears(d, "opened")[0].Subject.ID)
	d.finds("", es[0])
	d.wait(time.Minute)
	require.Equal(t, es[1].id, a.hears(d, "reminded")[0].Subject.ID)
	d.finds(kindB, es[1])
	got := a.hears(d, "changed")
	require.Equal(t, es[1].id, got[0].Subject.ID)
	d.wait(2 * time.Minute)
	got = a.hears(d, "reminded")
	require.Equal(t, es[2].id, got[0].Subject.ID)
	require.Equal(t, kindA, got[0].Kind)
}

func TestAFindingThatChangesKeepsItsIdentity(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	e := d.entry("payments", line(88))
	d.finds(kindA, e)
	first := a.hears(d, "opened")[0]
	d.wait(5 * time.Second)
	d.finds(kindB, e)
	got := a.hears(d, "cleared", "changed")
	require.Equal(t, kindB, got[0].Became)
	require.Equal(t, kindA, got[1].Was)
	require.Equal(t, kindB, got[1].Kind)
	for _, h := range got {
		require.Equal(t, first.ID, h.ID)
		require.Equal(t, first.Since, h.Since)
		require.Equal(t, first.DetectedAt, h.DetectedAt)
		require.Equal(t, first.Group.ID, h.Group.ID, "one number for one fault")
	}
	require.Equal(t, 1, d.tr.Stats().Warnings)
	require.Equal(t, uint64(1), d.tr.Stats().Found, "a change is no new finding")

	// Where others stay behind, the group has to have another number.
	other := d.entry("payments", line(88))
	d.finds(kindB, other)
	d.wait(2 * time.Minute)
	a.hears(d, "reminded")
	d.finds(kindA, e)
	got = a.hears(d, "changed")
	require.NotEqual(t, first.Group.ID, got[0].Group.ID)
	require.Equal(t, first.ID, got[0].ID)
}

func TestALineWhoseFindingsComeAndGoIsNotReportedEachTime(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	e := d.entry("payments", line(88))
	opened := 0
	for range 600 { // a handler that takes 40 s after its client has left, for ten hours
		d.finds(kindA, e)
		d.wait(10 * time.Second)
		d.finds("", e)
		d.wait(50 * time.Second)
	}
	d.drained()
	for _, h := range a.all() {
		if h.what == "opened" {
			opened++
		}
	}
	require.InDelta(t, 15, opened, 5, "1, 2, 4 … 60 minutes apart")
	require.Equal(t, 600, opened+int(d.tr.Stats().RateLimited))

	d.wait(3 * time.Hour)
	a.hears(d, a.names()...)
	d.finds(kindA, e)
	a.hears(d, "opened") // after a long silence it is news
	d.finds("", e)
	a.hears(d, "cleared")
	d.finds(kindA, e)
	d.wait(50 * time.Second)
	a.hears(d)
	d.wait(10 * time.Second)
	a.hears(d, "opened") // when its turn has come it is told, if it is still open
}

// names lists the events that were heard.
func (a *audience) names() []string {
	var names []string
	for _, h := range a.all() {
		names = append(names, h.what)
	}
	return names
}

func TestNamesAndKindsAndLinesAreGroupsOfTheirOwn(t *testing.T) {
	d := newDocket(t, Config{})
	d.finds(kindA, d.entry("payments", line(88)), d.entry("payments", line(88)), d.entry("users", line(88)), d.entry("users", line(90)))
	d.finds(kindB, d.entry("users", line(90)))
	var got []string
	for _, c := range d.tr.FindingCounts() {
		got = append(got, fmt.Sprint(c.Kind, " ", c.Name, " ", c.Frame, " ", c.Open))
	}
	require.Equal(t, []string{
		"close_wait.not_reading payments billing/client.go:88 2",
		"close_wait.not_reading users billing/client.go:88 1",
		"close_wait.not_reading users billing/client.go:90 1",
		"leak.dead_socket users billing/client.go:90 1",
	}, got)
}

func TestAnObserverIsToldOfWhatIsOpenAndOfNothingTwice(t *testing.T) {
	d := newDocket(t, Config{})
	first := d.observe()
	es := entries(d, 6)
	d.finds(kindA, es[0])
	first.hears(d, "opened")
	d.finds(kindA, es[1:4]...) // not told yet
	d.finds("", es[0])

	second := d.observe()
	got := second.hears(d, "opened")
	require.Equal(t, uint64(4), got[0].Group.NewlyOpened)
	require.Equal(t, uint64(1), got[0].Group.NewlyCleared)
	d.wait(time.Minute)
	require.Equal(t, uint64(3), first.hears(d, "reminded")[0].Group.NewlyOpened)
	second.hears(d) // nothing new to this one

	second.stop()
	d.finds("", es[:4]...)
	first.hears(d, "cleared")
	second.hears(d)
}

func TestTheLoggerIsForWhenNobodyListens(t *testing.T) {
	d := newDocket(t, Config{})
	e, other := d.entry("payments", line(88)), d.entry("users", line(90))
	d.finds(kindA, e)
	d.drained()
	require.Len(t, d.log.all(), 1)
	a := d.observe()
	d.finds(kindA, other)
	d.wait(2 * time.Minute)
	a.hears(d, "opened", "opened")
	a.stop()
	require.Len(t, d.log.all(), 1, "what an observer was told is not logged when it leaves")
	d.finds("", e)
	d.drained()
	require.Len(t, d.log.all(), 1, "nor is the end of what it began")
}

func TestTheSumsAreRightForEveryObserverAtAllTimes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	d := newDocket(t, Config{Thresholds: Thresholds{Reminder: 5 * time.Second}})
	es := make([]*entry, 30)
	for i := range es {
		es[i] = d.entry([]string{"payments", "users"}[i%2], line(80+i%3))
	}
	var now []*audience
	for range 3000 {
		switch r.IntN(20) {
		case 0:
			if len(now) < 4 {
				now = append(now, d.observe())
			}
		case 1:
			if len(now) > 0 {
				now[0].stop()
				now = now[1:]
			}
		case 2:
			var mute []Mute
			if r.IntN(2) == 0 {
				mute = []Mute{{Name: "users", Until: d.tr.seam.now().Add(time.Duration(r.IntN(30)) * time.Second)}}
			}
			require.NoError(t, d.tr.Set(func(c *Config) { c.Mute = mute }))
		case 3:
			d.wait(time.Duration(r.IntN(60)) * time.Second)
		default:
			e := es[r.IntN(len(es))]
			d.finds([]Kind{kindA, kindB, ""}[r.IntN(3)], e)
		}
		d.pass(time.Duration(r.IntN(3))*time.Second, nil)
	}
	d.finds("", es...)
	d.wait(time.Minute)
	d.drained()
	for _, a := range now {
		a.mu.Lock()
		for key, open := range a.sums {
			require.Zero(t, open, key)
		}
		a.mu.Unlock()
	}
	require.Empty(t, d.tr.Findings())
	require.Zero(t, d.tr.Stats().Warnings)
}
