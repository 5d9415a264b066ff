package tcpstate

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAQueueGivesBackWhatCameInOrder(t *testing.T) {
	var q fifo[int]
	r := rand.New(rand.NewPCG(1, 2))
	in, out := 0, 0
	for range 20000 {
		for range r.IntN(4) {
			in++
			q.push(&in)
		}
		for range r.IntN(4) {
			var v int
			if !q.pop(&v) {
				require.Equal(t, in, out)
				continue
			}
			out++
			require.Equal(t, out, v)
		}
		require.Equal(t, in-out, q.len())
	}
}

func TestAQueueUsesItsMemoryAgain(t *testing.T) {
	var q fifo[[64]byte]
	burst := func(n int) {
		var v [64]byte
		for range n {
			q.push(&v)
		}
		for q.pop(&v) {
		}
	}
	burst(keepQueue / 2)
	require.Zero(t, testing.AllocsPerRun(10, func() { burst(keepQueue / 2) }))
	burst(4 * keepQueue)
	require.Zero(t, cap(q.room), "a burst as large as this is rare")
}

func TestAQueueThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var q fifo[int]
	for i := range 100000 {
		q.push(&i)
		if i >= 10 {
			var v int
			require.True(t, q.pop(&v))
			require.Equal(t, i-10, v)
		}
	}
	require.Less(t, cap(q.room), 100)
}
