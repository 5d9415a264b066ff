// Package faketime tells whether the calling goroutine is in a bubble of
// testing/synctest, where time.Now is not the machine's time and passes only
// while every goroutine of the bubble waits for it. One that waits for the
// network keeps it from passing.
package faketime
