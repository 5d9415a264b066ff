// Package row says what a row of the benchmark is: something that is done with
// plain connections and with tracked ones, and what that may cost.
package row

import (
	"context"
	"fmt"
)

// Columns that several rows share. The first is what all others are compared
// with.
const (
	Plain     = "plain"     // package net, net/http, crypto/tls
	Tracker   = "tracker"   // a tracker that nobody observes
	Metrics   = "+metrics"  // reported to an SDK's MeterProvider; this is what budgets are about
	Unsampled = "unsampled" // and a span for every connection, which the sampler refuses
	Sampled   = "sampled"   // and a span for every connection, to an exporter that discards it
)

// A Row is one thing that is measured.
type Row struct {
	Name string // short, for -run and the table: "dial+close"
	What string // one line: what one operation is
	Run  func(ctx context.Context, e *Env) (Result, error)

	// Start, if it is not nil, does the same in two steps: what it begins goes on
	// in other processes while other rows are measured, and finish waits for it.
	Start func(ctx context.Context, e *Env) (finish func() (Result, error), err error)
}

// Size says how much a row may do.
type Size int

// The sizes.
const (
	Full     Size = iota // what figures are quoted from
	Quick                // a few seconds
	Smallest             // once, so that it does not rot: for tests. Times mean nothing
)

// Env is what a row runs in.
type Env struct {
	Size Size
	Raw  *Raw // nil: not wanted
	Logf func(format string, args ...any)
}

// Pick returns the value for the size that is asked for.
func Pick[T any](e *Env, smallest, quick, full T) T {
	switch e.Size {
	case Smallest:
		return smallest
	case Quick:
		return quick
	default:
		return full
	}
}

// Result is what a row has measured.
type Result struct {
	Cells  []Cell
	Checks []Check
	Notes  []string // what a reader has to know: one line each
}

// A Cell is one figure. Those of one quantity make a line of the table.
type Cell struct {
	Of     string // the quantity: "time", "allocs"
	Column string
	Value  float64
	Unit   Unit
	Spread float64 // how far Value may be off, what is printed as ±; 0 for what is exact
	More   bool    // Value is what comes on top of the first column
}

// Add adds figures of one quantity.
func (r *Result) Add(cells ...Cell) { r.Cells = append(r.Cells, cells...) }

// Check holds a figure and its standard error against its budget.
func (r *Result) Check(b Budget, measured, err float64) {
	r.Checks = append(r.Checks, Check{Budget: b, Measured: measured, Error: err})
}

// Notef adds a line for the reader.
func (r *Result) Notef(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}
