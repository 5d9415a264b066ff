// Package debughttp serves a page with the connections and findings of a
// tracker, for people and, as JSON, for programs.
//
// The page shows addresses in full and reads every connection from the kernel
// when it is asked for. Mount it where other debug pages are, not where the
// public is:
//
//	mux.Handle("/debug/tcpstate", debughttp.Handler(nil))
package debughttp

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// maxRows bounds the table of connections; the JSON form is bounded alike. A
// larger or smaller number is given by the parameter "n".
const maxRows = 500

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"ago": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return tcpstate.Duration(time.Since(t)).String()
	},
	"add": func(a, b int) int { return a + b },
	// args bundles what the template of one state needs. What asks for a
	// person's eye is marked: half-closed by the peer, or dead.
	"args": func(name string, count int) any {
		hot := count > 0 && (name == "CLOSE-WAIT" || name == "CLOSED")
		return struct {
			Name  string
			Count int
			Hot   bool
		}{name, count, hot}
	},
}).Parse(pageText))

// Handler returns the page of t, of tcpstate.Default() if t is nil. With the
// header "Accept: application/json" or the parameter "format=json" it answers
// with JSON.
func Handler(t *tcpstate.Tracker) http.Handler {
	if t == nil {
		t = tcpstate.Default()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, t) })
}

func serve(w http.ResponseWriter, r *http.Request, t *tcpstate.Tracker) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	n := maxRows
	if s := r.FormValue("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			http.Error(w, "n is not a number of rows", http.StatusBadRequest)
			return
		}
	}
	v := collect(t, n)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.FormValue("format") == "json" || r.Header.Get("Accept") == "application/json" {
		h.Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(v)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_ = page.Execute(w, v)
}

// view is what the page shows. Its JSON form only grows.
type view struct {
	Time       time.Time           `json:"time"`
	Stats      tcpstate.Stats      `json:"stats"`
	States     []stateCount        `json:"states"`
	Findings   []tcpstate.Finding  `json:"findings"`
	Facilities []tcpstate.Facility `json:"facilities"`
	Conns      []conn              `json:"connections"`
	More       int                 `json:"connections_not_shown"`

	ByState map[string]int `json:"-"`
}

type stateCount struct {
	State tcpstate.State `json:"state"`
	Phase tcpstate.Phase `json:"phase"`
	Count int            `json:"count"`
}

// conn is a row of the table.
type conn struct {
	ID         uint64         `json:"id"`
	Role       tcpstate.Role  `json:"role"`
	Name       string         `json:"name,omitempty"`
	Local      string         `json:"local"`
	Remote     string         `json:"remote"`
	State      tcpstate.State `json:"state"`
	Phase      tcpstate.Phase `json:"phase"`
	Opened     time.Time      `json:"opened"`
	PeerClosed time.Time      `json:"peer_closed,omitzero"`
	RecvQueue  int            `json:"recv_queue"`
	SendQueue  int            `json:"send_queue"`
	Use        string         `json:"use,omitempty"`
	Line       string         `json:"line,omitempty"`
	Finding    tcpstate.Kind  `json:"finding,omitempty"`
	Info       tcpstate.Info  `json:"info"`
}

func collect(t *tcpstate.Tracker, n int) *view {
	v := &view{Time: time.Now(), Stats: t.Stats(), Findings: t.Findings(), Facilities: t.Facilities(), ByState: make(map[string]int)}
	counts := make(map[tcpstate.State]int)
	for s := range t.Conns() {
		counts[s.State]++
		v.ByState[s.State.SemConv()]++
		if len(v.Conns) >= n {
			v.More++
			continue
		}
		c := conn{
			ID: s.ID, Role: s.Role, Name: s.Name, State: s.State, Phase: s.Phase, Opened: s.Opened, PeerClosed: s.PeerClosed,
			RecvQueue: s.RecvQueue, SendQueue: s.SendQueue, Use: s.Use, Finding: s.Finding, Info: s.Info,
		}
		if s.Local != nil {
			c.Local, c.Remote = s.Local.String(), s.Remote.String()
		}
		if len(s.Site.Frames) > 0 {
			c.Line = s.Site.Frames[0].String()
		}
		v.Conns = append(v.Conns, c)
	}
	for _, st := range append(tcpstate.States(), tcpstate.Unknown) {
		if counts[st] > 0 {
			v.States = append(v.States, stateCount{State: st, Phase: st.Phase(), Count: counts[st]})
		}
	}
	return v
}
