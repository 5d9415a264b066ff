package tcpotel_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// pool makes a pool that says s.
func (r *rig) pool(name string, s tcpstate.PoolStats) {
	p := r.tracker.NewPool(tcpstate.Origin{Name: name})
	r.Cleanup(p.Report(func() (tcpstate.PoolStats, bool) { return s, true }))
}

// talkative says all there is to say.
var talkative = tcpstate.PoolStats{
	Idle: 3, Used: 5, Max: 10, IdleMax: 4, IdleMin: 1, Pending: 2, Timeouts: 7,
	Waits:    tcpstate.PoolTimes{Count: 11, Time: 3 * time.Second},
	Uses:     tcpstate.PoolTimes{Count: 100, Time: 50 * time.Second},
	Creates:  tcpstate.PoolTimes{Count: 9, Time: 900 * time.Millisecond},
	Discards: []tcpstate.PoolDiscards{{Reason: tcpstate.DiscardPeerClosed, Count: 6}, {Reason: "made up", Count: 1}},
}

// taciturn says what every pool knows.
var taciturn = tcpstate.PoolStats{
	Used: 1, Pending: -1, Timeouts: -1,
	Waits: tcpstate.PoolTimes{Count: -1}, Uses: tcpstate.PoolTimes{Count: -1}, Creates: tcpstate.PoolTimes{Count: -1},
}

// ofPools returns all points about pools.
func (r *rig) ofPools() map[string]map[string]float64 {
	r.Helper()
	all := make(map[string]map[string]float64)
	for name, m := range r.collected() {
		if strings.Contains(name, ".connection.") && strings.Contains(name, "pool") || strings.HasPrefix(name, "db.") {
			all[name] = points(m)
		}
	}
	return all
}

func TestPoolsAreObservedWithWhatTheyKnow(t *testing.T) {
	r := newRig(t).start()
	require.Empty(t, r.ofPools(), "there is no pool")
	r.pool("cache", talkative)
	r.pool("mail", taciturn)
	one := func(n float64) map[string]float64 { return map[string]float64{"pool.name=cache": n} }
	const p = "tcpstate.pool.connection."
	require.Equal(t, map[string]map[string]float64{
		p + "count": {
			"pool.connection.state=idle pool.name=cache": 3,
			"pool.connection.state=used pool.name=cache": 5,
			"pool.connection.state=idle pool.name=mail":  0,
			"pool.connection.state=used pool.name=mail":  1,
		},
		p + "max": one(10), p + "idle.max": one(4), p + "idle.min": one(1),
		p + "pending_requests": one(2), p + "timeouts": one(7),
		p + "waits": one(11), p + "wait_time": one(3),
		p + "uses": one(100), p + "use_time": one(50),
		p + "creates": one(9), p + "create_time": one(.9),
		p + "discards": {
			"pool.discard.reason=peer_closed pool.name=cache": 6,
			"pool.discard.reason=_OTHER pool.name=cache":      1,
		},
	}, r.ofPools())
	units := make(map[string]string)
	for name, m := range r.collected() {
		if rest, ok := strings.CutPrefix(name, p); ok {
			units[rest] = m.Unit
		}
	}
	require.Equal(t, map[string]string{
		"count": "{connection}", "max": "{connection}", "idle.max": "{connection}", "idle.min": "{connection}",
		"pending_requests": "{request}", "timeouts": "{timeout}", "discards": "{connection}",
		"waits": "{request}", "uses": "{use}", "creates": "{connection}",
		"wait_time": "s", "use_time": "s", "create_time": "s",
	}, units)
	for _, name := range []string{"waits", "wait_time", "timeouts", "discards"} {
		switch d := r.collected()[p+name].Data.(type) {
		case metricdata.Sum[int64]:
			require.True(t, d.IsMonotonic, name)
		case metricdata.Sum[float64]:
			require.True(t, d.IsMonotonic, name)
		}
	}
}

func TestPoolsWithOneNameAreAddedUp(t *testing.T) {
	r := newRig(t).start()
	r.pool("cache", talkative)
	r.pool("cache", talkative)
	require.Equal(t, map[string]float64{"pool.name=cache": 20}, r.points("tcpstate.pool.connection.max"))
	r.pool("cache", taciturn)
	require.Empty(t, r.points("tcpstate.pool.connection.max"), "one has no limit")
	require.Equal(t, map[string]float64{"pool.name=cache": 22}, r.points("tcpstate.pool.connection.waits"))
}

