//go:build !linux

package tcpinfo_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

func TestElsewhereEverythingIsUnsupported(t *testing.T) {
	_, err := tcpinfo.Get(0, make([]byte, tcpinfo.MaxSize))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.False(t, tcpinfo.NotTCP(0, err))
	_, err = tcpinfo.State(0)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, _, err = tcpinfo.Queues(0)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = tcpinfo.Unread(0)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.False(t, tcpinfo.MPTCP(0))
}

func TestElsewhereKeepAliveIsUnsupported(t *testing.T) {
	require.ErrorIs(t, tcpinfo.SetKeepAlive(0, true), errors.ErrUnsupported)
	require.ErrorIs(t, tcpinfo.SetKeepIdle(0, 0), errors.ErrUnsupported)
	require.ErrorIs(t, tcpinfo.SetUserTimeout(0, 0), errors.ErrUnsupported)
	_, err := tcpinfo.KeepIdle(0)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
