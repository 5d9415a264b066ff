package tcpstate

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheServersIdleLimitIsWhatItsClosesHaveInCommon(t *testing.T) {
	const s = time.Second
	minute := slices.Repeat([]time.Duration{time.Minute}, maxDeaths)
	for _, tt := range []struct {
		name    string
		idle    []time.Duration
		between time.Duration
		want    time.Duration
	}{
		{"too few", minute[:4], s, 0},
		{"a limit", []time.Duration{61 * s, 60 * s, 60100 * time.Millisecond, 63 * s, 60 * s}, s, time.Minute},
		{"a limit that is looked after every ten seconds", []time.Duration{61 * s, 69 * s, 64 * s, 66 * s, 63 * s}, s, 61 * s},
		{"a short limit", []time.Duration{s, s + 300*time.Millisecond, s, s, s}, s, s},
		{"a restart of the server", minute[:8], time.Millisecond, 0},
		{"restarts", []time.Duration{2 * s, 60 * s, 10 * s, 30 * s, 45 * s, 70 * s}, s, 0},
		{"two of its kind", append(slices.Repeat([]time.Duration{30 * s}, 5), minute[:5]...), s, 0},
		{"a limit, and a restart", append([]time.Duration{5 * s, 20 * s}, minute[:8]...), s, time.Minute},
		{"the latest count", append(slices.Repeat([]time.Duration{time.Hour}, 9), minute...), s, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d idleDeaths
			for i, idle := range tt.idle {
				d.add(idle, 1+int64(i)*int64(tt.between))
			}
			require.Equal(t, tt.want, d.limit())
		})
	}
}

func TestTheAdvisedIdleLimitIsBelowTheServers(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{
		time.Second:      800 * time.Millisecond,
		10 * time.Second: 8 * time.Second,
		time.Minute:      50 * time.Second,
		5 * time.Minute:  4*time.Minute + 10*time.Second,
		time.Hour:        50 * time.Minute,
	} {
		require.Equal(t, want, below(limit), "%s", limit)
	}
}

func TestOnlySoManyServersAreToldApart(t *testing.T) {
	d := newDocket(t, Config{})
	var tab idleTable
	for n := range maxIdleLimits + 10 {
		e := d.entry("db", line(1))
		e.target = fmt.Sprint("db", n, ":5432")
		for i := range severalDeaths {
			tab.note(e, time.Minute, int64(n)*int64(time.Minute)+int64(i+1)*int64(time.Second))
		}
		require.Equal(t, time.Minute, tab.limit(e))
	}
	require.Len(t, tab, maxIdleLimits)
	first := d.entry("db", line(1))
	first.target = "db0:5432"
	require.Zero(t, tab.limit(first), "the oldest had to go")
	tab.note(first, leastIdle-1, 1)
	require.Zero(t, tab[first.idleKey()])
}
