// Package budget holds what things may cost. The table and the tests judge by
// it.
package budget

import "github.com/tcpstate/tcpstate-go/bench/internal/row"

// Quantities that several rows have.
const (
	Time   = "time"
	CPU    = "cpu"
	Allocs = "allocs"
	Bytes  = "bytes"
)

// A Cost is the budget of an operation beside the plain one, with tracker and
// metrics. What is nil is not limited: the measured truth is all there is.
type Cost struct{ Time, Allocs, Bytes *row.Budget }

// The budgets of single operations.
var (
	// Read takes one atomic store, and allocates nothing.
	Read = Cost{Time: time(3), Allocs: allocs(0)}
	// A connection is an entry, its wrapper and its cleanup.
	DialClose   = Cost{Time: time(6_000), Allocs: today(8, allocs(6)), Bytes: bytes(450)}
	AcceptClose = Cost{Time: time(6_000), Allocs: allocs(6), Bytes: bytes(450)}
	// A request is a context, a trace and a record in one piece, and a body.
	WarmHTTP = Cost{Time: time(1_500), Allocs: allocs(4)}
)

// The budgets of what is not an operation.
var (
	// LiveConn is heap per connection beyond plain.
	LiveConn = row.Budget{Of: "live", Limit: 400, Unit: row.Bytes, More: true}
	// Retained is what a closed connection leaves behind beyond plain. Less than
	// a byte for each is the noise of the runtime's own structures.
	Retained = row.Budget{Of: "retained", Limit: 1, Unit: row.Bytes, More: true}
	// LostSpans are spans of the application's requests that found no room in
	// the batch queue.
	LostSpans = row.Budget{Of: "request spans lost", Limit: 0, Exact: true}
	// Unaccounted are events that an observer was not told of and that were not
	// counted as dropped.
	Unaccounted = row.Budget{Of: "events unaccounted", Limit: 0, Exact: true}
	// SlowObserver is what an observer that does not keep up may cost the
	// application, beside a tracker without one: a tenth of accept+close, as much
	// as a storm may slow down others.
	SlowObserver = row.Budget{Of: Time, Limit: 6_000, Unit: row.Nanoseconds, More: true}
	// DialCalls and AcceptCalls are system calls by connection, beyond plain: the
	// TCP_INFO that Close saves and, where the socket may be of MPTCP, whether
	// something is left to be read.
	DialCalls   = row.Budget{Of: "calls", Limit: 1, More: true, Exact: true, Round: true}
	AcceptCalls = row.Budget{Of: "calls", Limit: 2, More: true, Exact: true, Round: true}
	// Calls are system calls that move data and are made either by plain
	// connections or by ours, but not by both.
	Calls = row.Budget{Of: "unlike plain", Limit: 0, Exact: true, Unit: "calls"}
)

func time(ns float64) *row.Budget {
	return &row.Budget{Of: Time, Limit: ns, Unit: row.Nanoseconds, More: true}
}

func allocs(n float64) *row.Budget {
	return &row.Budget{Of: Allocs, Limit: n, More: true, Exact: true, Round: true}
}

// today is b until it is met: tests accept n meanwhile, and no more.
func today(n float64, b *row.Budget) *row.Budget {
	b.Today = n
	return b
}

func bytes(n float64) *row.Budget {
	return &row.Budget{Of: Bytes, Limit: n, Unit: row.Bytes, More: true}
}
