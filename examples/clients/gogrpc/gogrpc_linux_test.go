package gogrpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server and a client's way to it, both watched.
type setup struct {
	t      *testing.T
	rig    *harness.Rig // the client's; its connections are called "ledger"
	served *harness.Rig // the server's; its connections are called "rpc"
	path   *harness.Path
	srv    *harness.Program
	certs  *harness.Certs // nil: plain
	creds  credentials.TransportCredentials
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, rig: harness.New(t), served: harness.New(t), certs: certs, creds: insecure.NewCredentials()}
	s.rig.Hide(t, Hide...)
	server := insecure.NewCredentials()
	if certs != nil {
		server = credentials.NewTLS(certs.Server.Clone())
		client := certs.Client.Clone()
		client.ServerName = "localhost"
		s.creds = credentials.NewTLS(client)
	}
	s.srv = harness.NewProgram(t, func(ln net.Listener) func() {
		cfg := listener.Config{Tracker: s.served.Tracker, Name: "rpc", NoWrap: true}
		return serve(cfg.Wrap(ln), server)
	})
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

func serve(ln net.Listener, creds credentials.TransportCredentials) (stop func()) {
	srv := grpc.NewServer(grpc.Creds(creds), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: time.Second, PermitWithoutStream: true,
	}))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	return harness.Serving(func() error { return srv.Serve(ln) }, srv.Stop)
}

// client returns a client that is closed when the test ends.
func (s *setup) client(opts ...grpc.DialOption) *grpc.ClientConn {
	s.t.Helper()
	cc, err := NewClient(s.rig.Dialer("ledger"), nil, "passthrough:///"+s.path.Addr(), append(opts, grpc.WithTransportCredentials(s.creds))...)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { cc.Close() })
	return cc
}

// call makes a call, as soon as there is a server.
func call(t *testing.T, cc *grpc.ClientConn) {
	t.Helper()
	got, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, got.Status)
}

// silent fails the test if either end has ever reported anything.
func (s *setup) silent() {
	s.t.Helper()
	s.rig.Silent(s.t)
	s.served.Silent(s.t)
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cc := s.client()
		call(t, cc)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := healthpb.NewHealthClient(cc).Watch(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.NoError(t, err)
		require.Len(t, s.rig.Conns("ledger"), 1)
		require.Len(t, s.served.Conns("rpc"), 1)
		s.silent() // a quiet stream is a healthy one
		s.srv.Restart(t)
		_, err = stream.Recv()
		require.Error(t, err)
		call(t, cc)
		s.rig.Rest(t, time.Minute)
		old := s.rig.Conns("ledger")[0].ID
		s.path.Reset()
		harness.WaitUntil(t, "the client to notice", func() bool {
			s.rig.Advance(time.Second)
			conns := s.rig.Conns("ledger")
			return len(conns) == 0 || conns[0].ID != old
		})
		call(t, cc)
		s.silent()
		require.NoError(t, cc.Close())
		s.rig.WaitGone(t, "ledger")
		s.served.WaitGone(t, "rpc")
		s.silent()
	})
}

func TestAClientForEachCallIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 20 {
			cc, err := NewClient(s.rig.Dialer("ledger"), nil, "passthrough:///"+s.path.Addr(), grpc.WithTransportCredentials(s.creds)) // leak: client
			require.NoError(t, err)
			defer cc.Close()
			call(t, cc)
		}
		got := s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "ledger", "pool", "client")
		require.Contains(t, got.Sites[0].Frames[0].Function, "TestAClientForEachCall")
	})
}

// Without keepalive parameters grpc waits as long as the kernel does.
func TestACallOverADeadPathIsFoundWhereKeepaliveIsMissing(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(20)
		cc := s.client()
		call(t, cc)
		s.path.Deafen(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
			ended <- err
		}()
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "ledger", "", "")
		cancel()
		require.Error(t, <-ended)
		s.path.Heal(t)
	})
}

// grpc sends no ping more often than every ten seconds.
func TestTheClientsOwnPingFindsASilentServer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cc := s.client(grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: time.Second, PermitWithoutStream: true,
		}))
		call(t, cc)
		s.path.Stall()
		old := s.rig.Conns("ledger")[0].ID
		harness.WaitUntil(t, "the ping", func() bool {
			s.rig.Advance(time.Second)
			for _, c := range s.rig.Conns("ledger") {
				if c.ID == old {
					return false
				}
			}
			return true
		})
		s.path.Flow()
		call(t, cc)
		s.silent()
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsThatGRPCSets(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		params := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 7 * time.Second})
		bare, err := grpc.NewClient("passthrough:///"+s.path.Addr(), params, grpc.WithTransportCredentials(s.creds))
		require.NoError(t, err)
		defer bare.Close()
		call(t, bare)
		call(t, s.client(params))
		require.Len(t, s.rig.Conns("ledger"), 1)
		got := s.path.Links()[1].Options(t)
		require.Equal(t, 7000, got.UserTimeout)
		require.Equal(t, s.path.Links()[0].Options(t), got)
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	cc := s.client()
	call(t, cc)
	require.NoError(t, cc.Close())
	s.path.Announced(t)
	s.silent()
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return dial(s.rig.Dialer("ledger"), nil)(t.Context(), addr)
		})
	})
}

func TestAUnixTargetIsReached(t *testing.T) {
	rig := harness.New(t)
	path := filepath.Join(t.TempDir(), "s")
	for target, address := range map[string]string{
		"unix:" + path: path, "unix://" + path: path,
		fmt.Sprintf("unix-abstract:tcpstate-%s", filepath.Base(filepath.Dir(path))+t.Name()): "",
	} {
		if address == "" {
			address = "@" + target[len("unix-abstract:"):]
		}
		ln, err := net.Listen("unix", address)
		require.NoError(t, err)
		stop := serve(ln, insecure.NewCredentials())
		cc, err := NewClient(rig.Dialer("ledger"), http.ProxyFromEnvironment, target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		call(t, cc)
		require.NoError(t, cc.Close())
		stop()
	}
	require.Empty(t, rig.Conns("ledger"))
	rig.Silent(t)
}

func TestAProxyIsUsed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		var asked atomic.Pointer[http.Request]
		proxy := harness.NewProgram(t, func(ln net.Listener) func() {
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r)
				server, err := net.Dial("tcp", s.path.Addr())
				if err != nil {
					return
				}
				defer server.Close()
				w.WriteHeader(http.StatusOK)
				client, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer client.Close()
				go func() {
					_, _ = io.Copy(server, client)
					server.Close()
				}()
				_, _ = io.Copy(client, server)
			})}
			return harness.Serving(func() error { return srv.Serve(ln) }, func() { srv.Close() })
		})
		at := &url.URL{Scheme: "http", Host: proxy.Addr(), User: url.UserPassword("u", "p")}
		cc, err := NewClient(s.rig.Dialer("ledger"), http.ProxyURL(at), "passthrough:///ledger.test:443", grpc.WithTransportCredentials(s.creds))
		require.NoError(t, err)
		defer cc.Close()
		call(t, cc)
		require.Equal(t, "CONNECT ledger.test:443", asked.Load().Method+" "+asked.Load().Host)
		require.NotEmpty(t, asked.Load().Header.Get("Proxy-Authorization"))
		require.Equal(t, proxy.Addr(), s.rig.Conns("ledger")[0].Remote.String())
		require.NoError(t, cc.Close())
		s.rig.WaitGone(t, "ledger")
		s.silent()
	})
}
