package budget

import "github.com/tcpstate/tcpstate-go/bench/internal/row"

// The budgets of many connections, in the default configuration.
var (
	// FINEvent is how long a peer's FIN may take to be known, at the 99th
	// percentile, among many idle connections.
	FINEvent = row.Budget{Of: "FIN to event", Limit: 1e6, Unit: row.Nanoseconds}
	// SweepRatio is what the sweep takes of a connection beside the bare question
	// to the kernel.
	SweepRatio = row.Budget{Of: "ours / plain", Limit: 1.1, Unit: "×"}
	// AfterClose is what following closed sockets may take of a core while 10,000
	// connections a second are closed.
	AfterClose = row.Budget{Of: "after close", Limit: 1, Unit: row.Percent}

	// IdleCPU is the share of a core that idle connections take, beyond those of
	// a process without a tracker.
	IdleCPU = row.Budget{Of: CPU, Limit: 0.4, Unit: row.Percent, More: true}
	// IdleWakes is how often a process whose connections are all idle wakes up.
	IdleWakes = row.Budget{Of: "wake-ups", Limit: 3, Unit: "/s"}
	// IdleTick is how long it runs then.
	IdleTick = row.Budget{Of: "longest tick", Limit: 2e6, Unit: row.Nanoseconds}
	// IdleGrowth is by how much its heap may grow in ten minutes, in either
	// direction.
	IdleGrowth = row.Budget{Of: "heap drift", Limit: 1, Unit: row.Percent}
	// EmptyLoops are goroutines of a tracker that has nothing to track: without
	// one it does not wake up.
	EmptyLoops = row.Budget{Of: "loops of an empty tracker", Limit: 0, Exact: true}

	// A storm of leaks at three lines.
	StormGroups  = row.Budget{Of: "groups", Limit: 3, Exact: true}
	StormSpans   = row.Budget{Of: "finding spans", Limit: 3, Exact: true}
	StormRecords = row.Budget{Of: "log records", Limit: 12, Exact: true} // opened, cleared and two reminders of each
	StormOpen    = row.Budget{Of: "findings never cleared", Limit: 0, Exact: true}
	StormLost    = row.Budget{Of: "events lost", Limit: 0, Exact: true}
	StormConns   = row.Budget{Of: "spans of connections", Limit: 3 * 10 * 3, Exact: true} // of 10 at each line, with 2 phases
	StormMissing = row.Budget{Of: "connections unaccounted", Limit: 0, Exact: true}       // without a span, and not counted
	StormHeap    = row.Budget{Of: "heap per leak", Limit: 1024, Unit: row.Bytes, More: true}
	StormKept    = row.Budget{Of: "heap kept after", Limit: 2e6, Unit: row.Bytes}
	StormHarm    = row.Budget{Of: "fewer round trips", Limit: 10, Unit: row.Percent}
)
