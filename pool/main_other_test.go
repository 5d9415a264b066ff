//go:build !linux

package pool_test

import (
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }
