package epoll

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBlindWaits(t *testing.T) {
	p := NewBlind()
	start := time.Now()
	evs, err := p.Wait(10*time.Millisecond, nil)
	require.NoError(t, err)
	require.Empty(t, evs)
	require.GreaterOrEqual(t, time.Since(start), 10*time.Millisecond)
}

func TestBlindWakes(t *testing.T) {
	p := NewBlind()
	p.Wake()
	p.Wake()
	_, err := p.Wait(-1, nil)
	require.NoError(t, err)

	done := make(chan error)
	go func() {
		_, err := p.Wait(-1, nil)
		done <- err
	}()
	p.Wake() // before or during the wait
	require.NoError(t, <-done)
}

func TestBlindEnds(t *testing.T) {
	p := NewBlind()
	done := make(chan error)
	go func() {
		_, err := p.Wait(-1, nil)
		done <- err
	}()
	require.NoError(t, p.Close())
	require.ErrorIs(t, <-done, ErrClosed)
	p.Wake()
}

func TestBlindWatchesNothing(t *testing.T) {
	p := NewBlind()
	require.ErrorIs(t, p.Add(0, 1), errors.ErrUnsupported)
	require.NoError(t, p.Del(0))
	p.Handled()
	require.False(t, p.Quiet())
}
