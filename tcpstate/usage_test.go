package tcpstate_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// usable returns a tracker and the watches of two connections.
func usable(t *testing.T) (tr *tcpstate.Tracker, a, b *tcpstate.Watch) {
	t.Helper()
	tr = leaktest.Tracker(t)
	x, y := tcptest.Pair(t)
	return tr, tr.Track(x, tcpstate.Origin{}).Watch(), tr.Track(y, tcpstate.Origin{Role: tcpstate.Server}).Watch()
}

func TestAUseMovesFromConnectionToConnection(t *testing.T) {
	tr, a, b := usable(t)
	u := tr.NewUsage(t.Context(), tcpstate.Use{Method: "GET", Name: "x"})
	require.Zero(t, a.Snapshot().InUse)
	u.Attach(a)
	require.Equal(t, 1, a.Snapshot().InUse)
	u.Attach(b)
	require.Zero(t, a.Snapshot().InUse)
	require.Equal(t, 1, b.Snapshot().InUse)
	u.Attach(nil)
	require.Zero(t, b.Snapshot().InUse)
	u.Attach(a)
	u.End()
	u.End()
	u.Attach(b)
	u.Progress()
	require.Zero(t, a.Snapshot().InUse)
	require.Zero(t, b.Snapshot().InUse)
	require.Equal(t, "GET x", a.Snapshot().Use, "remembered as the last")
	require.Empty(t, b.Snapshot().Use, "it left before its end")
}

func TestUsesEndInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}} {
		tr, a, _ := usable(t)
		var uses []*tcpstate.Usage
		for _, name := range []string{"0", "1", "2"} {
			u := tr.NewUsage(t.Context(), tcpstate.Use{Name: name})
			u.Attach(a)
			uses = append(uses, u)
		}
		require.Equal(t, "0", a.Snapshot().Use, "the oldest is shown")
		for i, n := range order {
			uses[n].End()
			require.Equal(t, 2-i, a.Snapshot().InUse)
		}
		require.EqualValues(t, 3, a.Snapshot().Uses)
	}
}

func TestANilUsageDoesNothing(t *testing.T) {
	_, a, _ := usable(t)
	var u *tcpstate.Usage
	u.Attach(a)
	u.Attach(nil)
	u.Progress()
	u.End()
	var w *tcpstate.Watch
	require.Nil(t, w.Handle(t.Context(), tcpstate.Use{}, nil))
	w.Hijacked()
	w.Use(t.Context(), tcpstate.Use{})()

	off := &tcpstate.Tracker{Config: tcpstate.Config{Off: true}}
	defer off.Close()
	require.Nil(t, off.NewUsage(t.Context(), tcpstate.Use{}))
}

func TestAUseOfAClosedConnectionIsNone(t *testing.T) {
	tr := leaktest.Tracker(t)
	x, _ := tcptest.Pair(t)
	conn := tr.Track(x, tcpstate.Origin{})
	u := tr.NewUsage(t.Context(), tcpstate.Use{Name: "x"})
	conn.Close()
	u.Attach(conn.Watch())
	require.Zero(t, conn.Watch().Snapshot().InUse)
	require.Nil(t, conn.Watch().Handle(t.Context(), tcpstate.Use{}, nil))
	u.End()
}

type useTestKey struct{}

func TestOneRequestIsHandledOnce(t *testing.T) {
	_, _, b := usable(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	outer := b.Handle(ctx, tcpstate.Use{Method: "GET"}, nil)
	require.NotNil(t, outer)
	require.Equal(t, "GET", b.Snapshot().Use)

	inner := b.Handle(context.WithValue(ctx, useTestKey{}, 1), tcpstate.Use{Name: "/route"}, nil)
	require.Nil(t, inner)
	require.Equal(t, "GET /route", b.Snapshot().Use)
	require.Equal(t, 1, b.Snapshot().InUse)
	inner.End()
	require.Equal(t, 1, b.Snapshot().InUse)

	other, cancelOther := context.WithCancel(t.Context())
	defer cancelOther()
	second := b.Handle(other, tcpstate.Use{Method: "PUT"}, nil)
	require.NotNil(t, second)
	endless := b.Handle(context.Background(), tcpstate.Use{}, nil)
	require.NotNil(t, endless)
	require.NotNil(t, b.Handle(context.Background(), tcpstate.Use{}, nil), "nothing tells these apart")
	require.Equal(t, 4, b.Snapshot().InUse)
	outer.End()
	second.End()
	endless.End()
	require.Equal(t, 1, b.Snapshot().InUse)
}

func TestAHijackedConnectionStaysInUse(t *testing.T) {
	_, _, b := usable(t)
	u := b.Handle(t.Context(), tcpstate.Use{Name: "/ws"}, nil)
	b.Hijacked()
	u.End()
	require.Equal(t, 1, b.Snapshot().InUse)
	require.Equal(t, "/ws", b.Snapshot().Use)
}

func TestUsesMayBeTouchedFromManyGoroutines(t *testing.T) {
	tr, a, b := usable(t)
	var wg sync.WaitGroup
	for range 4 {
		u := tr.NewUsage(t.Context(), tcpstate.Use{Name: "x"})
		for _, f := range []func(){
			func() { u.Attach(a) },
			func() { u.Attach(b) },
			u.Progress,
			u.End,
			u.End,
			func() { a.Snapshot() },
			func() { tr.Findings() },
		} {
			wg.Go(func() {
				for range 100 {
					f()
				}
			})
		}
	}
	wg.Wait()
	require.Zero(t, a.Snapshot().InUse)
	require.Zero(t, b.Snapshot().InUse)
}