func TestPoolsOfDatabasesMayHaveTheNamesOfTheConventions(t *testing.T) {
	r := newRig(t).start(tcpotel.WithDBClientNames())
	db := talkative
	db.Database = true
	r.pool("orders", db)
	r.pool("cache", talkative)
	const (
		name = "db.client.connection.pool.name=orders"
		idle = name + " db.client.connection.state=idle"
		used = name + " db.client.connection.state=used"
	)
	got := r.ofPools()
	require.Equal(t, map[string]float64{idle: 3, used: 5}, got["db.client.connection.count"])
	for of, want := range map[string]float64{"max": 10, "idle.max": 4, "idle.min": 1, "pending_requests": 2, "timeouts": 7} {
		require.Equal(t, map[string]float64{name: want}, got["db.client.connection."+of], of)
		require.Equal(t, map[string]float64{"pool.name=cache": want}, got["tcpstate.pool.connection."+of], of)
	}
	require.Equal(t, map[string]float64{"pool.name=cache": 3, "pool.name=orders": 3}, got["tcpstate.pool.connection.wait_time"])
	require.NotContains(t, got, "db.client.connection.wait_time", "by the conventions it is a histogram")
}

func TestThereAreNoMorePoolNamesThanThereIsRoomFor(t *testing.T) {
	r := newRig(t).start(tcpotel.WithDBClientNames())
	total := 0
	for n := range 2*tcpotel.MaxNames + 10 {
		s := talkative
		s.Database = n%2 == 0
		r.pool(fmt.Sprint("pool", n), s)
		total += s.Used
	}
	seen := 0
	for name, m := range r.collected() {
		n, names := 0, make(map[string]bool)
		eachSet(m, func(s attribute.Set) {
			n++
			for _, key := range []attribute.Key{"tcpstate.pool.name", "db.client.connection.pool.name"} {
				if v, ok := s.Value(key); ok {
					names[v.Emit()] = true
				}
			}
		})
		require.Less(t, n, sdkLimit, name)
		require.LessOrEqual(t, len(names), tcpotel.MaxNames+1, name)
		if strings.HasSuffix(name, "pool.connection.count") || name == "db.client.connection.count" {
			for set, v := range points(m) {
				if strings.Contains(set, "state=used") {
					seen += int(v)
				}
			}
		}
	}
	require.Equal(t, total, seen, "what is folded is not lost")
}

func TestAWaitForAConnectionIsAChildOfTheCallersSpan(t *testing.T) {
	r := newRig(t).start()
	p := r.tracker.NewPool(tcpstate.Origin{Name: "cache"})
	dial, dialer := r.request("first")
	conn, _, target := r.dialed(dial, "cache")
	dialer.End()
	r.clock.Advance(2 * time.Second)
	socket := r.span("socket connect " + target)

	ctx, caller := r.request("second")
	done := p.Waiting(ctx)
	r.clock.Advance(3 * time.Second)
	done(tcpstate.Of(conn), nil)
	failed := p.Waiting(ctx)
	failed(nil, context.DeadlineExceeded)
	p.Waiting(t.Context())(nil, nil) // nobody records
	caller.End()
	r.finish()

	all := r.named("tcpstate wait_for_connection cache")
	require.Len(t, all, 2)
	for _, s := range all {
		require.Equal(t, caller.SpanContext().SpanID(), s.Parent.SpanID())
		require.Equal(t, "cache", attr(s, "tcpstate.pool.name").AsString())
	}
	require.Equal(t, 3*time.Second, all[0].EndTime.Sub(all[0].StartTime))
	require.Equal(t, codes.Unset, all[0].Status.Code)
	require.Len(t, all[0].Links, 1)
	require.Equal(t, socket.SpanContext.SpanID(), all[0].Links[0].SpanContext.SpanID())
	require.Equal(t, int64(tcpstate.Of(conn).ID()), attr(all[0], "tcpstate.connection.id").AsInt64())
	require.Equal(t, codes.Error, all[1].Status.Code)
	require.Equal(t, "timed_out", attr(all[1], "error.type").AsString())
	require.Empty(t, all[1].Links)
}
