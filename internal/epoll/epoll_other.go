//go:build !linux

package epoll

import "errors"

// New fails: epoll is a facility of Linux.
func New() (*Blind, error) { return nil, errors.ErrUnsupported }

// Peek sees nothing here.
func Peek(uintptr) Flags { return 0 }
