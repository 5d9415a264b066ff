package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

func TestSettingsAreJudgedByWhatTheKernelMakesOfThem(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name string
		p    tcpinfo.Patience
		kind Kind
		d    time.Duration // 0: never
	}{
		{"off", tcpinfo.Patience{Idle: 15 * s, Interval: 15 * s, Count: 9}, KindKeepaliveOff, 0},
		{"off, user timeout", tcpinfo.Patience{Idle: 15 * s, Interval: 15 * s, Count: 9, User: 20 * s}, KindKeepaliveOff, 0},
		{"Go's default", tcpinfo.Patience{KeepAlive: true, Idle: 15 * s, Interval: 15 * s, Count: 9}, "", 150 * s},
		{"ten minutes", tcpinfo.Patience{KeepAlive: true, Idle: 600 * s, Interval: 75 * s, Count: 9}, KindKeepaliveSlow, 1275 * s},
		{"one lost probe", tcpinfo.Patience{KeepAlive: true, Idle: 15 * s, Interval: 15 * s, Count: 9, User: 20 * s}, KindKeepaliveUserTimeout, 30 * s},
		{"two probes", tcpinfo.Patience{KeepAlive: true, Idle: 15 * s, Interval: 15 * s, Count: 9, User: 31 * s}, "", 45 * s},
		{"user timeout first", tcpinfo.Patience{KeepAlive: true, Idle: 60 * s, Interval: 15 * s, Count: 9, User: 5 * s}, KindKeepaliveContradictory, 75 * s},
		{"generous", tcpinfo.Patience{KeepAlive: true, Idle: 10 * s, Interval: 5 * s, Count: 3, User: 60 * s}, "", 60 * s},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.kind, auditOf(tt.p))
			d, ok := detection(tt.p)
			require.Equal(t, tt.d != 0, ok)
			require.Equal(t, tt.d, d)
		})
	}
}
