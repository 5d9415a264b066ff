// Package tcptest puts real loopback sockets into every TCP state, without
// privileges, for the tests of this module.
//
// The tool behind most of it is a deaf socket: [Deafen] makes the kernel drop
// every segment that arrives for one socket, before TCP sees it, so that the
// socket is a black hole for its peer until it is healed. How to reach each
// state, with c and s from [Pair]:
//
//	ESTABLISHED   Pair
//	CLOSE-WAIT    s.CloseWrite(), look at c
//	FIN-WAIT-2    c.CloseWrite()
//	FIN-WAIT-1    Deafen(s), c.CloseWrite()
//	LAST-ACK      s.CloseWrite(), Deafen(s), c.CloseWrite()
//	CLOSING       Deafen(c), Deafen(s), both CloseWrite, heal c
//	TIME-WAIT     c.Close(), s.Close(), see WaitTable
//	SYN-SENT      Dialing a DeadListener
//	SYN-RECEIVED  Dialing a Listen with DeafControl, see WaitTable
//	LISTEN        Listen
//	CLOSE         Reset(s), or SetTimers(c), Deafen(s) and a write on c
//
// Not states, but failures: a zero window is [FillWindow] on a [SmallBuffers]
// pair, a full accept queue is [FullBacklogListener], unacknowledged data is a
// write to a socket after [Deafen] of its peer. [DropFIN], [DropData],
// [DropLarge] and [OnlySYN] lose only some segments; they are socket filters, for which newer
// kernels want privileges.
//
// The helpers fail the test through t.Fatal, so call them from the goroutine
// of the test unless a comment says otherwise. What they create ends in
// t.Cleanup. On platforms other than Linux, whatever needs the kernel's help
// skips the test and says why; [Pair], [Listen], [WaitUntil] and [TLSConfigs]
// work everywhere.
//
// The scenarios that tcpstate has to tell apart are scripts made of all this,
// see testdata/script/README.md.
//
// Nothing but tests may import this package.
package tcptest
