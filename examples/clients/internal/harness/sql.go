package harness

import (
	"context"
	"database/sql"
	"testing"
)

// Miss lets somebody wait for a connection of db, all of which are in use, until
// the test ends.
func Miss(t testing.TB, db *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = db.PingContext(ctx) // with the test ends the use of the others too, whose connection may still come
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	WaitUntil(t, "the wait", func() bool { return db.Stats().WaitCount > 0 })
}
