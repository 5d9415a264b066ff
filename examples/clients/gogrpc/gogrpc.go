// Package gogrpc shows google.golang.org/grpc with tcpstate.
package gogrpc

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Hide is for Config.HideFrames: the line to open is that of who made the
// client.
var Hide = []string{
	"github.com/tcpstate/tcpstate-go/examples/clients/gogrpc.NewClient",
	"github.com/tcpstate/tcpstate-go/examples/clients/gogrpc.Options",
}

// NewClient is grpc.NewClient with connections that d dials, see Options.
func NewClient(d *dialer.Dialer, proxy Proxy, target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append(Options(d, proxy), opts...)...)
}

// Options lets one client dial through d, straight or through the proxy that
// proxy says, such as http.ProxyFromEnvironment; nil means none. Clients that
// are made for each call are known by the line that called this function.
// NoWrap: grpc sets TCP_USER_TIMEOUT on a *net.TCPConn only.
func Options(d *dialer.Dialer, proxy Proxy) []grpc.DialOption {
	plain := *d
	plain.NoWrap = true
	if plain.NetDialer == nil {
		plain.NetDialer = keepAlive()
	}
	tracker := d.Tracker
	if tracker == nil {
		tracker = tcpstate.Default()
	}
	calls := &calls{pool: tracker.NewPool(tcpstate.Origin{Name: d.Name})}
	return []grpc.DialOption{grpc.WithContextDialer(dial(&plain, proxy)), grpc.WithStatsHandler(calls)}
}

// dial does for d what grpc does without a dial function.
func dial(d *dialer.Dialer, proxy Proxy) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		switch path, ok := strings.CutPrefix(addr, "unix:"); {
		case ok:
			return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
		case strings.HasPrefix(addr, "\x00"): // unix-abstract
			return d.DialContext(ctx, "unix", addr)
		case proxy != nil:
			return proxy.dial(ctx, d, addr)
		}
		return d.DialContext(ctx, "tcp", addr)
	}
}
