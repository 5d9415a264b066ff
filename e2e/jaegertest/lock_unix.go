//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package jaegertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile takes the lock at path, which other processes and other calls in this
// one respect, and returns what gives it up. The kernel gives it up for a process
// that dies.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func() error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}, func(err error) bool {
		return errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR)
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
