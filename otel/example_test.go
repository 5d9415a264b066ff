package tcpotel_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/otel"
)

// A program reports from its start to its end, and stops before it shuts its
// providers down.
func ExampleStart() {
	ctx := context.Background()
	reader := sdkmetric.NewManualReader() // a PeriodicReader with an exporter, elsewhere
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))

	stop, err := tcpotel.Start(tcpotel.WithMeterProvider(metrics))
	if err != nil {
		log.Fatal(err)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	d := dialer.Dialer{Name: "payments"}
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := stop(ctx); err != nil {
		log.Print(err)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &rm); err != nil {
		log.Print(err)
	}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		if h, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "tcpstate.connection.duration" {
			for _, p := range h.DataPoints {
				name, _ := p.Attributes.Value("tcpstate.connection.name")
				reason, _ := p.Attributes.Value("tcpstate.close.reason")
				fmt.Println(p.Count, name.AsString(), reason.AsString())
			}
		}
	}
	// Output: 1 payments local
}
