package tcpinfo_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

func TestKeepAliveSettings(t *testing.T) {
	client, _ := pair(t, false)
	control(t, client, func(fd uintptr) {
		require.NoError(t, tcpinfo.SetKeepAlive(fd, false))
		require.NoError(t, tcpinfo.SetKeepIdle(fd, 9*time.Second))
		require.NoError(t, tcpinfo.SetUserTimeout(fd, 2500*time.Millisecond))
		idle, err := tcpinfo.KeepIdle(fd)
		require.NoError(t, err)
		require.Equal(t, 9*time.Second, idle)
		p, ok := tcpinfo.PatienceOf(fd)
		require.True(t, ok)
		require.False(t, p.KeepAlive)
		require.Equal(t, 2500*time.Millisecond, p.User)
		require.NoError(t, tcpinfo.SetKeepAlive(fd, true))
		p, _ = tcpinfo.PatienceOf(fd)
		require.True(t, p.KeepAlive)

		require.NoError(t, tcpinfo.SetKeepIdle(fd, tcpinfo.MaxKeepIdle))
		require.ErrorIs(t, tcpinfo.SetKeepIdle(fd, tcpinfo.MaxKeepIdle+time.Second), unix.EINVAL)
	})
}

func TestKeepAliveSettingsOfMultipathTCP(t *testing.T) {
	client, _ := pair(t, true)
	control(t, client, func(fd uintptr) {
		require.NoError(t, tcpinfo.SetKeepAlive(fd, true))
		err := tcpinfo.SetUserTimeout(fd, time.Second)
		require.True(t, errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP), "%v", err)
		_, ok := tcpinfo.PatienceOf(fd)
		require.False(t, ok)
	})
}
