package sockdiag

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func orphans() (int, error) {
	const name = "/proc/net/sockstat"
	b, err := readFile(name, 1024)
	if err != nil {
		return 0, err
	}
	n, ok := parseOrphans(b)
	if !ok || n > math.MaxInt32 {
		return 0, unreadable(name)
	}
	return int(n), nil
}

func synRetransmits() (uint64, error) {
	const name = "/proc/net/netstat" // 5 kB on Linux 6.18
	b, err := readFile(name, 32<<10)
	if err != nil {
		return 0, err
	}
	n, ok := parseNetstat(b, "TcpExt:", "TCPSynRetrans")
	if !ok {
		return 0, unreadable(name)
	}
	return n, nil
}

func portRange() (lo, hi int, err error) {
	const name = "/proc/sys/net/ipv4/ip_local_port_range"
	b, err := readFile(name, 64)
	if err != nil {
		return 0, 0, err
	}
	lo, hi, ok := parsePortRange(b)
	if !ok {
		return 0, 0, unreadable(name)
	}
	return lo, hi, nil
}

// parseOrphans finds "TCP: inuse 5 orphan 0 tw 2".
func parseOrphans(b []byte) (n uint64, ok bool) {
	for line := range bytes.Lines(b) {
		fields, found := bytes.CutPrefix(line, []byte("TCP: "))
		if !found {
			continue
		}
		for len(fields) > 0 {
			var name, value []byte
			name, fields = field(fields)
			value, fields = field(fields)
			if string(name) == "orphan" {
				return number(value)
			}
		}
	}
	return 0, false
}

// parseNetstat finds a value in pairs of lines: one of names and one of values,
// both behind the same heading.
func parseNetstat(b []byte, heading, name string) (n uint64, ok bool) {
	for len(b) > 0 {
		var names, values []byte
		names, b, _ = bytes.Cut(b, []byte("\n"))
		if first, rest := field(names); string(first) != heading {
			continue
		} else {
			names = rest
		}
		values, b, _ = bytes.Cut(b, []byte("\n"))
		if first, rest := field(values); string(first) != heading {
			return 0, false
		} else {
			values = rest
		}
		for {
			var at, value []byte
			at, names = field(names)
			value, values = field(values)
			if len(at) == 0 || len(value) == 0 {
				break
			}
			if string(at) == name {
				return number(value)
			}
		}
	}
	return 0, false
}

func parsePortRange(b []byte) (lo, hi int, ok bool) {
	first, b := field(b)
	last, b := field(b)
	more, _ := field(b)
	l, okLow := number(first)
	h, okHigh := number(last)
	if !okLow || !okHigh || len(more) > 0 || l > h || h > math.MaxUint16 {
		return 0, 0, false
	}
	return int(l), int(h), true
}

// field cuts the first word from b, which is empty when there is none.
func field(b []byte) (word, rest []byte) {
	start := 0
	for start < len(b) && space(b[start]) {
		start++
	}
	end := start
	for end < len(b) && !space(b[end]) {
		end++
	}
	return b[start:end], b[end:]
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

func number(b []byte) (n uint64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxUint64-uint64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// readFile returns a file of less than size bytes; what is longer cannot be
// read. It uses no os.File, which would ask Go's poller about every file.
func readFile(name string, size int) ([]byte, error) {
	room := make([]byte, size)
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	for n := 0; n < len(room); {
		m, err := unix.Read(fd, room[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		case m == 0:
			return room[:n], nil
		default:
			n += m
		}
	}
	return nil, &os.PathError{Op: "read", Path: name, Err: io.ErrShortBuffer}
}

var errFormat = errors.New("unknown format")

func unreadable(name string) error { return fmt.Errorf("%s: %w", name, errFormat) }
