//go:build !windows

package tcpotel

import "syscall"

var errnoTypes = map[syscall.Errno]string{
	syscall.ECONNREFUSED:  "connection_refused",
	syscall.ECONNRESET:    "connection_reset",
	syscall.ECONNABORTED:  "connection_aborted",
	syscall.ETIMEDOUT:     "timed_out",
	syscall.EHOSTUNREACH:  "host_unreachable",
	syscall.EHOSTDOWN:     "host_unreachable",
	syscall.ENETUNREACH:   "network_unreachable",
	syscall.ENETDOWN:      "network_unreachable",
	syscall.EADDRINUSE:    "address_in_use",
	syscall.EADDRNOTAVAIL: "address_not_available", // no local port is left
	syscall.EMFILE:        "too_many_open_files",
	syscall.ENFILE:        "too_many_open_files",
	syscall.EACCES:        "access_denied",
	syscall.EPERM:         "access_denied",
}
