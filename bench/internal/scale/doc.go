// Package scale measures a tracker of many connections, with the tracked ends in
// one process and their peers in another: that is what the limit of open files
// allows for, and the CPU time, the memory and the wake-ups of the tracked
// process are those of nothing else.
//
// The processes are children of the running program; see package child.
package scale
