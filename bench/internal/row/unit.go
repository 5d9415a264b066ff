package row

import (
	"math"
	"strconv"
	"strings"
)

// A Unit is that of a figure. Those below are scaled for the reader; any other
// is printed as it is.
type Unit string

// The units.
const (
	Nanoseconds Unit = "ns"
	Bytes       Unit = "B"
	Count       Unit = ""
	Percent     Unit = "%"
)

// Format writes v for the table; signed, if it comes on top of something.
func (u Unit) Format(v float64, signed bool) string {
	var s string
	switch u {
	case Nanoseconds:
		s = scaled(v, 1e3, "ns", "µs", "ms", "s")
	case Bytes:
		s = scaled(v, 1e4, "B", "kB", "MB", "GB") // 1,234 B are better than 1.23 kB beside a budget in bytes
	case Count:
		s = number(v)
	case Percent:
		s = number(v) + " %"
	default:
		s = number(v) + " " + string(u)
	}
	if signed && !strings.HasPrefix(s, "-") {
		s = "+" + s
	}
	return s
}

// scaled divides by 1,000 until v is below limit.
func scaled(v, limit float64, units ...string) string {
	for len(units) > 1 && math.Abs(v) >= limit*0.9995 {
		v /= 1e3
		units = units[1:]
	}
	return number(v) + " " + units[0]
}

// number writes three digits, or all before the point.
func number(v float64) string {
	digits := 2
	switch a := math.Abs(v); {
	case a == math.Trunc(a) || a >= 99.95:
		digits = 0
	case a >= 9.995:
		digits = 1
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if digits > 0 {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if s == "-0" {
		return "0"
	}
	return s
}
