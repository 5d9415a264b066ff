package debughttp_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/debughttp"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// shown returns the page, or another form of it.
func shown(t *testing.T, tr *tcpstate.Tracker, query string) string {
	t.Helper()
	w := httptest.NewRecorder()
	debughttp.Handler(tr).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/"+query, nil))
	require.Equal(t, 200, w.Code)
	return w.Body.String()
}

func TestPoolsAreShownIfThereAreAny(t *testing.T) {
	tr := leaktest.Tracker(t)
	require.NotContains(t, shown(t, tr, ""), "<h2>Pools")
	require.NotContains(t, shown(t, tr, "?format=json"), `"pools"`)

	report := func(name string, s tcpstate.PoolStats) {
		t.Cleanup(tr.NewPool(tcpstate.Origin{Name: name}).Report(func() (tcpstate.PoolStats, bool) { return s, true }))
	}
	report("cache", tcpstate.PoolStats{
		Idle: 3, Used: 10, Max: 10, Pending: 21, Timeouts: 17,
		Waits:    tcpstate.PoolTimes{Count: 111, Time: 83 * time.Second},
		Discards: []tcpstate.PoolDiscards{{Reason: tcpstate.DiscardPeerClosed, Count: 6}, {Reason: tcpstate.DiscardCaller}, {Reason: tcpstate.DiscardIdleMax, Count: 2}},
	})
	none := tcpstate.PoolTimes{Count: -1}
	report("mail", tcpstate.PoolStats{Used: 1, Pending: -1, Timeouts: -1, Waits: none, Uses: none, Creates: none})

	text := shown(t, tr, "")
	require.Contains(t, text, `<td>cache</td><td class="n">3</td><td class="n hot">10</td><td class="n">10</td><td class="n">21</td>`+
		`<td class="n">111</td><td class="n">1m23s</td><td class="n">17</td><td>peer_closed 6, idle_max 2</td>`)
	require.Contains(t, text, `<td>mail</td><td class="n">0</td><td class="n">1</td><td class="n"></td><td class="n"></td><td></td><td></td><td class="n"></td><td></td>`)
	require.Contains(t, shown(t, tr, "?n=1"), "1 more; add <code>?n=2</code>")

	var v struct {
		Pools []map[string]any `json:"pools"`
	}
	require.NoError(t, json.NewDecoder(strings.NewReader(shown(t, tr, "?format=json"))).Decode(&v))
	require.Len(t, v.Pools, 2)
	require.Equal(t, map[string]any{"count": 111.0, "time": 83.0}, v.Pools[0]["waits"])
	require.Equal(t, map[string]any{"name": "mail", "idle": 0.0, "used": 1.0}, v.Pools[1])
}

// A limit for each address is none of the pool.
func TestAPoolThatSomebodyWaitsForIsMarkedWithoutALimit(t *testing.T) {
	tr := leaktest.Tracker(t)
	for name, waiting := range map[string]int{"busy": 1, "calm": 0} {
		stats := tcpstate.PoolStats{Used: 4, Pending: waiting, Timeouts: -1}
		t.Cleanup(tr.NewPool(tcpstate.Origin{Name: name}).Report(func() (tcpstate.PoolStats, bool) { return stats, true }))
	}
	text := shown(t, tr, "")
	require.Contains(t, text, `<td>busy</td><td class="n">0</td><td class="n hot">4</td><td class="n"></td><td class="n">1</td>`)
	require.Contains(t, text, `<td>calm</td><td class="n">0</td><td class="n">4</td><td class="n"></td><td class="n">0</td>`)
}
