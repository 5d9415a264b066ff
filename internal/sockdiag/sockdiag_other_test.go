//go:build !linux

package sockdiag_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

func TestElsewhereEverythingIsUnsupported(t *testing.T) {
	_, err := sockdiag.Open()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = sockdiag.Orphans()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = sockdiag.SynRetransmits()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, _, err = sockdiag.PortRange()
	require.ErrorIs(t, err, errors.ErrUnsupported)

	var c sockdiag.Conn
	res, err := c.Lookup(nil, make([]sockdiag.Tuple, 2))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, make([]sockdiag.Result, 2), res)
	_, err = c.Dump(sockdiag.Query{}, func(*sockdiag.Socket) bool { return true })
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Zero(t, c.Stats())
	require.Error(t, c.Close())
}
