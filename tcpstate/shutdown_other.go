//go:build !unix

package tcpstate

import "errors"

func shutdownBoth(uintptr) error { return errors.ErrUnsupported }
