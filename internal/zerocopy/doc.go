// Package zerocopy holds a test that counts system calls: a copy that the
// kernel makes between plain connections, it makes between tracked ones, with
// the same calls.
package zerocopy
