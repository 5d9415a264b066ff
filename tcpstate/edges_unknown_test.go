package tcpstate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Where TCP_INFO is not to be had, the end of the stream that the application
// read is the only evidence of the peer's FIN.
func TestWithoutTCPInfoTheApplicationsEOFIsThePeersFIN(t *testing.T) {
	require.Equal(t, history{fin: true, finFirst: true}, history{}.observe(look{read: readEOF}))
	require.Equal(t, history{fin: true}, history{}.observe(look{read: readEOF, closeWrite: true}))
	require.Equal(t, history{}, history{}.observe(look{read: readEOF, closeRead: true}), "our own CloseRead gives EOF, too")
	require.Equal(t, history{}, history{}.observe(look{read: readDeadline}))
	require.Equal(t, history{}, history{}.observe(look{state: Established, read: readEOF}), "the kernel knows better")
}
