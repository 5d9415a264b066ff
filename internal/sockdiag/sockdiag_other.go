//go:build !linux

package sockdiag

import (
	"errors"
	"fmt"
	"runtime"
)

var errUnsupported = fmt.Errorf("sock_diag on %s: %w", runtime.GOOS, errors.ErrUnsupported)

type conn struct{}

func open() (*Conn, error) { return nil, errUnsupported }

func (*conn) close() error { return errUnsupported }

func (*conn) lookup(dst []Result, info []byte, tuples []Tuple, _ bool) ([]Result, []byte, error) {
	for _, t := range tuples {
		dst = append(dst, Result{Tuple: t})
	}
	return dst, info, errUnsupported
}

func (*conn) dump(Query, func(*Socket) bool) (Dumped, error) { return Dumped{}, errUnsupported }

func (*conn) stats() Stats { return Stats{} }

func orphans() (int, error) { return 0, errUnsupported }

func synRetransmits() (uint64, error) { return 0, errUnsupported }

func portRange() (lo, hi int, err error) { return 0, 0, errUnsupported }
