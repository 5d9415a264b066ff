//go:build !race

package tcpstate_test

const raceEnabled = false
