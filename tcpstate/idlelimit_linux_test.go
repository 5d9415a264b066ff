package tcpstate_test

import (
	"encoding/json"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// jiffy is as exact as the kernel's ages are on any machine.
const jiffy = 10 * time.Millisecond

// quietPair is a connection that nothing is said over any more.
type quietPair struct {
	client *tcpstate.Conn
	server *net.TCPConn
}

// idles makes n connections whose exchange is complete, one each gap.
func (r *rig) idles(n int, gap time.Duration, x tcpstate.Expect) (all []quietPair) {
	r.Helper()
	for range n {
		c, s := tcptest.Pair(r.T)
		client := r.tr.Track(c, tcpstate.Origin{Name: "db", Target: "db:5432", Expect: x})
		r.say(client, "query", s)
		time.Sleep(jiffy)
		r.say(s, "answer", client)
		all = append(all, quietPair{client, s})
		r.clk.Advance(gap)
	}
	return all
}

// byReset is the farewell of a server that has no word to spare.
const byReset = "RST"

// ends lets the server close one connection after the other.
func (r *rig) ends(all []quietPair, gap time.Duration, farewell string) {
	r.Helper()
	for _, p := range all {
		if farewell == byReset {
			tcptest.Reset(r, p.server)
			tcptest.WaitState(r, p.client, tcptest.Closed)
		} else {
			time.Sleep(jiffy) // or it would seem to come before the clock was moved
			_, err := p.server.Write([]byte(farewell))
			require.NoError(r, err)
			r.closes(p.server, p.client.TCPConn)
		}
		r.clk.Settle()
		r.clk.Advance(gap)
	}
	r.clk.Advance(3 * time.Second)
}

func TestTheIdleLimitOfTheServerShowsInItsCloses(t *testing.T) {
	for name, tt := range map[string]struct {
		x        tcpstate.Expect
		farewell string
	}{
		"of what looks like a pool": {},
		"of a pool":                 {tcpstate.Expect{Pooled: true}, ""},
		"with a reset":              {farewell: byReset},
		"with a farewell":           {tcpstate.Expect{Pooled: true}, "idle-session timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.clk.Pace(200)
			all := r.idles(5, 10*time.Second, tt.x)
			r.clk.Advance(10 * time.Second) // the first one is idle for a minute
			r.ends(all[:4], 10*time.Second, tt.farewell)
			require.Len(t, r.tr.Findings(), 4)
			require.Zero(t, r.tr.Findings()[0].Evidence.IdleLimit, "four are too few")
			r.ends(all[4:], 0, tt.farewell)
			for _, f := range r.tr.Findings() {
				require.Equal(t, tcpstate.KindCloseWaitIdleInPool, f.Kind)
				require.InDelta(t, time.Minute, time.Duration(f.Evidence.IdleLimit), float64(4*time.Second))
				require.Contains(t, f.Summary, "It closes connections that lie idle for about ")
				require.Contains(t, f.Fix, "ConnMaxIdleTime")
				text, err := json.Marshal(f)
				require.NoError(t, err)
				require.Contains(t, string(text), `"idle_limit":`)
			}
		})
	}
}

func TestConnectionsThatDieTogetherShowNoIdleLimit(t *testing.T) {
	r := newRig(t)
	r.clk.Pace(200)
	all := r.idles(8, 0, tcpstate.Expect{})
	r.clk.Advance(60 * time.Second)
	r.ends(all, 0, "")
	fs := r.tr.Findings()
	require.Len(t, fs, 8)
	require.Zero(t, fs[0].Evidence.IdleLimit)
}
