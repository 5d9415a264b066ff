//go:build !linux

package tcpinfo

import "time"

func setKeepAlive(uintptr, bool) error { return errUnsupported }

func keepIdle(uintptr) (time.Duration, error) { return 0, errUnsupported }

func setKeepIdle(uintptr, time.Duration) error { return errUnsupported }

func setUserTimeout(uintptr, time.Duration) error { return errUnsupported }
