package tcpotel

import (
	"net"
	"net/netip"
	"strconv"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Attributes of the semantic conventions. They are spelled out here, because
// the package of constants would tie the module to one version of them.
const (
	keyCodeFile         = attribute.Key("code.file.path")
	keyCodeFunction     = attribute.Key("code.function.name")
	keyCodeLine         = attribute.Key("code.line.number")
	keyCodeStack        = attribute.Key("code.stacktrace")
	keyErrorType        = attribute.Key("error.type")
	keyDBPoolName       = attribute.Key("db.client.connection.pool.name")
	keyDBPoolState      = attribute.Key("db.client.connection.state")
	keyDirection        = attribute.Key("network.io.direction")
	keyLocalAddress     = attribute.Key("network.local.address")
	keyLocalPort        = attribute.Key("network.local.port")
	keyNetworkType      = attribute.Key("network.type")
	keyPeerAddress      = attribute.Key("network.peer.address")
	keyPeerPort         = attribute.Key("network.peer.port")
	keyServerAddress    = attribute.Key("server.address")
	keyServerPort       = attribute.Key("server.port")
	keyState            = attribute.Key("network.connection.state")
	valueOther          = "_OTHER"
	valueReceive        = "receive"
	valueTransmit       = "transmit"
	valueIdle           = "idle"
	valueUsed           = "used"
	valueIPv4           = "ipv4"
	valueIPv6           = "ipv6"
	reasonRateLimit     = "rate_limit"
	reasonMuted         = "muted"
	reasonQueueFull     = "queue_full"
	reasonTooManyGroups = "group_limit"
	reasonTooManySpans  = "span_limit"
)

// Attributes of our own.
const (
	keyAgeACK         = attribute.Key("tcpstate.age.ack")
	keyAgeAppRead     = attribute.Key("tcpstate.age.app_read")
	keyAgeDataIn      = attribute.Key("tcpstate.age.data_in")
	keyAgeDataOut     = attribute.Key("tcpstate.age.data_out")
	keyAgeDied        = attribute.Key("tcpstate.age.died")
	keyAgePeerFIN     = attribute.Key("tcpstate.age.peer_fin")
	keyBytesIn        = attribute.Key("tcpstate.bytes_received")
	keyBytesOut       = attribute.Key("tcpstate.bytes_sent")
	keyCause          = attribute.Key("tcpstate.finding.cause")
	keyCloseReason    = attribute.Key("tcpstate.close.reason")
	keyConnID         = attribute.Key("tcpstate.connection.id")
	keyConnName       = attribute.Key("tcpstate.connection.name")
	keyDiscard        = attribute.Key("tcpstate.pool.discard.reason")
	keyFindingAge     = attribute.Key("tcpstate.finding.age")
	keyFindingID      = attribute.Key("tcpstate.finding.id")
	keyFindingWas     = attribute.Key("tcpstate.finding.was")
	keyFix            = attribute.Key("tcpstate.fix")
	keyGroupOpen      = attribute.Key("tcpstate.group.open")
	keyGroupPerMinute = attribute.Key("tcpstate.group.per_minute")
	keyKind           = attribute.Key("tcpstate.finding.kind")
	keyKinds          = attribute.Key("tcpstate.finding.kinds")
	keyLinkRole       = attribute.Key("tcpstate.link.role")
	keyPoolName       = attribute.Key("tcpstate.pool.name")
	keyPoolState      = attribute.Key("tcpstate.pool.connection.state")
	keyProbes         = attribute.Key("tcpstate.probes")
	keyRecvQueue      = attribute.Key("tcpstate.recv_queue")
	keyRetransmits    = attribute.Key("tcpstate.retransmits")
	keyRole           = attribute.Key("tcpstate.connection.role")
	keyRTT            = attribute.Key("tcpstate.rtt")
	keySendQueue      = attribute.Key("tcpstate.send_queue")
	keySeverity       = attribute.Key("tcpstate.finding.severity")
	keySubject        = attribute.Key("tcpstate.finding.subject")
	keySummary        = attribute.Key("tcpstate.summary")
	keySuppressed     = attribute.Key("tcpstate.suppression.reason")
	keyTimeouts       = attribute.Key("tcpstate.timeouts")
	keyUnacked        = attribute.Key("tcpstate.unacked")
	keyUse            = attribute.Key("tcpstate.use")
	keyUses           = attribute.Key("tcpstate.connection.uses")
)

// attrs collects the attributes of a span and leaves out what is not known.
type attrs []attribute.KeyValue

func (a *attrs) add(kv attribute.KeyValue) { *a = append(*a, kv) }

func (a *attrs) str(k attribute.Key, v string) {
	if v != "" {
		a.add(k.String(v))
	}
}

func (a *attrs) age(k attribute.Key, d tcpstate.Duration) {
	if d >= 0 {
		a.add(k.Float64(float64(d) / 1e9))
	}
}

// positive adds a number unless it is 0.
func (a *attrs) positive(k attribute.Key, n int) {
	if n > 0 {
		a.add(k.Int(n))
	}
}

// target adds a dialed target as server.address and server.port.
func (a *attrs) target(target string) {
	host, port := splitTarget(target)
	a.str(keyServerAddress, host)
	if port > 0 {
		a.add(keyServerPort.Int(port))
	}
}

// ends adds the addresses of a connection: of a client that connected to us
// only the network, and no port.
func (a *attrs) ends(role tcpstate.Role, local, remote string) {
	a.str(keyPeerAddress, tcpstate.PeerForTelemetry(tcpstate.Subject{Role: role, Remote: remote}))
	if role == tcpstate.Client {
		if ap, err := netip.ParseAddrPort(remote); err == nil {
			a.add(keyPeerPort.Int(int(ap.Port())))
		}
	}
	if ap, err := netip.ParseAddrPort(local); err == nil {
		a.add(keyLocalAddress.String(ap.Addr().Unmap().String()))
		a.add(keyLocalPort.Int(int(ap.Port())))
	}
}

// splitTarget returns the parts of a target: "db:5432", or a host alone.
func splitTarget(target string) (host string, port int) {
	host, service, err := net.SplitHostPort(target)
	if err != nil {
		return target, 0
	}
	port, _ = strconv.Atoi(service)
	return host, port
}

// networkType returns the value of network.type, empty if it is not known.
func networkType(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	switch {
	case !ok || tcp == nil || len(tcp.IP) == 0:
		return ""
	case tcp.IP.To4() != nil:
		return valueIPv4
	}
	return valueIPv6
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
