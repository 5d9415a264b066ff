package scale

import (
	"slices"
	"time"
)

// FIN is how long it took from the peer's call to the tracker's word.
type FIN struct {
	Conns         int // in the tracked process
	N             int // ends
	P50, P99, Max time.Duration
}

// finGap separates two ends: each finds the tracker asleep.
const finGap = time.Millisecond

// fin measures the ends of n connections from the first on.
func (c *crowd) fin(first, n int) (FIN, error) {
	a := finArgs{First: first, N: n, Gap: finGap}
	if err := tell(c.holder, "expectFINs", a); err != nil {
		return FIN{}, err
	}
	sent, err := ask[[]int64](c.peer, "fin", a)
	if err != nil {
		return FIN{}, err
	}
	seen, err := ask[[]int64](c.holder, "fins", none{})
	if err != nil {
		return FIN{}, err
	}
	took := make([]time.Duration, n)
	for i := range took {
		took[i] = time.Duration(seen[i] - sent[i])
	}
	slices.Sort(took)
	return FIN{Conns: c.n, N: n, P50: took[n/2], P99: took[n*99/100], Max: took[n-1]}, nil
}
