package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestAFindingNamesAllThatUseTheConnection(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	r.say(c, "ask", s)
	for _, name := range []string{"orders", "prices", "", "orders", "prices", "stock", "users", "more"} {
		defer c.Watch().Use(t.Context(), tcpstate.Use{Name: name})()
	}
	_, err := s.Write(make([]byte, 9000))
	require.NoError(t, err)
	r.clk.Advance(10 * time.Second)
	r.clk.Advance(45 * time.Second)
	f := r.one(tcpstate.KindLocalNotReading)
	require.Equal(t, 8, f.Subject.InUse)
	require.Equal(t, "orders", f.Subject.Use)
	require.Contains(t, f.String(), "orders and 7 more, ")
	require.Equal(t, "more, users, stock", note(f, "also in use by"))
}

func TestASnapshotTellsSinceWhenAConnectionIsIdle(t *testing.T) {
	r := newRig(t)
	c, _ := r.dialed(tcpstate.Expect{})
	require.Zero(t, c.Watch().Snapshot().IdleSince, "never used")
	done := c.Watch().Use(t.Context(), tcpstate.Use{})
	require.Zero(t, c.Watch().Snapshot().IdleSince)
	done()
	then := r.clk.Now()
	r.clk.Advance(time.Minute)
	require.WithinDuration(t, then, c.Watch().Snapshot().IdleSince, time.Millisecond)
	require.Equal(t, "db:5432", c.Watch().Target())
	require.Empty(t, (*tcpstate.Watch)(nil).Target())
}

func TestAUseKnowsHowOldItIs(t *testing.T) {
	r := newRig(t)
	c, _ := r.dialed(tcpstate.Expect{})
	u := r.tr.NewUsage(t.Context(), tcpstate.Use{})
	r.clk.Advance(time.Second)
	require.Zero(t, u.Age(), "of nothing")
	u.Attach(c.Watch())
	require.GreaterOrEqual(t, u.Age(), time.Second)
	lent := r.tr.NewUsage(t.Context(), tcpstate.Use{})
	r.tr.NewPool(tcpstate.Origin{}).Lend(lent)
	r.clk.Advance(time.Second)
	require.GreaterOrEqual(t, lent.Age(), time.Second)

	var none *tcpstate.Usage
	none.Failed()
	none.Answered()
	require.Zero(t, none.Age())
}
