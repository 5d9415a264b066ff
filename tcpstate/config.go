package tcpstate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// ErrClosed is returned by methods of a Tracker after its Close.
var ErrClosed = errors.New("tcpstate: tracker closed")

// Config is what a Tracker is told. The zero value is the default
// configuration. Of every duration, zero means the documented default and a
// negative value means off.
type Config struct {
	// Off is the kill switch: connections made while it is set are not
	// tracked, tracked ones are forgotten. Dial, accept and I/O go on.
	Off bool

	Thresholds Thresholds

	// SweepInterval is how often every connection is sampled. Connections
	// under suspicion are sampled every second. Default 10 s; less than
	// 100 ms is refused.
	SweepInterval time.Duration

	// HideFrames lists prefixes of function names that never are the line of
	// code to open: wrappers and middleware of the application.
	HideFrames []string

	// Mute silences findings that are known.
	Mute []Mute
}

// Thresholds says how long a condition lasts, without progress, before it is
// reported. Progress (bytes acknowledged, application reads) starts the clock
// again.
type Thresholds struct {
	// CloseWait is how long the application may leave a peer's FIN
	// unanswered. Default 30 s: longer than a handler takes to end after its
	// client left, shorter than the 60 s after which a leaked connection
	// vanishes from ss (tcp_fin_timeout of the peer).
	CloseWait time.Duration

	// DeadSocket is how long the application may hold the descriptor of a
	// connection that the kernel has ended. Default 30 s.
	DeadSocket time.Duration

	// Collected switches leak.collected: there is no time in it, so only its
	// sign matters. Default on.
	Collected time.Duration

	// Reminder is the shortest time between two updates about one group of
	// findings; it doubles with every update, up to an hour. Default 1 min.
	Reminder time.Duration
}

// Mute silences the findings that match all of its non-zero fields; at least
// one of Kind, Name and Site must be set. Muted findings are counted in Stats.
type Mute struct {
	Kind   Kind      // exactly, or a family: "close_wait"
	Name   string    // the connection's Origin.Name
	Site   string    // suffix of "file:line" or of the function of the line to open
	Until  time.Time // zero: for ever
	Reason string    // for the reader of the configuration
}

const (
	defaultSweep    = 10 * time.Second
	defaultGrace    = 30 * time.Second
	defaultReminder = time.Minute
	maxReminder     = time.Hour
	suspectInterval = time.Second
	off             = time.Duration(1<<63 - 1)
)

// orDefault applies the rule of durations: zero is the default, negative is off.
func orDefault(d, def time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return off
	}
	return d
}

func (c *Config) sweep() time.Duration          { return orDefault(c.SweepInterval, defaultSweep) }
func (t *Thresholds) closeWait() time.Duration  { return orDefault(t.CloseWait, defaultGrace) }
func (t *Thresholds) deadSocket() time.Duration { return orDefault(t.DeadSocket, defaultGrace) }
func (t *Thresholds) reminder() time.Duration   { return orDefault(t.Reminder, defaultReminder) }

// validate refuses what can only be a mistake.
func (c *Config) validate() error {
	if d := c.SweepInterval; d > 0 && d < 100*time.Millisecond {
		return fmt.Errorf("tcpstate: SweepInterval %v is below 100ms", d)
	}
	if c.SweepInterval > time.Hour {
		return fmt.Errorf("tcpstate: SweepInterval %v is above an hour", c.SweepInterval)
	}
	for _, th := range []struct {
		name string
		d    time.Duration
	}{
		{"CloseWait", c.Thresholds.CloseWait},
		{"DeadSocket", c.Thresholds.DeadSocket},
		{"Reminder", c.Thresholds.Reminder},
	} {
		// Below this, the loop's own granularity decides, and a connection
		// between FIN and Close looks like a leak. A plain number taken for
		// seconds (30 is 30 ns) ends here, too.
		if th.d > 0 && th.d < 10*time.Millisecond {
			return fmt.Errorf("tcpstate: Thresholds.%s %v is below 10ms", th.name, th.d)
		}
		if th.d > 30*24*time.Hour {
			return fmt.Errorf("tcpstate: Thresholds.%s %v is above 30 days; use a negative value for off", th.name, th.d)
		}
	}
	for i, m := range c.Mute {
		if m.Kind == "" && m.Name == "" && m.Site == "" {
			return fmt.Errorf("tcpstate: Mute[%d] matches everything; set Kind, Name or Site, or use Off", i)
		}
		if m.Kind != "" && !knownKind(m.Kind) {
			return fmt.Errorf("tcpstate: Mute[%d]: unknown kind %q", i, m.Kind)
		}
	}
	for i, p := range c.HideFrames {
		if p == "" {
			return fmt.Errorf("tcpstate: HideFrames[%d] is empty and would hide every frame", i)
		}
	}
	return nil
}

func knownKind(k Kind) bool {
	for i := range kinds {
		if k.covers(kinds[i].Kind) {
			return true
		}
	}
	return false
}

func (c *Config) clone() Config {
	next := *c
	next.HideFrames = slices.Clone(c.HideFrames)
	next.Mute = slices.Clone(c.Mute)
	return next
}

// matchesSite reports whether Mute.Site, if set, is the line or the function
// that findings at site show first.
func (m *Mute) matchesSite(site sites.ID, hide []string) bool {
	if m.Site == "" {
		return true
	}
	frames := site.Owner(hide)
	return len(frames) > 0 &&
		(strings.HasSuffix(frames[0].String(), m.Site) || strings.HasSuffix(frames[0].Function, m.Site))
}

// covers reports whether k is kind or its family.
func (k Kind) covers(kind Kind) bool {
	if k == kind {
		return true
	}
	rest, ok := strings.CutPrefix(string(kind), string(k))
	return ok && strings.HasPrefix(rest, ".")
}
