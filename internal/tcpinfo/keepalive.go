package tcpinfo

import "time"

// MaxKeepIdle is the largest keepalive idle time and interval that the kernel
// accepts (MAX_TCP_KEEPIDLE in include/net/tcp.h). A default of the system may
// be larger.
const MaxKeepIdle = 32767 * time.Second

// SetKeepAlive turns keepalive on or off (SO_KEEPALIVE).
func SetKeepAlive(fd uintptr, on bool) error { return setKeepAlive(fd, on) }

// KeepIdle returns the silence before the first keepalive probe (TCP_KEEPIDLE).
func KeepIdle(fd uintptr) (time.Duration, error) { return keepIdle(fd) }

// SetKeepIdle sets it, in whole seconds. With keepalive on it also restarts the
// timer: a connection that has been silent for longer is probed at once
// (tcp_sock_set_keepidle_locked in net/ipv4/tcp.c).
func SetKeepIdle(fd uintptr, d time.Duration) error { return setKeepIdle(fd, d) }

// SetUserTimeout sets TCP_USER_TIMEOUT, in whole milliseconds. Sockets made for
// Multipath TCP refuse it.
func SetUserTimeout(fd uintptr, d time.Duration) error { return setUserTimeout(fd, d) }
