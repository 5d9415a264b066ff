package tcptest_test

import (
	"context"
	"net"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// dbPool lends connections, as the pool of a database driver does: at most max
// at a time, and it tells the tracker who has one and who waits.
type dbPool struct {
	dial  dialer.Dialer
	addr  string
	watch *tcpstate.Pool
	slots chan struct{}
	idle  chan *tcpstate.Conn
}

func newDBPool(r *run, target, name string, max int, x tcpstate.Expect) *dbPool {
	return &dbPool{
		dial:  dialer.Dialer{Tracker: r.tr, Name: name, Expect: x},
		addr:  target,
		watch: r.tr.NewPool(tcpstate.Origin{Name: name}),
		slots: make(chan struct{}, max),
		idle:  make(chan *tcpstate.Conn, max),
	}
}

func (p *dbPool) get(ctx context.Context) (net.Conn, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		p.watch.Waits()
		defer p.watch.Waited()
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case c := <-p.idle:
		p.watch.Reused()
		return p.lend(ctx, c), nil
	default:
	}
	c, err := p.dial.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return p.lend(ctx, c.(*tcpstate.Conn)), nil
}

// shut closes what is not lent out. It is called once, at the end.
func (p *dbPool) shut() {
	for {
		select {
		case c := <-p.idle:
			c.Close()
		default:
			return
		}
	}
}

func (p *dbPool) lend(ctx context.Context, c *tcpstate.Conn) net.Conn {
	use, _ := tcpstate.UseFromContext(ctx)
	return &lent{Conn: c, pool: p, done: c.Watch().Borrow(ctx, p.watch, use)}
}

// lent is a connection that its Close gives back.
type lent struct {
	*tcpstate.Conn
	pool *dbPool
	done func()
}

func (l *lent) Close() error {
	l.done()
	l.pool.idle <- l.Conn
	<-l.pool.slots
	return nil
}
