package tcpotel

import (
	"syscall"

	"golang.org/x/sys/windows"
)

var errnoTypes = map[syscall.Errno]string{
	windows.WSAECONNREFUSED:  "connection_refused",
	windows.WSAECONNRESET:    "connection_reset",
	windows.WSAECONNABORTED:  "connection_aborted",
	windows.WSAETIMEDOUT:     "timed_out",
	windows.WSAEHOSTUNREACH:  "host_unreachable",
	windows.WSAEHOSTDOWN:     "host_unreachable",
	windows.WSAENETUNREACH:   "network_unreachable",
	windows.WSAENETDOWN:      "network_unreachable",
	windows.WSAEADDRINUSE:    "address_in_use",
	windows.WSAEADDRNOTAVAIL: "address_not_available", // no local port is left
	windows.WSAEMFILE:        "too_many_open_files",
	windows.WSAEACCES:        "access_denied",
}
