package tcpinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

func patience(fd uintptr) (p Patience, ok bool) {
	var user, idle, interval int
	for _, o := range []struct {
		option int
		v      *int
	}{{unix.TCP_USER_TIMEOUT, &user}, {unix.TCP_KEEPIDLE, &idle}, {unix.TCP_KEEPINTVL, &interval}} {
		v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, o.option)
		if err != nil {
			return Patience{}, false
		}
		*o.v = v
	}
	return Patience{
		User:     time.Duration(user) * time.Millisecond,
		Idle:     time.Duration(idle) * time.Second,
		Interval: time.Duration(interval) * time.Second,
	}, true
}
