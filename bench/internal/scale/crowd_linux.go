package scale

import (
	"context"
	"fmt"
	"net/netip"
)

// crowd is idle connections between two processes.
type crowd struct {
	holder, peer *proc
	n            int
	addrs        []netip.AddrPort
	fresh        Usage // of the holder, before it had anything
	bare         Usage // of the holder, with the connections and not tracked
}

// newCrowd makes n connections. track has them tracked.
func newCrowd(ctx context.Context, n int, track bool) (c *crowd, err error) {
	c = &crowd{n: n}
	defer func() {
		if err != nil {
			c.stop()
			c, err = nil, fmt.Errorf("%d connections: %w", n, err)
		}
	}()
	if c.holder, err = start(ctx, "holder"); err != nil {
		return nil, err
	}
	if c.peer, err = start(ctx, "peer"); err != nil {
		return nil, err
	}
	if c.fresh, err = c.usage(true); err != nil {
		return nil, err
	}
	if c.addrs, err = ask[[]netip.AddrPort](c.holder, "listen", n); err != nil {
		return nil, err
	}
	err = together(
		func() error { return tell(c.peer, "dial", dialArgs{c.addrs, n}) },
		func() error { return tell(c.holder, "accepted", none{}) },
	)
	if err != nil {
		return nil, err
	}
	if c.bare, err = c.usage(true); err != nil {
		return nil, err
	}
	if track {
		err = together(
			func() error { return tell(c.peer, "hello", none{}) },
			func() error { return tell(c.holder, "track", none{}) },
		)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// usage asks the tracked process what it has used.
func (c *crowd) usage(collect bool) (Usage, error) { return ask[Usage](c.holder, "usage", collect) }

// stop ends both processes. The connections go with an RST.
func (c *crowd) stop() {
	c.peer.stop()
	c.holder.stop()
}

// watched waits until the kernel tells of every peer's end by an event.
func (c *crowd) watched() error { return tell(c.holder, "watched", none{}) }
