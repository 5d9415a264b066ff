package tcpstate_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// What is kept of a dial is used again for the next one. A hook that is late
// must not tell of the wrong one.
func TestWhatIsToldOfADialThatIsOverIsNotToldOfTheNext(t *testing.T) {
	tr := newTracker(t)
	var late []*tcpstate.Dialing
	for i := range 50 {
		d := tr.BeginDial(t.Context(), "tcp", tcpstate.Origin{Target: "db:5432"})
		for _, old := range late {
			old.Trying(t.Context(), "192.0.2.1:1", nil)
			old.Resolving()
			old.Resolved([]net.IPAddr{{IP: net.IPv4zero}}, nil)
			old.Tried("192.0.2.2:5432", nil)
			require.Zero(t, old.Hooks())
		}
		d.Trying(t.Context(), "192.0.2.2:5432", nil)
		if i%2 == 0 { // else nobody looks, and the dial is used again
			all := slices.Collect(tr.Dials())
			require.Len(t, all, 1)
			require.Zero(t, all[0].Resolution)
			require.Len(t, all[0].Attempts, 1)
			require.Equal(t, "192.0.2.2:5432", all[0].Attempts[0].Remote.String())
			require.False(t, all[0].Attempts[0].Ended)
		}
		d.Done(nil, context.Canceled, true)
		late = append(late, d)
	}
	require.Empty(t, slices.Collect(tr.Dials()))
	require.Equal(t, uint64(50), tr.Stats().Dials)
}

func TestManyLateHooksDoNotDisturbDials(t *testing.T) {
	tr := newTracker(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 300 {
				d := tr.BeginDial(t.Context(), "tcp", tcpstate.Origin{Target: "db:5432"})
				ctx := d.Context(t.Context())
				all.Go(func() {
					d.Trying(ctx, "192.0.2.1:1", nil)
					d.Tried("192.0.2.1:1", nil)
					_ = ctx.Err()
				})
				for s := range tr.Dials() {
					_ = s
				}
				d.Done(nil, context.Canceled, true)
			}
		})
	}
	all.Wait()
	require.Empty(t, slices.Collect(tr.Dials()))
}

type valueKey struct{}

func TestTheContextOfADialIsThatOfItsCallerUntilItIsOver(t *testing.T) {
	tr := newTracker(t)
	parent, cancel := context.WithTimeout(context.WithValue(t.Context(), valueKey{}, 7), time.Hour)
	defer cancel()
	inner, _ := tcptest.Pair(t)
	d := tr.BeginDial(parent, "tcp", tcpstate.Origin{})
	ctx := d.Context(parent)
	want, _ := parent.Deadline()
	got, ok := ctx.Deadline()
	require.True(t, ok)
	require.Equal(t, want, got)
	require.Equal(t, parent.Done(), ctx.Done())
	require.Equal(t, 7, ctx.Value(valueKey{}))
	require.NoError(t, ctx.Err())
	child, stop := context.WithCancel(ctx)
	require.Same(t, d, tcpstate.DialingFromContext(child))
	stop()

	c := d.Done(inner, nil, true)
	defer c.Close()
	require.ErrorIs(t, ctx.Err(), context.Canceled)
	<-ctx.Done()
	require.Nil(t, ctx.Value(valueKey{}), "the connection may live long, what the context holds need not")
	require.NoError(t, parent.Err())
}

func TestAContextThatIsKeptIsThatOfItsCallerForEver(t *testing.T) {
	tr := newTracker(t)
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), valueKey{}, 7))
	defer cancel()
	inner, _ := tcptest.Pair(t)
	d := tr.BeginDial(parent, "tcp", tcpstate.Origin{})
	ctx := d.KeptContext(parent)
	require.Same(t, d, tcpstate.DialingFromContext(ctx))
	c := d.Done(inner, nil, true)
	defer c.Close()
	require.NoError(t, ctx.Err())
	require.Equal(t, 7, ctx.Value(valueKey{}))
	cancel()
	<-ctx.Done()
}
