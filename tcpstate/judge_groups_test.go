package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

func TestHiddenFramesRegroupWhatIsOpen(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	e, other := d.entry("payments", line(88)), d.entry("payments", line(90))
	d.finds(kindA, e, other)
	a.hears(d, "opened", "opened")
	require.NoError(t, d.tr.Set(func(c *Config) { c.HideFrames = []string{"github.com/acme/billing."} }))
	d.pass(time.Second, nil)
	got := a.hears(d, "cleared", "cleared", "opened")
	require.Equal(t, kindA, got[0].Became, "moved, not mended")
	require.Equal(t, 2, got[2].Group.Open)
	require.Empty(t, got[2].Sites)
	require.NoError(t, d.tr.Set(func(c *Config) { c.HideFrames = nil }))
	d.wait(2 * time.Minute)
	got = a.hears(d, "cleared", "opened", "opened")
	require.Equal(t, 1, got[1].Group.Open)
	require.Len(t, d.tr.Findings(), 2)
}

func TestMutedFindingsAreSilentAndCounted(t *testing.T) {
	soon := time.Now().Add(10 * time.Minute)
	for _, tt := range []struct {
		name  string
		mute  Mute
		muted bool
	}{
		{"by kind", Mute{Kind: kindA}, true},
		{"by family", Mute{Kind: "close_wait"}, true},
		{"by another kind", Mute{Kind: kindB}, false},
		{"by another family", Mute{Kind: "leak"}, false},
		{"by name", Mute{Name: "payments"}, true},
		{"by another name", Mute{Name: "users"}, false},
		{"by line", Mute{Site: "billing/client.go:88"}, true},
		{"by the end of a line", Mute{Site: "client.go:88"}, true},
		{"by function", Mute{Site: "(*Client).Charge"}, true},
		{"by another line", Mute{Site: "client.go:89"}, false},
		{"by all of them", Mute{Kind: kindA, Name: "payments", Site: "client.go:88"}, true},
		{"by all but one", Mute{Kind: kindA, Name: "users", Site: "client.go:88"}, false},
		{"for a while", Mute{Kind: kindA, Until: soon}, true},
		{"until a while ago", Mute{Kind: kindA, Until: time.Unix(1, 0)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDocket(t, Config{Mute: []Mute{tt.mute}})
			a := d.observe()
			e := d.entry("payments", line(88))
			d.finds(kindA, e)
			d.wait(2 * time.Minute)
			if !tt.muted {
				a.hears(d, "opened")
				require.Len(t, d.tr.Findings(), 1)
				require.Zero(t, d.tr.Stats().Muted)
				return
			}
			a.hears(d)
			require.Empty(t, d.tr.Findings())
			require.Empty(t, d.tr.FindingCounts())
			require.Equal(t, uint64(1), d.tr.Stats().Muted)
			late := d.observe()
			late.hears(d)
			if !tt.mute.Until.IsZero() {
				d.wait(10 * time.Minute)
				a.hears(d, "opened")
				d.finds("", e)
				a.hears(d, "cleared")
				return
			}
			d.finds("", e)
			a.hears(d)
		})
	}
}

func TestAMuteThatComesLaterSilencesAllButTheEnd(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	es := entries(d, 3)
	d.finds(kindA, es[0])
	a.hears(d, "opened")
	require.NoError(t, d.tr.Set(func(c *Config) { c.Mute = []Mute{{Name: "payments"}} }))
	d.finds(kindA, es[1])
	d.wait(10 * time.Minute)
	a.hears(d)
	require.NoError(t, d.tr.Set(func(c *Config) { c.Mute = nil }))
	d.wait(2 * time.Second)
	require.Equal(t, 2, a.hears(d, "reminded")[0].Group.Open)
	require.NoError(t, d.tr.Set(func(c *Config) { c.Mute = []Mute{{Name: "payments"}} }))
	d.finds("", es...)
	a.hears(d, "cleared") // whoever counts must be able to
}

