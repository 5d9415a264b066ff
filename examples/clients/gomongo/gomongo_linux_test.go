package gomongo

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server with a client's way to it.
type setup struct {
	t     *testing.T
	srv   *harness.Server
	path  *harness.Path
	rig   *harness.Rig
	certs *harness.Certs // nil: plain
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{t: t, srv: harness.FerretDB(t, certs), rig: harness.New(t), certs: certs}
	s.path = harness.NewPath(t, s.srv.Addr())
	return s
}

func (s *setup) options() *options.ClientOptions {
	opt := options.Client().SetHosts([]string{s.path.Addr()}).SetDirect(true)
	if s.certs != nil {
		opt.SetTLSConfig(s.certs.Client.Clone())
	}
	return opt
}

// connect returns a client that is disconnected when the test ends.
func (s *setup) connect(opt *options.ClientOptions) *mongo.Client {
	c, err := Connect(s.rig.Dialer("docs"), s.rig.Tracker, opt)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Disconnect(context.Background()) })
	return c
}

func count(ctx context.Context, c *mongo.Client) error {
	_, err := c.Database("shop").Collection("orders").CountDocuments(ctx, bson.M{})
	return err
}

func TestAClientForEveryCallIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		for range 10 {
			c, err := Connect(s.rig.Dialer("docs"), s.rig.Tracker, s.options()) // leak: client
			require.NoError(t, err)
			defer c.Disconnect(context.Background())
			require.NoError(t, count(t.Context(), c))
		}
		s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "docs", "pool", "client")
	})
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.connect(s.options())
		orders := c.Database("shop").Collection("orders")
		use := func() {
			harness.WaitUntil(t, "a write to succeed", func() bool { // the driver does not repeat one without a replica set
				_, err := orders.InsertOne(t.Context(), bson.M{"n": 1})
				return err == nil
			})
			cursor, err := orders.Find(t.Context(), bson.M{})
			require.NoError(t, err)
			var all []bson.M
			require.NoError(t, cursor.All(t.Context(), &all))
			require.NotEmpty(t, all)
		}

		use()
		s.rig.Rest(t, time.Minute)
		s.srv.Restart(t)
		s.rig.Advance(time.Minute) // the connections lie dead in the pool
		use()
		s.rig.Rest(t, time.Minute)
		s.srv.Kill(t)
		s.srv.Start(t)
		use()
		s.rig.Silent(t)
		require.NoError(t, c.Disconnect(t.Context()))
		s.rig.WaitGone(t, "docs")
		s.rig.Silent(t)
	})
}

// The monitor of a server has a connection of its own. When that ends, too, the
// driver empties its pool. Else nobody reads an idle connection.
func TestAReadOverADeadIdleConnectionIsRepeated(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.connect(s.options().SetServerMonitoringMode(options.ServerMonitoringModePoll))
		require.NoError(t, count(t.Context(), c))
		links := s.path.Links()
		require.Len(t, links, 2)
		links[1].FIN() // of the pool, which waits for the monitor's
		s.rig.WaitInventory(t, "docs", 1)
		require.NoError(t, count(t.Context(), c))
		require.Greater(t, s.path.Made(), 2)
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := s.rig.Dialer("docs")
		own, want := harness.NetDialer()
		d.NetDialer = own
		c, err := Connect(d, s.rig.Tracker, s.options())
		require.NoError(t, err)
		defer c.Disconnect(context.Background())
		require.NoError(t, count(t.Context(), c))
		require.NotEmpty(t, s.path.Links())
		for _, l := range s.path.Links() {
			require.Equal(t, want, l.Options(t))
		}
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	t.Parallel()
	s := newSetup(t, harness.NewCerts(t).TLS12())
	c := s.connect(s.options())
	require.NoError(t, count(t.Context(), c))
	require.NoError(t, c.Disconnect(t.Context()))
	s.path.Announced(t)
	s.rig.Silent(t)
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opt := s.options()
		c, err := Connect(s.rig.Dialer("docs"), s.rig.Tracker, opt)
		require.NoError(t, err)
		defer c.Disconnect(context.Background())
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return opt.Dialer.DialContext(t.Context(), "tcp", addr)
		})
	})
}

func TestTheContextHolds(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.connect(s.options())
		require.NoError(t, count(t.Context(), c))
		s.path.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, count(ctx, c), context.DeadlineExceeded)
		s.path.Flow()
		require.NoError(t, count(t.Context(), c))
		s.rig.Silent(t)
	})
}
