package tcpstate

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

func TestStatsAllocatesNothing(t *testing.T) {
	d := newDocket(t, Config{})
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(88)))
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = d.tr.Stats() }))
	var unused Tracker
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = unused.Stats() }))
	require.Equal(t, Stats{}, unused.Stats())
}

func TestFindingsAreCountedBySeverity(t *testing.T) {
	d := newDocket(t, Config{})
	es := entries(d, 3)
	d.finds(KindCloseWaitNotReading, es...)
	d.finds(KindCloseWaitIdleInPool, es[0])
	more := entries(d, 1)
	d.finds(KindKeepaliveOff, more...)
	s := d.tr.Stats()
	require.Equal(t, []int{1, 1, 2, 0, 4}, []int{s.Audits, s.Inventory, s.Warnings, s.Errors, int(s.Found)})
	d.finds("", append(es, more...)...)
	s = d.tr.Stats()
	require.Equal(t, []int{0, 0, 0, 0, 4}, []int{s.Audits, s.Inventory, s.Warnings, s.Errors, int(s.Found)})
}

func TestBeyondFiftyNamesAllShareOne(t *testing.T) {
	d := newDocket(t, Config{})
	for i := range 60 {
		d.tr.judge.seriesOf(Client, fmt.Sprintf("name %02d", i)).opened.Add(1)
	}
	for i := range 60 {
		d.tr.judge.seriesOf(Server, fmt.Sprintf("name %02d", i)).opened.Add(2)
	}
	all := slices.Collect(d.tr.Series())
	require.Len(t, all, 2*51, "fifty names and the rest, for both roles")
	require.True(t, slices.IsSortedFunc(all, func(a, b Series) int {
		return int(a.Role)*1000 - int(b.Role)*1000 + compare(a.Name, b.Name)
	}))
	for _, s := range all {
		want := uint64(1 + s.Role)
		if s.Name == "_OTHER" {
			want *= 10
		}
		require.Equal(t, want, s.Opened, "%v %s", s.Role, s.Name)
	}
	require.Same(t, d.tr.judge.seriesOf(Client, "name 55"), d.tr.judge.seriesOf(Client, "_OTHER"))
	require.NotSame(t, d.tr.judge.seriesOf(Client, "name 10"), d.tr.judge.seriesOf(Client, "_OTHER"))
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestStatesOutOfRangeAreNone(t *testing.T) {
	s := Series{}
	s.states[CloseWait], s.states[Closed] = 3, -1
	require.Equal(t, int64(3), s.InState(CloseWait))
	require.Zero(t, s.InState(Closed), "a counter that was read at a bad moment")
	require.Zero(t, s.InState(State(200)))
}

func TestFacilitiesSayWhatIsMissing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the facilities are those of Linux")
	}
	lost := errors.New("lost")
	for _, tt := range []struct {
		facility string
		take     func(*seam)
		kinds    bool
	}{
		{"", func(*seam) {}, false},
		{"epoll", func(s *seam) { s.newPoller = func() (poller, error) { return nil, lost } }, true},
		{"tcp_info", func(s *seam) { s.info = func(uintptr, []byte) (int, error) { return 0, lost } }, true},
		{"max_user_watches", func(s *seam) { s.maxWatches = func() (int, error) { return 0, lost } }, false},
		{"epoll", func(s *seam) { s.maxWatches = func() (int, error) { return 0, nil } }, true},
		{"dial watch", func(s *seam) { s.dialHooks = lost }, true},
		{"httptrace", func(s *seam) { s.dialTrace = lost }, true},
		{"ports", func(s *seam) { s.portFacts = func() (portFacts, error) { return portFacts{}, lost } }, true},
		{"sock_diag", func(s *seam) { s.diag = func() (diagnoser, error) { return nil, lost } }, true},
		{"sockstat", func(s *seam) { s.orphans = func() (int, error) { return 0, lost } }, true},
		{"syn_recv", func(s *seam) { s.synRetransmits = func() (uint64, error) { return 0, lost } }, true},
		{"interface_addrs", func(s *seam) { s.addrs = func() ([]net.Addr, error) { return nil, lost } }, true},
		{"open_files", func(s *seam) { s.openFiles = func() (int, int) { return 1024, 0 } }, true},
	} {
		t.Run(tt.facility, func(t *testing.T) {
			tr := new(Tracker)
			clk := testclock.Install(tr)
			t.Cleanup(func() { tr.Close(); testclock.Remove(tr) })
			tr.seam = newSeam(clk)
			tr.seam.openFiles = func() (limit, used int) { return 1024, 7 } // also before Linux 6.2
			tt.take(tr.seam)
			_, s := tcptest.Pair(t)
			tr.Track(s, Origin{Role: Server})
			ln := tcptest.Listen(t)
			tr.AddListener(ln, Origin{Role: Server})
			clk.Advance(20 * time.Second)
			var names []string
			for _, f := range tr.Facilities() {
				names = append(names, f.Name)
				lost := f.Name == tt.facility || tt.facility == "sock_diag" && (f.Name == "ports" || f.Name == "syn_recv")
				require.Equal(t, !lost, f.OK, f)
				require.NotEmpty(t, f.Detail)
				require.Equal(t, !f.OK && tt.kinds, len(f.Kinds) > 0, f)
				require.NotContains(t, f.Kinds, KindLeakCollected, "that one rests on nothing")
			}
			require.Equal(t, []string{
				"epoll", "tcp_info", "max_user_watches", "clock", "open_files", "interface_addrs", "sock_diag", "sockstat",
				"dial watch", "httptrace", "ports", "syn_recv",
			}, names)
		})
	}
}
