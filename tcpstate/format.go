package tcpstate

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// age formats a duration for reading: two units at most.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "?"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 9950*time.Millisecond:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + "s"
	case d < 59500*time.Millisecond:
		return strconv.Itoa(int(d.Round(time.Second).Seconds())) + "s"
	case d < time.Hour-500*time.Millisecond:
		return units(d.Round(time.Second), time.Minute, "m", time.Second, "s")
	case d < 24*time.Hour-30*time.Second:
		return units(d.Round(time.Minute), time.Hour, "h", time.Minute, "m")
	}
	return units(d.Round(time.Hour), 24*time.Hour, "d", time.Hour, "h")
}

func units(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	s := strconv.Itoa(int(d/big)) + bigName
	if rest := int(d % big / small); rest > 0 {
		s += strconv.Itoa(rest) + smallName
	}
	return s
}

// thousands formats a number with separators: "16,060".
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted formats a number of things: "1 byte", "16,060 bytes".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return thousands(n) + " " + thing + "s"
}

// textWidth is how wide reports are: it fits half a screen, and a pager.
const textWidth = 100

// wrap writes text in lines of readable length: the first one after first,
// which is written only when there is text, the others after indent.
func wrap(b *bytes.Buffer, first, indent, text string) {
	col := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case col == 0:
			b.WriteString(first)
			col = utf8.RuneCountInString(first)
		case col+1+n > textWidth:
			b.WriteString("\n" + indent)
			col = utf8.RuneCountInString(indent)
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
	}
	if col > 0 {
		b.WriteByte('\n')
	}
}
