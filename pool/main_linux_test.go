package pool_test

import (
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) {
	hangup.Main()
	tcptest.Main(m)
}
