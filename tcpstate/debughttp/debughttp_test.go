package debughttp_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/debughttp"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func get(t *testing.T, h http.Handler, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

func leaked(t *testing.T) *tcpstate.Tracker {
	tr := new(tcpstate.Tracker)
	clk := testclock.Install(tr)
	t.Cleanup(func() { testclock.Remove(tr) })
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	leaktest.Check(t, tr, leaktest.IgnoreFindings())
	client, server := tcptest.Pair(t)
	tr.Track(server, tcpstate.Origin{Role: tcpstate.Server, Name: "<api>"})
	c2, s2 := tcptest.Pair(t)
	tr.Track(c2, tcpstate.Origin{Name: "fine"})
	tr.Track(s2, tcpstate.Origin{Role: tcpstate.Server, Name: "fine"})
	require.NoError(t, client.Close())
	clk.Advance(time.Minute)
	return tr
}

func TestThePageShowsFindingsStatesAndConnections(t *testing.T) {
	h := debughttp.Handler(leaked(t))
	w := get(t, h, "/debug/tcpstate")
	require.Equal(t, http.StatusOK, w.Code)
	body := w.Body.String()
	for _, want := range []string{"close_wait.never_read", "CLOSE-WAIT<b>1</b>", "ESTABLISHED<b>2</b>", "debughttp_test.go:", "&lt;api&gt;", "epoll"} {
		require.Contains(t, body, want)
	}
	require.NotContains(t, body, "<api>", "names are escaped")
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	if path := os.Getenv("TCPSTATE_PAGE"); path != "" {
		require.NoError(t, os.WriteFile(path, w.Body.Bytes(), 0o644))
	}
}

func TestJSONHoldsTheSame(t *testing.T) {
	h := debughttp.Handler(leaked(t))
	w := get(t, h, "/?format=json")
	var v struct {
		Stats       tcpstate.Stats
		Findings    []struct{ Kind tcpstate.Kind }
		Connections []struct {
			State string
			Info  map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	require.Equal(t, 3, v.Stats.Open)
	require.Len(t, v.Findings, 1)
	require.Equal(t, tcpstate.KindCloseWaitNeverRead, v.Findings[0].Kind)
	require.Len(t, v.Connections, 3)
	require.Equal(t, "CLOSE-WAIT", v.Connections[0].State)
	require.NotEmpty(t, v.Connections[0].Info)
}

func TestRowsAreBoundedAndBadRequestsRefused(t *testing.T) {
	h := debughttp.Handler(leaked(t))
	require.Contains(t, get(t, h, "/?n=1").Body.String(), "2 more")
	require.Equal(t, http.StatusBadRequest, get(t, h, "/?n=x").Code)
	require.Equal(t, http.StatusBadRequest, get(t, h, "/?n=-1").Code)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
}

func TestAnEmptyTrackerHasAPage(t *testing.T) {
	w := get(t, debughttp.Handler(new(tcpstate.Tracker)), "/")
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), "Nothing is wrong.")
}

func ExampleHandler() {
	mux := http.NewServeMux()
	mux.Handle("/debug/tcpstate", debughttp.Handler(nil)) // nil: the default tracker
}
