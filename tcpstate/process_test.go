package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPressureOnOpenFilesBeginsAndEndsAtDifferentShares(t *testing.T) {
	for _, tt := range []struct {
		limit, used int
		tight, want bool
	}{
		{0, 0, false, false},
		{0, 5, true, false},
		{1000, 899, false, false},
		{1000, 900, false, true},
		{1000, 899, true, true},
		{1000, 850, true, true},
		{1000, 849, true, false},
		{1000, 1000, false, true},
		{1 << 30, 1 << 29, false, false},
	} {
		fs := openFilesSeen{limit: tt.limit, used: tt.used}
		v := fs.verdict(tt.tight, 7)
		require.Equal(t, tt.want, v.kind == KindFDsPressure, "%+v", tt)
	}
}

// sweeps plays the end of a sweep at which n files are open.
func (d *docket) sweeps(by time.Duration, limit, n int) {
	d.tr.seam.openFiles = func() (int, int) { return limit, n }
	d.pass(by, func(now int64) {
		d.tr.judge.process.at = now
		d.tr.doChores(now)
		require.Zero(d, d.tr.judge.process.next())
	})
}

func TestOpenFilesAreWatchedWithTheSweep(t *testing.T) {
	d := newDocket(t, Config{})
	register := func(e *entry) {
		d.tr.mu.Lock()
		defer d.tr.mu.Unlock()
		d.tr.slots = append(d.tr.slots, slot{e: e})
	}
	for i := range 12 {
		register(d.entry("payments", line(10+i/6*10))) // six at each of two lines
	}
	for range 3 {
		e := d.entry("feed", 0) // as net/http dials: what uses it counts
		e.uses = &Usage{site: line(99)}
		register(e)
	}
	last := d.entry("feed", 0)
	last.lastUse = &Usage{handler: line(70)}
	register(last)
	register(d.entry("stray", 0))

	d.sweeps(time.Second, 1000, 500)
	d.sweeps(10*time.Second, 1000, 899)
	require.Empty(t, d.tr.Findings())
	for i := range 31 {
		d.sweeps(10*time.Second, 1000, 900+i)
	}
	fs := d.tr.Findings()
	require.Len(t, fs, 1)
	f := fs[0]
	require.Equal(t, KindFDsPressure, f.Kind)
	require.Equal(t, Error, f.Severity)
	require.Equal(t, SubjectProcess, f.Subject.Type)
	notes := make(map[string][]string)
	for _, n := range f.Evidence.Notes {
		notes[n.Name] = append(notes[n.Name], n.Value)
	}
	require.Equal(t, []string{"930 of 1,000"}, notes["open files"])
	require.Equal(t, []string{"17"}, notes["connections"])
	require.Equal(t, []string{"6 connections billing/client.go:10", "6 connections billing/client.go:20"}, notes["dial"])
	require.Equal(t, []string{"3 connections billing/client.go:99"}, notes["use"])
	require.NotEmpty(t, notes["limit reached in"])
	require.Contains(t, f.Summary, "The number grows by ")
	require.Equal(t, "dial", f.Sites[0].Role)

	d.sweeps(10*time.Second, 1000, 851)
	require.Len(t, d.tr.Findings(), 1, "not below 85 %")
	d.sweeps(10*time.Second, 1000, 840)
	require.Empty(t, d.tr.Findings())
	d.sweeps(10*time.Second, 1000, 899)
	require.Empty(t, d.tr.Findings(), "not above 90 %")

	d.sweeps(10*time.Second, 0, 0)
	var known bool
	for _, f := range d.tr.Facilities() {
		if f.Name == "open_files" {
			known = f.OK
			require.Equal(t, []Kind{KindFDsPressure}, f.Kinds)
		}
	}
	require.False(t, known)
	d.tr.mu.Lock()
	d.tr.slots = nil
	d.tr.mu.Unlock()
}

// A limit that is raised is no growth.
func TestGrowthOfOpenFilesBeginsAnewWithTheLimit(t *testing.T) {
	d := newDocket(t, Config{})
	d.sweeps(time.Second, 1000, 100)
	d.sweeps(5*time.Minute, 2000, 1900)
	fs := d.tr.Findings()
	require.Len(t, fs, 1)
	require.NotContains(t, fs[0].Summary, "grows")
}

// Of many connections a tick counts a part, and the finding waits for all.
func TestWhoHoldsFilesIsCountedInParts(t *testing.T) {
	d := newDocket(t, Config{})
	e := d.entry("payments", line(10))
	d.tr.mu.Lock()
	for range 2*countPart + 1 {
		d.tr.slots = append(d.tr.slots, slot{e: e})
	}
	d.tr.mu.Unlock()
	t.Cleanup(func() {
		d.tr.mu.Lock()
		defer d.tr.mu.Unlock()
		d.tr.slots = nil
	})
	c := &d.tr.judge.process
	d.tr.seam.openFiles = func() (int, int) { return 1000, 950 }
	c.at = d.tr.now()
	for parts := 1; c.next() != 0; parts++ {
		require.LessOrEqual(t, parts, 3)
		require.Empty(t, d.tr.Findings())
		d.pass(busyDelay, func(now int64) {
			require.GreaterOrEqual(t, now, c.next())
			c.run(d.tr, now)
		})
	}
	require.Len(t, d.tr.Findings(), 1)
	require.Equal(t, 2*countPart+1, c.files.conns)
	require.Equal(t, 2*countPart+1, c.files.top[0].conns)
}

// A sweep that took its share of a tick leaves the open files to another, and
// no series of such sweeps puts it off for ever.
func TestOpenFilesWaitForATickWithTime(t *testing.T) {
	var c processChore
	c.swept(1, fewLooks)
	require.EqualValues(t, 1, c.next())
	c = processChore{}
	c.swept(1, fewLooks+1)
	require.EqualValues(t, 1+busyDelay, c.next())
	c.swept(1000, fewLooks+1)
	require.EqualValues(t, 1+busyDelay, c.next())
}
