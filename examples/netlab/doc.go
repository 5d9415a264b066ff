// Package netlab reproduces failures that need more than one host: NAT,
// connection tracking, a path with a small MTU, a host that vanishes.
//
// [New] builds two hosts, A and B, and a router R between them, out of network
// namespaces of their own:
//
//	A 192.0.2.2 ── 192.0.2.1 R 198.51.100.1 ── 198.51.100.2 B
//
// The addresses are those reserved for documentation: nothing answers to them
// elsewhere. Sysctls, routes and filters are set inside the namespaces only. A
// namespace lives as long as the test's process holds the pipe to a process in
// it, so that nothing stays behind even when the test is killed.
//
// What opens sockets in a namespace is a child process, the [Agent]: the test
// binary, started again inside. Its tracker and all of its threads live there.
// The test tells it what to do and breaks the network meanwhile:
//
//	l := netlab.New(t)
//	client, server := l.Pair(l.A.Start(), l.B.Start())
//	l.B.Drop("input", "tcp dport 80")
//	client.Write(100)
//
// It needs Linux, root, ip, nft and conntrack, and skips the test without them.
package netlab
