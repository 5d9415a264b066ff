package httpserver_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

type pointerHandler struct{ _ int }

func (*pointerHandler) ServeHTTP(http.ResponseWriter, *http.Request) {}

type valueHandler struct{ _ int }

func (valueHandler) ServeHTTP(http.ResponseWriter, *http.Request) {}

type embedding struct{ *pointerHandler }

type errorFunc func(http.ResponseWriter, *http.Request) error

func (f errorFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) { _ = f(w, r) }

func mayFail(http.ResponseWriter, *http.Request) error { return nil }

func TestTheFunctionOfAHandlerIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		handler        http.Handler
		function, decl string
	}{
		"function":         {http.HandlerFunc(hello), "hello", "func hello("},
		"method":           {http.HandlerFunc((*reportsAPI)(nil).create), "(*reportsAPI).create", "func (a *reportsAPI) create("},
		"pointer receiver": {new(pointerHandler), "(*pointerHandler).ServeHTTP", ""},
		"value receiver":   {valueHandler{}, "valueHandler.ServeHTTP", ""},
		"pointer to value": {&valueHandler{}, "valueHandler.ServeHTTP", ""},
		"function type":    {errorFunc(mayFail), "mayFail", ""},
		"in a mux":         {prefixed("/", http.HandlerFunc(hello)), "hello", "func hello("},
	} {
		t.Run(name, func(t *testing.T) {
			_, f := httpserver.Resolve(c.handler, httptest.NewRequest("GET", "/", nil))
			frames := sites.FromFunc(f).Owner(nil)
			require.NotEmpty(t, frames)
			require.Equal(t, pkg+c.function, frames[0].Function)
			if c.decl != "" {
				require.Equal(t, "listener/httpserver/main_test.go", frames[0].File)
				require.Equal(t, lineOf(t, c.decl), frames[0].Line)
			} else {
				require.Equal(t, "listener/httpserver/resolve_test.go", frames[0].File)
				require.NotZero(t, frames[0].Line)
			}
		})
	}
}

func TestStrangeHandlersDoNotPanic(t *testing.T) {
	circle := http.NewServeMux()
	circle.Handle("/", circle)
	var nilMux *http.ServeMux
	for name, h := range map[string]http.Handler{
		"embedded":     embedding{new(pointerHandler)},
		"interface":    struct{ http.Handler }{new(pointerHandler)},
		"std":          http.NotFoundHandler(),
		"file server":  http.FileServer(http.Dir(".")),
		"strip prefix": http.StripPrefix("/x", new(pointerHandler)),
		"circle":       circle,
		"nil function": http.HandlerFunc(nil),
		"nil mux":      nilMux,
		"nothing":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			route, f := httpserver.Resolve(h, httptest.NewRequest("GET", "/", nil))
			require.Contains(t, []string{"", "/"}, route)
			_ = sites.FromFunc(f)
		})
	}
}

func TestAPatternIsShownWithoutItsMethod(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                          "",
		"/":                         "/",
		"GET /":                     "/",
		"POST  \t /v1/{id}":         "/v1/{id}",
		"/with space":               "/with space",
		"example.com/":              "example.com/",
		"GET example.com/{rest...}": "example.com/{rest...}",
		"/{$}":                      "/{$}",
	} {
		require.Equal(t, want, httpserver.WithoutMethod(pattern))
	}
}

// BenchmarkHandler measures what a request costs in the handler.
func BenchmarkHandler(b *testing.B) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/reports/{id}", func(http.ResponseWriter, *http.Request) {})
	srv := &http.Server{Handler: mux}
	httpserver.Instrument(srv)
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	_, server := tcptest.Pair(b)
	conn := tr.Track(server, tcpstate.Origin{Role: tcpstate.Server})
	r := httptest.NewRequestWithContext(b.Context(), "GET", "/v1/reports/id-4711", nil)
	w := httptest.NewRecorder()
	bench := func(name string, h http.Handler, r *http.Request) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
	bench("plain", mux, r)
	bench("not tracked", srv.Handler, r)
	bench("httpserver", srv.Handler, r.WithContext(tcpstate.NewContext(r.Context(), conn.Watch())))
}
