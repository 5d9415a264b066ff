package tcpstate_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// goleakChild makes this test binary the test of a program whose author uses
// goleak and tracks connections.
const goleakChild = "TCPSTATE_GOLEAK_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(goleakChild) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	tcptest.Main(m)
}
