package debughttp

import (
	"strconv"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// pool is a row of the table of pools. What a pool does not count is absent.
type pool struct {
	Name     string         `json:"name,omitempty"`
	Idle     int            `json:"idle"`
	Used     int            `json:"used"`
	Max      int            `json:"max,omitempty"`
	Pending  *int           `json:"pending,omitempty"`
	Timeouts *int64         `json:"timeouts,omitempty"`
	Waits    *poolTimes     `json:"waits,omitempty"`
	Uses     *poolTimes     `json:"uses,omitempty"`
	Creates  *poolTimes     `json:"creates,omitempty"`
	Discards []poolDiscards `json:"discards,omitempty"`
}

// poolTimes is how often something happened, and how long it took together.
type poolTimes struct {
	Count int64             `json:"count"`
	Time  tcpstate.Duration `json:"time"`
}

type poolDiscards struct {
	Reason tcpstate.DiscardReason `json:"reason"`
	Count  int64                  `json:"count"`
}

func poolOf(s *tcpstate.PoolStats) pool {
	p := pool{
		Name: s.Name, Idle: s.Idle, Used: s.Used, Max: s.Max, Pending: known(s.Pending), Timeouts: known(s.Timeouts),
		Waits: timesOf(s.Waits), Uses: timesOf(s.Uses), Creates: timesOf(s.Creates),
	}
	for _, d := range s.Discards {
		if d.Count > 0 {
			p.Discards = append(p.Discards, poolDiscards{d.Reason, d.Count})
		}
	}
	return p
}

func known[T int | int64](n T) *T {
	if n < 0 {
		return nil
	}
	return &n
}

func timesOf(t tcpstate.PoolTimes) *poolTimes {
	if t.Count < 0 {
		return nil
	}
	return &poolTimes{t.Count, tcpstate.Duration(t.Time)}
}

// Full reports whether the next request has to wait. A pool with a limit for each
// address tells of none: there a request that waits shows it.
func (p pool) Full() bool {
	return p.Max > 0 && p.Used >= p.Max || p.Pending != nil && *p.Pending > 0
}

// Limit returns how many connections there may be, empty without a limit.
func (p pool) Limit() string {
	if p.Max == 0 {
		return ""
	}
	return strconv.Itoa(p.Max)
}
