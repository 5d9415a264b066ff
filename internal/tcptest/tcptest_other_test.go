//go:build !linux

package tcptest_test

import (
	"errors"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestHelpersThatNeedLinuxSkip(t *testing.T) {
	for name, f := range map[string]func(*testing.T){
		"Deafen":              func(t *testing.T) { tcptest.Deafen(t, nil) },
		"DropFIN":             func(t *testing.T) { tcptest.DropFIN(t, nil) },
		"DropData":            func(t *testing.T) { tcptest.DropData(t, nil) },
		"OnlySYN":             func(t *testing.T) { tcptest.OnlySYN(t, nil) },
		"DeadListener":        func(t *testing.T) { tcptest.DeadListener(t) },
		"FullBacklogListener": func(t *testing.T) { tcptest.FullBacklogListener(t) },
		"State":               func(t *testing.T) { tcptest.State(t, nil) },
		"WaitState":           func(t *testing.T) { tcptest.WaitState(t, nil, tcptest.Closed) },
		"TableState":          func(t *testing.T) { tcptest.TableState(t, nil, nil) },
		"WaitTable":           func(t *testing.T) { tcptest.WaitTable(t, nil, nil, tcptest.Closed) },
		"LocalAddr":           func(t *testing.T) { tcptest.LocalAddr(t, nil) },
		"InodeOf":             func(t *testing.T) { tcptest.InodeOf(t, nil) },
		"SetTimers":           func(t *testing.T) { tcptest.SetTimers(t, nil, tcptest.Timers{}) },
		"FillWindow":          func(t *testing.T) { tcptest.FillWindow(t, nil) },
		"FDCount":             func(t *testing.T) { tcptest.FDCount(t) },
		"EpollWatches":        func(t *testing.T) { tcptest.EpollWatches(t) },
	} {
		skipped := false
		t.Run(name, func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			f(t)
		})
		if !skipped {
			t.Errorf("%s did not skip", name)
		}
	}
	if err := tcptest.DeafControl("", "", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("DeafControl: %v, want ErrUnsupported", err)
	}
}
