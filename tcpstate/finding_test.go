package tcpstate

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheJSONFormIsStable(t *testing.T) {
	for _, name := range []string{"unread_body", "never_read_silent", "dead_socket_was_close_wait", "not_reading_handler", "cleared"} {
		for _, ex := range examples {
			if ex.name != name {
				continue
			}
			got, err := json.MarshalIndent(ex.Finding, "", "  ")
			require.NoError(t, err)
			golden(t, filepath.Join("testdata", "json", name+".golden"), got)
		}
	}
}

func TestTheJSONFormComesBack(t *testing.T) {
	for _, ex := range examples {
		t.Run(ex.name, func(t *testing.T) {
			b, err := json.Marshal(ex.Finding)
			require.NoError(t, err)
			require.NotContains(t, string(b), "e-09")
			var got Finding
			require.NoError(t, json.Unmarshal(b, &got))
			want := ex.Finding
			want.Tokens = Tokens{}
			want.Sites = nil
			for _, s := range ex.Sites { // without what only the terminal form shows
				frames := append([]Frame(nil), s.Frames...)
				for i := range frames {
					frames[i].short = ""
				}
				want.Sites = append(want.Sites, Site{Role: s.Role, Frames: frames})
			}
			require.Equal(t, want, got)
		})
	}
}

func TestAgesInJSON(t *testing.T) {
	for want, d := range map[string]Duration{"null": unknownAge, "0": 0, "1.5": Duration(1500 * time.Millisecond), "3600": Duration(time.Hour)} {
		got, err := json.Marshal(d)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		var back Duration
		require.NoError(t, json.Unmarshal(got, &back))
		require.Equal(t, d, back)
	}
	require.Error(t, new(Duration).UnmarshalJSON([]byte(`"soon"`)))
	require.Error(t, new(Evidence).UnmarshalJSON([]byte(`{"peer_fin":"soon"}`)))
	require.Error(t, new(Severity).UnmarshalText([]byte("dire")))
	require.Error(t, new(Role).UnmarshalText([]byte("both")))
	require.Equal(t, "unknown", Severity(0).String())
}

func TestTheAgeOfAFindingGrowsUntilItIsCleared(t *testing.T) {
	f := Finding{Since: noon, DetectedAt: noon.Add(30 * time.Second)}
	require.Equal(t, 30*time.Second, f.Age())
	f.ReportedAt = noon.Add(time.Minute)
	require.Equal(t, time.Minute, f.Age())
	f.ClearedAt = noon.Add(time.Hour)
	require.Equal(t, time.Hour, f.Age())
}
