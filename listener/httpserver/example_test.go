package httpserver_test

import (
	"context"
	"log"
	"net/http"

	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// The listener tracks the connections, Instrument says what they serve.
func Example() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/reports/{id}", func(w http.ResponseWriter, r *http.Request) {})

	srv := &http.Server{Handler: mux}
	httpserver.Instrument(srv)

	config := listener.Config{Name: "api"}
	ln, err := config.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.Serve(ln)) // or srv.ServeTLS(ln, "cert.pem", "key.pem")
}

// Other routers are asked for the route by a function.
func ExampleWithRoute() {
	var router interface {
		http.Handler
		Match(*http.Request) (pattern string) // as yours calls it
	}
	srv := &http.Server{Handler: router}
	httpserver.Instrument(srv, httpserver.WithRoute(func(r *http.Request) string { return router.Match(r) }))
}

// Streams and other routes whose connections look unusual say what is normal.
func ExampleWithRouteExpect() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("POST /v1/import", func(w http.ResponseWriter, r *http.Request) {})

	srv := &http.Server{Handler: mux}
	httpserver.Instrument(srv,
		httpserver.WithRouteExpect("GET /events", tcpstate.Expect{LongLived: true}),
		httpserver.WithRouteExpect("POST /v1/import", tcpstate.Expect{HalfClose: true}), // goes on although the client is gone
	)
}

// Handler, below the middleware that begins the span of a request, lets a
// report lead to the trace of that request.
func ExampleHandler() {
	tracing := func(next http.Handler) http.Handler { return next } // otelhttp.NewMiddleware("")
	mux := http.NewServeMux()

	srv := &http.Server{Handler: tracing(httpserver.Handler(mux))}
	httpserver.Instrument(srv)
}

// Handlers that are meant to outlast their client say so.
func ExampleInstrument_expect() {
	http.HandleFunc("POST /v1/import", func(w http.ResponseWriter, r *http.Request) {
		restore := tcpstate.FromContext(r.Context()).Expect(tcpstate.Expect{HalfClose: true})
		defer restore()
		// Goes on although the client is gone.
	})
}
