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

	"github.com/tcpstate/tcpstate-go/dialer"
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

// both runs f over plain TCP and over TLS.
func both(t *testing.T, f func(t *testing.T, s *setup)) {
	t.Parallel()
	certs := harness.NewCerts(t)
	for name, c := range map[string]*harness.Certs{"plain": nil, "TLS": certs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &setup{t: t, srv: harness.FerretDB(t, c), rig: harness.New(t), certs: c}
			s.path = harness.NewPath(t, s.srv.Addr())
			f(t, s)
		})
	}
}

func (s *setup) options() *options.ClientOptions {
	opt := options.Client().SetHosts([]string{s.path.Addr()}).SetDirect(true)
	if s.certs != nil {
		opt.SetTLSConfig(s.certs.Client.Clone())
	}
	return opt
}

// connect returns a client that is disconnected when the test ends.
func (s *setup) connect() *mongo.Client {
	c, err := Connect(s.rig.Dialer("docs"), s.rig.Tracker, s.options())
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
		c := s.connect()
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

func TestAReadOverADeadIdleConnectionIsRepeated(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.connect()
		require.NoError(t, count(t.Context(), c))
		s.path.FIN()
		harness.WaitUntil(t, "the FIN", func() bool {
			for _, c := range s.rig.Conns("docs") {
				if c.State != tcpstate.CloseWait {
					return false
				}
			}
			return true
		})
		s.rig.Advance(time.Minute)
		for _, f := range s.rig.Tracker.Findings() {
			require.Equal(t, tcpstate.KindCloseWaitIdleInPool, f.Kind)
		}
		require.NoError(t, count(t.Context(), c))
		s.rig.Silent(t)
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheDialer(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		d := dialer.Dialer{Tracker: s.rig.Tracker, Name: "docs", NetDialer: &net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 42 * time.Second, Interval: 7 * time.Second, Count: 5},
			Control:         harness.UserTimeout(33 * time.Second),
		}}
		tap := tapped{tap: new(harness.Tap)}
		tap.dial = tap.tap.Dial(d.DialContext)
		c, err := mongo.Connect(s.options().SetDialer(tap))
		require.NoError(t, err)
		defer c.Disconnect(context.Background())
		require.NoError(t, count(t.Context(), c))
		for _, conn := range tap.tap.Conns() {
			require.Equal(t, harness.SocketOptions{KeepAlive: 1, Idle: 42, Interval: 7, Count: 5, UserTimeout: 33000, NoDelay: 1},
				harness.Options(t, conn))
		}
	})
}

// tapped is a dialer that dials with dial.
type tapped struct {
	tap  *harness.Tap
	dial dialer.DialFunc
}

func (d tapped) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, network, address)
}

func TestTheContextHolds(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		c := s.connect()
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
