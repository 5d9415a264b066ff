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

	// ProbePooled is how long a connection that is declared Expect.Pooled may lie
	// idle before its peer is asked, by one keepalive probe and under the rules
	// of Watch.Probe, whether it is still there. What does not answer is reported
	// as peer.dead_probes before anybody takes it out of the pool. Zero and
	// less: peers are not asked. Less than 2 s is refused.
	ProbePooled time.Duration

	// HideFrames lists prefixes of function names that never are the line of
	// code to open: wrappers and middleware of the application.
	HideFrames []string

	// Mute silences findings that are known.
	Mute []Mute
}

// settings is a Config that is in force.
type settings struct {
	Config
	limits Thresholds // resolved
}

func newSettings(c Config) *settings { return &settings{c, c.Thresholds.resolved()} }

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

	// Dial is how long a SYN may stay unanswered, after at least two
	// retransmissions, before the dial in progress is reported. Default 3 s:
	// the kernel has sent it three times by then.
	Dial time.Duration

	// DNS is how long the resolution of a name may take. Default 2 s: a
	// resolver that lost one packet answers after that time at most.
	DNS time.Duration

	// Handshake is how long a handshake above TCP may last, where something
	// proves that there is one. Default 10 s, as the TLSHandshakeTimeout of
	// http.DefaultTransport.
	Handshake time.Duration

	// UnusedDial is how long a connection may stay untouched after the context
	// that it was dialed with has ended. Default 30 s.
	UnusedDial time.Duration

	// Accept is how long connections may wait in the accept queue while nobody
	// accepts. Default 10 s.
	Accept time.Duration

	// BlockedAccept is the same while Accept is busy reading from a connection.
	// Default 5 s: then every new client waits for that one.
	BlockedAccept time.Duration

	// Accepted is how long an accepted connection may stay without a request:
	// silent, unread or incomplete. Default 30 s.
	Accepted time.Duration

	// Unresponsive is how long nothing may be acknowledged, after at least
	// three retransmission timeouts. Default 10 s: longer than the outages
	// that routing heals.
	Unresponsive time.Duration

	// NotReading is how long bytes may wait without any being taken: on the
	// way to a peer that does not read, or here because the application does
	// not. Default 30 s.
	NotReading time.Duration

	// Idle is how long a connection may lie idle without anything that would
	// notice a vanished peer, before it is counted as unverifiable. Default
	// 10 min: longer than most middleboxes keep idle connections.
	Idle time.Duration

	// FINUnacked is how long our FIN may stay unacknowledged after Close, after
	// at least three retransmissions. Default 10 s.
	FINUnacked time.Duration

	// Undelivered is how long bytes may wait for a peer that does not read
	// after Close. Default 30 s.
	Undelivered time.Duration

	// HalfOpen is how long one direction may stay open without a byte after the
	// other was closed. Default 60 s: as long as the kernel keeps half-closed
	// connections that no program holds (net.ipv4.tcp_fin_timeout).
	HalfOpen time.Duration

	// Orphan is how long the upstream half of a pair may wait for an answer
	// that nobody downstream wants. Default 30 s.
	Orphan time.Duration

	// Borrowed is how long a connection may stay lent out without moving a byte
	// while somebody waits for one. Default 30 s; less than 2 s is refused.
	Borrowed time.Duration

	// Held is the same while nobody waits. Default off: who holds a connection
	// that nobody misses may have a reason. Less than 2 s is refused.
	Held time.Duration
}

// threshold is one field of Thresholds.
type threshold struct {
	name string
	d    *time.Duration
	def  time.Duration
	min  time.Duration // a smaller value is refused
}

// all lists the fields but for Collected, which is no time.
func (t *Thresholds) all() []threshold {
	// Below 10 ms the loop's own granularity decides, and a connection between
	// FIN and Close looks like a leak. A plain number taken for seconds (30 is
	// 30 ns) ends there, too.
	const least = 10 * time.Millisecond
	return []threshold{
		{"CloseWait", &t.CloseWait, 30 * time.Second, least},
		{"DeadSocket", &t.DeadSocket, 30 * time.Second, least},
		{"Reminder", &t.Reminder, time.Minute, least},
		{"Dial", &t.Dial, 3 * time.Second, least},
		{"DNS", &t.DNS, 2 * time.Second, least},
		{"Handshake", &t.Handshake, 10 * time.Second, least},
		{"UnusedDial", &t.UnusedDial, 30 * time.Second, least},
		{"Accept", &t.Accept, 10 * time.Second, least},
		{"BlockedAccept", &t.BlockedAccept, 5 * time.Second, least},
		{"Accepted", &t.Accepted, 30 * time.Second, least},
		{"Unresponsive", &t.Unresponsive, 10 * time.Second, least},
		{"NotReading", &t.NotReading, 30 * time.Second, least},
		{"Idle", &t.Idle, 10 * time.Minute, least},
		{"FINUnacked", &t.FINUnacked, 10 * time.Second, least},
		{"Undelivered", &t.Undelivered, 30 * time.Second, least},
		{"HalfOpen", &t.HalfOpen, time.Minute, least},
		{"Orphan", &t.Orphan, 30 * time.Second, least},
		{"Borrowed", &t.Borrowed, 30 * time.Second, 2 * time.Second},
		{"Held", &t.Held, off, 2 * time.Second},
	}
}

// DefaultThresholds returns the thresholds of the zero value, written out; one
// that is off is negative.
func DefaultThresholds() Thresholds {
	var t Thresholds
	t = t.resolved()
	for _, th := range t.all() {
		if *th.d == off {
			*th.d = -1
		}
	}
	return t
}

// resolved returns t with the defaults in place of zeros, and off in place of
// negative values.
func (t Thresholds) resolved() Thresholds {
	for _, th := range t.all() {
		*th.d = orDefault(*th.d, th.def)
	}
	return t
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

func (c *Config) sweep() time.Duration { return orDefault(c.SweepInterval, defaultSweep) }

// validate refuses what can only be a mistake.
func (c *Config) validate() error {
	if d := c.SweepInterval; d > 0 && d < 100*time.Millisecond {
		return fmt.Errorf("tcpstate: SweepInterval %v is below 100ms", d)
	}
	if c.SweepInterval > time.Hour {
		return fmt.Errorf("tcpstate: SweepInterval %v is above an hour", c.SweepInterval)
	}
	if d := c.ProbePooled; d > 0 && d < 2*time.Second {
		return fmt.Errorf("tcpstate: ProbePooled %v is below 2s", d)
	}
	for _, th := range c.Thresholds.all() {
		if *th.d > 0 && *th.d < th.min {
			return fmt.Errorf("tcpstate: Thresholds.%s %v is below %v", th.name, *th.d, th.min)
		}
		if *th.d > 30*24*time.Hour {
			return fmt.Errorf("tcpstate: Thresholds.%s %v is above 30 days; use a negative value for off", th.name, *th.d)
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
