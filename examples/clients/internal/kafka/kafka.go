// Package kafka runs a Kafka broker for tests: kfake, which franz-go is tested
// with. It speaks the protocol over real sockets and keeps its records in files.
package kafka

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
)

// Topic is there from the beginning, with one partition.
const Topic = "orders"

// Broker is a broker of one test. It is stopped when the test ends.
type Broker struct {
	Path *harness.Path // the way to it, whose address it gives to clients

	t       testing.TB
	port    int
	certs   *harness.Certs
	data    string
	cluster *kfake.Cluster // nil: stopped
}

// New starts a broker. With certs it speaks TLS only.
func New(t testing.TB, certs *harness.Certs) *Broker {
	b := &Broker{t: t, port: harness.FreePort(t), certs: certs, data: t.TempDir()}
	b.Path = harness.NewPath(t, b.Addr())
	b.Start()
	t.Cleanup(b.Stop)
	return b
}

// Addr returns the address that the broker listens on.
func (b *Broker) Addr() string {
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: b.port}).String()
}

// Start starts the broker again, with what it knew when it was stopped.
func (b *Broker) Start() {
	b.t.Helper()
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(b.port), kfake.SeedTopics(1, Topic), kfake.DataDir(b.data), kfake.ListenFn(b.listen),
	}
	if b.certs != nil {
		opts = append(opts, kfake.TLS(b.certs.Server))
	}
	var err error
	b.cluster, err = kfake.NewCluster(opts...)
	require.NoError(b.t, err)
}

// Stop stops the broker: it closes its connections.
func (b *Broker) Stop() {
	if b.cluster != nil {
		b.cluster.Close()
		b.cluster = nil
	}
}

// Restart is Stop and Start.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.Start()
}

// Hang makes the broker answer nothing until resume is called. It accepts
// connections and takes requests as ever.
func (b *Broker) Hang() (resume func()) {
	ended := make(chan struct{})
	b.cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		<-ended // in the one loop that answers
		return nil, nil, false
	})
	resume = sync.OnceFunc(func() { close(ended) })
	b.t.Cleanup(resume)
	return resume
}

func (b *Broker) listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	via, err := net.ResolveTCPAddr("tcp", b.Path.Addr())
	if err != nil {
		return nil, err
	}
	return advertised{ln, via}, nil
}

// advertised is a listener known by another address.
type advertised struct {
	net.Listener
	addr net.Addr
}

// Addr implements net.Listener.
func (a advertised) Addr() net.Addr { return a.addr }
