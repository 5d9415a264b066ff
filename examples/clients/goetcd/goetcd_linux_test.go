package goetcd

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is an etcd server with a client's way to it.
type setup struct {
	t     *testing.T
	srv   *harness.Program
	path  *harness.Path
	rig   *harness.Rig
	certs *harness.Certs // nil: plain
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, rig: harness.New(t), certs: certs}
	s.rig.Hide(t, Hide...)
	dir := t.TempDir()
	s.srv = harness.NewProgram(t, func(ln net.Listener) func() { return serve(t, ln, dir, certs) })
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

// serve starts etcd in place of ln, with its data in dir.
func serve(t *testing.T, ln net.Listener, dir string, certs *harness.Certs) (stop func()) {
	require.NoError(t, ln.Close())
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = filepath.Join(dir, "data"), "fatal", true
	at := url.URL{Scheme: "http", Host: ln.Addr().String()}
	if certs != nil {
		at.Scheme = "https"
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		require.NoError(t, os.WriteFile(cfg.ClientTLSInfo.CertFile, certs.Cert, 0o600))
		require.NoError(t, os.WriteFile(cfg.ClientTLSInfo.KeyFile, certs.Key, 0o600))
	}
	peer := url.URL{Scheme: "unix", Host: "peer-" + ln.Addr().(*net.TCPAddr).AddrPort().String()} // it has none, and must say where
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	require.NoError(t, err)
	<-etcd.Server.ReadyNotify()
	return etcd.Close
}

// config is that of the test's clients.
func (s *setup) config() clientv3.Config {
	cfg := clientv3.Config{Endpoints: []string{"http://" + s.path.Addr()}, Logger: zap.NewNop()}
	if s.certs != nil {
		cfg.Endpoints, cfg.TLS = []string{"https://" + s.path.Addr()}, s.certs.Client
	}
	return cfg
}

// client returns a client that is closed when the test ends.
func (s *setup) client(cfg clientv3.Config) *clientv3.Client {
	s.t.Helper()
	c, err := New(s.rig.Dialer("config"), cfg)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// use writes and reads, as soon as there is a server.
func use(t *testing.T, c *clientv3.Client) {
	t.Helper()
	harness.WaitUntil(t, "the server", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.Put(ctx, "k", "v")
		return err == nil
	})
	got, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(got.Kvs[0].Value))
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.client(s.config())
		use(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		changes := c.Watch(ctx, "k")
		lease, err := c.Grant(t.Context(), 60)
		require.NoError(t, err)
		alive, err := c.KeepAlive(ctx, lease.ID)
		require.NoError(t, err)
		<-alive
		use(t, c)
		<-changes
		s.rig.Silent(t) // a quiet watch is a healthy one
		s.srv.Restart(t)
		use(t, c)
		<-changes // the client watches on
		s.rig.Silent(t)
		cancel()
		require.NoError(t, c.Close())
		s.rig.WaitGone(t, "config")
		s.rig.Silent(t)
	})
}

func TestAClientForEachCallIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 20 {
			c, err := New(s.rig.Dialer("config"), s.config()) // leak: client
			require.NoError(t, err)
			defer c.Close()
			_, err = c.Put(t.Context(), "k", "v")
			require.NoError(t, err)
		}
		got := s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "config", "pool", "client")
		require.Contains(t, got.Sites[0].Frames[0].Function, "TestAClientForEachCall")
	})
}

func TestACallOverADeadPathIsFoundWhereKeepaliveIsMissing(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.rig.Clock.Pace(20)
		c := s.client(s.config())
		use(t, c)
		s.path.Deafen(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := c.Put(ctx, "k", "v")
			ended <- err
		}()
		s.rig.Finds(t, tcpstate.KindPeerUnresponsive, "config", "", "")
		cancel()
		require.Error(t, <-ended)
		s.path.Heal(t)
	})
}

// The ping of DialKeepAliveTime, which is ten seconds at least.
func TestTheClientsOwnPingFindsASilentServer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg := s.config()
		cfg.DialKeepAliveTime, cfg.DialKeepAliveTimeout = 10*time.Second, time.Second
		c := s.client(cfg)
		use(t, c)
		changes := c.Watch(t.Context(), "k")
		use(t, c)
		<-changes
		old := s.rig.Conns("config")[0].ID
		s.path.Stall()
		harness.WaitUntil(t, "the ping", func() bool {
			s.rig.Advance(time.Second)
			conns := s.rig.Conns("config")
			return len(conns) == 0 || conns[0].ID != old
		})
		s.path.Flow()
		use(t, c)
		<-changes
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

// DialKeepAliveTimeout is TCP_USER_TIMEOUT, too.
func TestTheSocketHasTheOptionsThatGRPCSets(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		cfg := s.config()
		cfg.DialKeepAliveTime, cfg.DialKeepAliveTimeout = time.Minute, 7*time.Second
		bare, err := clientv3.New(cfg)
		require.NoError(t, err)
		defer bare.Close()
		use(t, bare)
		use(t, s.client(cfg))
		require.Len(t, s.rig.Conns("config"), 1)
		got := s.path.Links()[1].Options(t)
		require.Equal(t, 7000, got.UserTimeout)
		require.Equal(t, s.path.Links()[0].Options(t), got)
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	c := s.client(s.config())
	use(t, c)
	require.NoError(t, c.Close())
	s.path.Announced(t)
	s.rig.Silent(t)
}
