// Package clients is the root of a module that tries tcpstate with real
// clients against real servers.
package clients
