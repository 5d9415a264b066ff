package tcpstate

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNonsenseIsRefused(t *testing.T) {
	for _, tt := range []struct {
		want string
		set  func(*Config)
	}{
		{"SweepInterval 30ns is below 100ms", func(c *Config) { c.SweepInterval = 30 }},
		{"SweepInterval 2h0m0s is above an hour", func(c *Config) { c.SweepInterval = 2 * time.Hour }},
		{"Thresholds.CloseWait 30ns is below 10ms", func(c *Config) { c.Thresholds.CloseWait = 30 }},
		{"Thresholds.CloseWait 8760h0m0s is above 30 days; use a negative value for off", func(c *Config) { c.Thresholds.CloseWait = 365 * 24 * time.Hour }},
		{"Thresholds.DeadSocket 1ms is below 10ms", func(c *Config) { c.Thresholds.DeadSocket = time.Millisecond }},
		{"Thresholds.Reminder 1µs is below 10ms", func(c *Config) { c.Thresholds.Reminder = time.Microsecond }},
		{"Mute[0] matches everything; set Kind, Name or Site, or use Off", func(c *Config) { c.Mute = []Mute{{Reason: "noise"}} }},
		{"Mute[1]: unknown kind \"close_wiat\"", func(c *Config) { c.Mute = []Mute{{Kind: "close_wait"}, {Kind: "close_wiat"}} }},
		{"Mute[0]: unknown kind \"close\"", func(c *Config) { c.Mute = []Mute{{Kind: "close"}} }},
		{"HideFrames[0] is empty and would hide every frame", func(c *Config) { c.HideFrames = []string{""} }},
	} {
		t.Run(tt.want, func(t *testing.T) {
			before := Config{SweepInterval: time.Second, HideFrames: []string{"a"}, Mute: []Mute{{Name: "a"}}}
			var l logged
			tr := Tracker{Config: before, Logger: slog.New(slog.NewTextHandler(&l, nil))}
			defer tr.Close()
			err := tr.Set(tt.set)
			require.EqualError(t, err, "tcpstate: "+tt.want)
			require.Equal(t, before, tr.cfg.Load().Config, "a refusal changes nothing")
			require.Empty(t, l.all())

			bad := Config{}
			tt.set(&bad)
			other := Tracker{Config: bad, Logger: slog.New(slog.NewTextHandler(&l, nil))}
			defer other.Close()
			other.Findings()
			require.Equal(t, Config{}, other.cfg.Load().Config, "what makes no sense is not used by halves")
			require.Len(t, l.all(), 1)
			require.Contains(t, l.all()[0], "level=ERROR")
		})
	}
}

func TestSenseIsAccepted(t *testing.T) {
	var tr Tracker
	defer tr.Close()
	want := Config{
		Thresholds:    Thresholds{CloseWait: -1, DeadSocket: 10 * time.Millisecond, Collected: -1, Reminder: 30 * 24 * time.Hour},
		SweepInterval: 100 * time.Millisecond,
		HideFrames:    []string{"github.com/acme/retry."},
		Mute:          []Mute{{Kind: "leak"}, {Kind: KindLeakDeadSocket, Name: "a", Site: "b", Until: noon, Reason: "c"}},
	}
	require.NoError(t, tr.Set(func(c *Config) { *c = want }))
	require.Equal(t, want, tr.cfg.Load().Config)
	require.NoError(t, tr.Set(func(c *Config) { c.SweepInterval = -1 }))
	require.Equal(t, off, tr.cfg.Load().sweep())
}

func TestZeroIsTheDefaultAndNegativeIsOff(t *testing.T) {
	var c Config
	require.Equal(t, 10*time.Second, c.sweep())
	require.Equal(t, 30*time.Second, c.Thresholds.resolved().CloseWait)
	require.Equal(t, 30*time.Second, c.Thresholds.resolved().DeadSocket)
	require.Equal(t, time.Minute, c.Thresholds.resolved().Reminder)
	c = Config{SweepInterval: -1, Thresholds: Thresholds{CloseWait: -time.Hour, DeadSocket: -1, Reminder: -1}}
	for _, d := range []time.Duration{c.sweep(), c.Thresholds.resolved().CloseWait, c.Thresholds.resolved().DeadSocket, c.Thresholds.resolved().Reminder} {
		require.Equal(t, off, d)
	}
}

func TestTheCallerOfSetCannotChangeItAfterwards(t *testing.T) {
	tr := Tracker{Config: Config{HideFrames: []string{"a"}}}
	defer tr.Close()
	mine := []Mute{{Name: "a"}}
	var kept *Config
	require.NoError(t, tr.Set(func(c *Config) { c.Mute = mine; kept = c }))
	mine[0].Name, kept.HideFrames[0], kept.SweepInterval = "b", "b", 1
	require.Equal(t, Config{HideFrames: []string{"a"}, Mute: []Mute{{Name: "a"}}}, tr.cfg.Load().Config)
}

func TestSetAfterCloseIsRefused(t *testing.T) {
	var tr Tracker
	require.NoError(t, tr.Close())
	require.ErrorIs(t, tr.Set(func(*Config) {}), ErrClosed)
}

func TestAKindCoversItselfAndItsFamily(t *testing.T) {
	for _, tt := range []struct {
		k, kind Kind
		want    bool
	}{
		{"leak.dead_socket", "leak.dead_socket", true},
		{"leak", "leak.dead_socket", true},
		{"lea", "leak.dead_socket", false},
		{"leak.", "leak.dead_socket", false},
		{"leak.dead", "leak.dead_socket", false},
		{"close_wait", "leak.dead_socket", false},
		{"", "leak.dead_socket", false},
	} {
		require.Equal(t, tt.want, tt.k.covers(tt.kind), "%q", tt.k)
	}
}

func TestOffForgetsAndClears(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	d.finds(KindLeakCollected, d.entry("payments", line(88)))
	a.hears(d, "opened")
	require.NoError(t, d.tr.Set(func(c *Config) { c.Off = true }))
	d.pass(time.Millisecond, nil)
	a.hears(d, "cleared")
	require.Empty(t, d.tr.Findings())
}
