//go:build !linux

package epoll

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestElsewhereThereIsNoPoller(t *testing.T) {
	_, err := New()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Zero(t, Peek(0))
}
