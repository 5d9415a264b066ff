//go:build !linux

package tcpinfo

import (
	"errors"
	"fmt"
	"runtime"
)

var errUnsupported = fmt.Errorf("tcp_info on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func get(uintptr, []byte) (int, error) { return 0, errUnsupported }

func state(uintptr) (uint8, error) { return 0, errUnsupported }

func queues(uintptr) (recv, send int, err error) { return 0, 0, errUnsupported }

func unread(uintptr) (int, error) { return 0, errUnsupported }

func mptcp(uintptr) bool { return false }

func patience(uintptr) (Patience, bool) { return Patience{}, false }

func mptcpSocket(uintptr) bool { return false }

func notTCP(uintptr, error) bool { return false }
