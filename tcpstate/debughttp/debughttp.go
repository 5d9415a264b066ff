// Package debughttp serves a page with what a tracker knows, for people and, as
// JSON, for programs: findings, dials in progress, listeners, pools,
// connections, sockets that were closed and still wait for their peer, and what
// this machine does not let it see.
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
	"reflect"
	"strconv"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// maxRows bounds each of the tables and of the groups of findings; the JSON form
// is bounded alike. A larger or smaller number is given by the parameter "n".
const maxRows = 500

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"ago": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return tcpstate.Duration(max(time.Since(t), 0)).String()
	},
	"line": line,
	// more says how many rows of a table are not there, and how many there are.
	"more": func(more int, rows any) any {
		return struct{ More, All int }{more, more + reflect.ValueOf(rows).Len()}
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
