package httppool_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A client of one's own gets a Transport of its own. A response body that is
// never closed is then reported with the line that made the request.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(hello))
	defer server.Close()

	client := &http.Client{
		Transport: &httppool.Transport{
			Base:   &http.Transport{MaxIdleConnsPerHost: 10, IdleConnTimeout: time.Minute},
			Dialer: dialer.Dialer{Name: "payments"},
		},
	}
	defer client.CloseIdleConnections()

	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: hello
}

// http.Get and the other functions of package http use http.DefaultClient. It
// may have a Transport, as any client. http.DefaultTransport stays what it is:
// programs rely on it being an *http.Transport.
func Example_defaultClient() {
	http.DefaultClient.Transport = &httppool.Transport{Dialer: dialer.Dialer{Name: "default"}}
}

// Code that uses http.DefaultTransport itself, or clones it, is reached by its
// dial function. Connections are then tracked, but nothing says which request
// uses them. It belongs at the beginning of main, before the first request.
func Example_defaultTransport() {
	transport := http.DefaultTransport.(*http.Transport)
	d := dialer.Dialer{Name: "default"}
	transport.DialContext = d.Wrap(transport.DialContext)
}

// Stats tells how well the pool is used. Many connections that are Surplus, or
// few requests that are Reused, ask for a higher MaxIdleConnsPerHost.
func ExampleTransport_Stats() {
	pool := &httppool.Transport{Dialer: dialer.Dialer{Name: "payments"}}
	client := &http.Client{Transport: pool}
	defer client.CloseIdleConnections()
	// The program makes its requests.
	s := pool.Stats()
	fmt.Printf("%d requests, %d over a connection that was there, %d in progress, %d connections idle\n",
		s.Requests, s.Reused, s.InFlight, s.Idle)
}

// A request is described by method and host. Code that knows better says so.
func Example_withUse() {
	client := &http.Client{Transport: &httppool.Transport{}}
	ctx := tcpstate.WithUse(context.Background(), tcpstate.Use{
		Method: "SUBSCRIBE",
		Name:   "price feed",
		Expect: tcpstate.Expect{LongLived: true},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://prices.example.com/stream", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Print(err)
		return
	}
	defer resp.Body.Close()
}
