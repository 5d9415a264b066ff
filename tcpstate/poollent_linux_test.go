package tcpstate_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Two pools with one name lend the same connections, for all that is known: one
// that has some left makes up for the other.
func TestPoolsWithOneNameAreMissedTogether(t *testing.T) {
	r := newRig(t)
	r.clk.Pace(100)
	c, s := r.dialed(tcpstate.Expect{})
	empty, full := tcpstate.PoolStats{Used: 1, Max: 1}, tcpstate.PoolStats{Used: 0, Max: 1}
	one := r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { empty.Waits.Count++; return empty, true })
	stop := r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { return full, true })
	r.say(c, "query", s)
	r.say(s, "answer", c)
	r.clk.Advance(80 * time.Second)
	r.silent()
	stop()
	r.clk.Advance(50 * time.Second)
	f := r.one(tcpstate.KindLeakNotReturned)
	require.Equal(t, "1 of 1", note(f, "lent out"))
	one()
	r.clk.Advance(12 * time.Second)
	require.Empty(t, r.tr.Findings())
	one = r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { empty.Waits.Count++; return empty, true })
	defer one()
	r.say(c, "query", s)
	r.say(s, "answer", c)
	r.clk.Advance(50 * time.Second)
	r.one(tcpstate.KindLeakNotReturned) // a new watch begins anew
}

// starving watches a pool whose connections are all lent out, and missed.
func (r *rig) starving() {
	s := tcpstate.PoolStats{Used: 1, Max: 1}
	r.Cleanup(r.tr.WatchPool(tcpstate.Origin{Name: "db"}, func() (tcpstate.PoolStats, bool) { s.Waits.Count++; return s, true }))
}

func readsFirst(c net.Conn) { c.Read(make([]byte, 1)) }
func readsLast(c net.Conn)  { c.Read(make([]byte, 1)) }

func TestOfALentConnectionTheLastReadCounts(t *testing.T) {
	r := newRig(t)
	r.clk.Pace(100)
	r.starving()
	c, s := r.dialed(tcpstate.Expect{})
	_, err := s.Write([]byte("ab"))
	require.NoError(t, err)
	readsFirst(c)
	readsLast(c) // before the loop has looked
	r.clk.Advance(60 * time.Second)
	f := r.one(tcpstate.KindLeakNotReturned)
	require.Contains(t, f.Sites[0].Frames[0].Function, "readsLast")
}

// Who listens for notifications may do so with deadlines.
func TestReadsThatFindNothingAreUseOfALentConnection(t *testing.T) {
	r := newRig(t)
	r.clk.Pace(100)
	r.starving()
	c, _ := r.dialed(tcpstate.Expect{})
	for range 10 {
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
		readsLast(c)
		r.clk.Advance(12 * time.Second)
		r.silent()
	}
	r.clk.Advance(40 * time.Second)
	r.one(tcpstate.KindLeakNotReturned)
}