func TestCollectedConnectionsAreForgottenAfterAWhile(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	lose := func(n int) {
		d.pass(time.Millisecond, func(now int64) {
			for range n {
				e := d.entry("payments", line(88))
				e.sus, e.leaked, e.closed, e.end = nil, true, true, &ending{at: d.tr.seam.now()}
				d.tr.account(e, now)
			}
		})
	}
	lose(100)
	require.Equal(t, 100, a.hears(d, "opened")[0].Group.Open)
	require.Len(t, d.tr.Findings(), maxEvents, "the others are counted")
	d.wait(5 * time.Minute)
	lose(1)
	d.wait(9*time.Minute + 30*time.Second)
	a.hears(d, "reminded")
	d.wait(31 * time.Second)
	got := a.hears(d, "cleared")
	require.Equal(t, uint64(101), got[0].Group.Opened)
	require.Empty(t, d.tr.Findings())
	require.Zero(t, d.tr.Stats().Warnings)

	lose(1) // while the loop does not run, whoever looks sees to it
	d.wait(time.Hour)
	a.hears(d, "opened", "cleared")
	lose(1)
	d.clk.Advance(time.Hour)
	require.Empty(t, d.tr.FindingCounts())
	a.hears(d, "opened", "cleared")

	lose(200)
	require.NoError(t, d.tr.Set(func(c *Config) { c.HideFrames = []string{"github.com/acme"} }))
	d.pass(time.Second, nil)
	require.Equal(t, 200, d.tr.FindingCounts()[0].Open, "those that are only counted move, too")
	require.Len(t, d.tr.FindingCounts(), 1)
}

func TestCollectedConnectionsAreForgottenByATimerWhileNothingIsTracked(t *testing.T) {
	tr := &Tracker{}
	defer tr.Close()
	tr.init()
	d := &docket{T: t, tr: tr}
	e := d.entry("payments", line(88))
	e.leaked = true
	tr.judge.mu.Lock()
	tr.account(e, tr.now())
	for _, g := range tr.judge.groups {
		g.expires = tr.now() + int64(20*time.Millisecond)
	}
	tr.rest(tr.now())
	tr.judge.mu.Unlock()
	require.Eventually(t, func() bool { return tr.Stats().Warnings == 0 }, 5*time.Second, time.Millisecond)
}

func TestIgnoredAndSwitchedOffCollectionsAreNotReported(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg    Config
		expect Expect
	}{
		"off":     {cfg: Config{Thresholds: Thresholds{Collected: -1}}},
		"ignored": {expect: Expect{Ignore: []Kind{"leak"}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDocket(t, tt.cfg)
			a := d.observe()
			e := d.entry("payments", line(88))
			e.expect.Store(&tt.expect)
			d.finds(kindA, e)
			e.leaked = true
			d.pass(time.Second, func(now int64) { d.tr.account(e, now) })
			a.hears(d, "opened", "cleared")
			require.Empty(t, d.tr.Findings())
		})
	}
}

func TestTooManyLinesShareAGroup(t *testing.T) {
	d := newDocket(t, Config{})
	var last *entry
	d.pass(time.Second, func(now int64) {
		for i := range maxGroups + 10 {
			last = d.entry("payments", sites.FromFrame("github.com/acme/many.Lines", "many/lines.go", i+1))
			d.tr.settle(last, &last.sus.finding, verdict{kind: kindA, since: 1}, now)
		}
	})
	require.Equal(t, uint64(10), d.tr.Stats().Overflow)
	counts := d.tr.FindingCounts()
	require.Len(t, counts, maxGroups+1)
	require.Equal(t, FindingCount{Kind: kindA, Severity: Warning, Name: otherNames, ID: maxGroups + 1, Open: 10, Opened: 10}, counts[0])
	d.pass(time.Second, func(now int64) {
		for f := range d.tr.judge.findings {
			d.tr.settle(f.about, &f.about.(*entry).sus.finding, verdict{}, now)
		}
	})
	d.finds(kindA, d.entry("payments", line(88)))
	require.Equal(t, uint64(10), d.tr.Stats().Overflow, "dormant groups make room")
}
