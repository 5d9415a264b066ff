package harness

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"
)

// Miss lets somebody wait for a connection of db, all of which are in use, until
// the test ends.
func Miss(t testing.TB, db *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- db.PingContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	WaitUntil(t, "the wait", func() bool { return db.Stats().WaitCount > 0 })
}
