package jaegertest

import (
	"context"
	"fmt"
	"testing"
	"time"
)

const (
	// pollInterval is how often a condition is asked again.
	pollInterval = 20 * time.Millisecond

	// patience is how long a condition may stay unmet. It bounds a failure, not a
	// success: Jaeger starts in tens of milliseconds and shows a span at once.
	patience = 30 * time.Second
)

// Eventually calls check until it returns nil, and fails the test with its last
// error when that has not happened within the given time, 0 meaning 30 seconds.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	if within == 0 {
		within = patience
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := poll(ctx, check, func(error) bool { return true }); err != nil {
		t.Fatalf("jaegertest: not within %v: %v", within, err)
	}
}

// poll calls check until it returns nil or an error that is not worth another
// try, at the latest until ctx is done.
func poll(ctx context.Context, check func() error, again func(error) bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil || !again(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
