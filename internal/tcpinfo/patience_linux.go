package tcpinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

func patience(fd uintptr) (p Patience, ok bool) {
	var user, idle, interval, on int
	for _, o := range []struct {
		level, option int
		v             *int
	}{
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, &user}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, &idle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, &interval}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, &p.Count},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, &on},
	} {
		v, err := unix.GetsockoptInt(int(fd), o.level, o.option)
		if err != nil {
			return Patience{}, false
		}
		*o.v = v
	}
	return Patience{
		User:     time.Duration(user) * time.Millisecond,
		Idle:     time.Duration(idle) * time.Second,
		Interval: time.Duration(interval) * time.Second,

		Count: p.Count, KeepAlive: on != 0,
	}, true
}
