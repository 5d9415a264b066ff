//go:build !unix

package faketime

import "time"

// On cannot tell on this platform.
func On() bool { return false }

// Sleep is time.Sleep on this platform.
func Sleep(d time.Duration) { time.Sleep(d) }
