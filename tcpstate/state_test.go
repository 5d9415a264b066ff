package tcpstate

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStateNamesPhaseAndSemConv(t *testing.T) {
	tests := []struct {
		state   State
		number  uint8
		name    string
		semconv string
		phase   Phase
	}{
		{Unknown, 0, "UNKNOWN", "", PhaseUnknown},
		{Established, 1, "ESTABLISHED", "established", PhaseTransfer},
		{SynSent, 2, "SYN-SENT", "syn_sent", PhaseSetup},
		{SynRecv, 3, "SYN-RECEIVED", "syn_received", PhaseSetup},
		{FinWait1, 4, "FIN-WAIT-1", "fin_wait_1", PhaseActiveClose},
		{FinWait2, 5, "FIN-WAIT-2", "fin_wait_2", PhaseActiveClose},
		{TimeWait, 6, "TIME-WAIT", "time_wait", PhaseActiveClose},
		{Closed, 7, "CLOSED", "closed", PhaseAbnormal},
		{CloseWait, 8, "CLOSE-WAIT", "close_wait", PhasePassiveClose},
		{LastAck, 9, "LAST-ACK", "last_ack", PhasePassiveClose},
		{Listen, 10, "LISTEN", "listen", PhaseListen},
		{Closing, 11, "CLOSING", "closing", PhaseActiveClose},
		{NewSynRecv, 12, "SYN-RECEIVED", "syn_received", PhaseSetup},
		{State(13), 13, "UNKNOWN", "", PhaseUnknown},
		{State(255), 255, "UNKNOWN", "", PhaseUnknown},
	}
	for _, tt := range tests {
		require.Equal(t, tt.number, uint8(tt.state), tt.name)
		require.Equal(t, tt.name, tt.state.String())
		require.Equal(t, tt.semconv, tt.state.SemConv(), tt.name)
		require.Equal(t, tt.phase, tt.state.Phase(), tt.name)
	}
}

func TestStatesAreTheElevenOfTheRFC(t *testing.T) {
	states := States()
	require.Len(t, states, 11)
	seen := map[string]bool{}
	for _, s := range states {
		require.NotEqual(t, PhaseUnknown, s.Phase(), s)
		require.NotEmpty(t, s.SemConv(), s)
		seen[s.String()] = true
	}
	require.Len(t, seen, 11)

	states[0] = Unknown
	require.Equal(t, Listen, States()[0], "the caller owns the slice")
}

func TestStateTextRoundTrip(t *testing.T) {
	for _, want := range append(States(), Unknown) {
		text, err := json.Marshal(want)
		require.NoError(t, err)
		var got State
		require.NoError(t, json.Unmarshal(text, &got))
		require.Equal(t, want, got)
	}

	var got State
	require.NoError(t, got.UnmarshalText([]byte("close-wait")))
	require.Equal(t, CloseWait, got)
	require.ErrorContains(t, got.UnmarshalText([]byte("CLOSE_WAIT")), `"CLOSE_WAIT"`)
	require.Equal(t, CloseWait, got, "an error leaves the value alone")
}

func TestPhaseText(t *testing.T) {
	require.Equal(t, "unknown", Phase(0).String())
	require.Equal(t, "unknown", Phase(99).String())
	want := []string{"unknown", "setup", "transfer", "passive close", "active close", "abnormal", "listen"}
	for p := PhaseUnknown; p <= PhaseListen; p++ {
		require.Equal(t, want[p], p.String())
		text, err := p.MarshalText()
		require.NoError(t, err)
		var got Phase
		require.NoError(t, got.UnmarshalText(text))
		require.Equal(t, p, got)
	}
	require.Error(t, new(Phase).UnmarshalText([]byte("Setup")))
}
