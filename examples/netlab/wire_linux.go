package netlab

import (
	"net"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Slow makes the way between A and B take delay in each direction. From then on
// an agent on R carries the packets instead of its kernel, so that filters and
// connection tracking of R no longer apply.
func (l *Lab) Slow(delay time.Duration) {
	l.t.Helper()
	l.R.Sysctl("net/ipv4/ip_forward", "0")
	r := l.R.Start()
	for _, w := range []Wire{
		{From: "ra", To: "rb", MAC: l.B.mac(), Delay: delay},
		{From: "rb", To: "ra", MAC: l.A.mac(), Delay: delay},
	} {
		r.call("Wire", w, new(struct{}))
	}
}

// mac returns the hardware address of the host's device.
func (h *Host) mac() string {
	h.t.Helper()
	_, after, _ := strings.Cut(h.Run("ip", "-o", "link", "show", h.device), "link/ether ")
	mac, _, _ := strings.Cut(after, " ")
	return mac
}

// Wire carries the IPv4 packets that arrive at the device From out of the device
// To, to the neighbour with the address MAC, after a delay.
type Wire struct {
	From, To, MAC string
	Delay         time.Duration
}

type packet struct {
	due  time.Time
	data []byte
}

// Wire carries packets until the agent ends.
func (a *server) Wire(w Wire, _ *struct{}) error {
	const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in network order
	from, err := net.InterfaceByName(w.From)
	if err != nil {
		return err
	}
	to, err := net.InterfaceByName(w.To)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(w.MAC)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: from.Index}); err != nil {
		return err
	}
	packets := make(chan packet, 1024)
	go func() {
		atOnce()
		buf := make([]byte, 64<<10)
		for {
			n, sender, err := unix.Recvfrom(fd, buf, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				close(packets)
				return
			}
			if l, ok := sender.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_HOST {
				packets <- packet{time.Now().Add(w.Delay), append([]byte(nil), buf[:n]...)}
			}
		}
	}()
	go func() {
		atOnce()
		dst := &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: to.Index, Halen: uint8(len(mac))}
		copy(dst.Addr[:], mac)
		for p := range packets {
			time.Sleep(time.Until(p.due))
			unix.Sendto(fd, p.data, 0, dst) // a packet that cannot be sent is lost, as on any wire
		}
	}()
	return nil
}

// atOnce gives the calling goroutine a thread that does not wait for a processor
// behind the tests.
func atOnce() {
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, 0, -20) // without it the way takes longer
}
