package leaktest_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestManyFromOneLineAreOneBlock(t *testing.T) {
	const n = 5000
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Cur < 2*n+200 {
		t.Skipf("the limit of open files is %d", limit.Cur)
	}
	address := sink(t)
	begin := time.Now()
	out := run(func(ft *fakeT) {
		d := dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: "cache"}
		for range n {
			dial(t, d, address)
		}
		begin = time.Now()
	})
	t.Logf("reported after %v", time.Since(begin))
	require.Equal(t, 1, strings.Count(out, "tcpstate WARN"))
	require.Contains(t, out, "leaktest: 5,000 connections left open\n")
	require.Contains(t, out, "5,000 connections like this from the same line: 5,000 ESTABLISHED.")
	require.Less(t, len(out), 2000)
}
