package tcptest_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A script is one scenario, read from testdata/script; README.md there
// describes the language.
type script struct {
	file  string // without directory
	class string // "C06", or mixture
	kind  tcpstate.Kind
	also  tcpstate.Kind // of a mixture: its other kind
	twin  bool          // healthy: kind must not be found
	title string
	body  []statement
}

// noFinding stands in place of a kind for classes that only have metrics.
const noFinding tcpstate.Kind = "none"

// mixture is the class of scripts with two faults at once.
const mixture = "MIX"

// threshold is T: of a mixture the longer one.
func (s *script) threshold() time.Duration {
	if s.also == "" {
		return promises[s.kind].scale()
	}
	return max(promises[s.kind].scale(), promises[s.also].scale())
}

// about reports whether k is what the script finds, or must not find.
func (s *script) about(k tcpstate.Kind) bool { return k == s.kind || k == s.also }

// name is the file without its extension.
func (s *script) name() string { return strings.TrimSuffix(s.file, ".txt") }

// statement is one line of a script, with its blocks.
type statement struct {
	at     string // file:line
	verb   *verb
	name   string
	args   []string
	opts   map[string]string // key=value; a flag is its own value
	blocks [][]statement
}

// verb is something that a script can do.
type verb struct {
	usage    string // after the name
	min, max int    // arguments; max < 0: any number
	opts     string // flags and, with a =, options; spaces between
	block    string // "": none; else the word that separates its parts, or "end"
	run      func(r *run, st *statement) error
}

func (v *verb) knows(opt string) bool { return slices.Contains(strings.Fields(v.opts), opt) }

// loadScripts reads all scripts of dir in the order of their names.
func loadScripts(dir fs.FS) ([]*script, error) {
	files, err := fs.Glob(dir, "*.txt")
	if err != nil {
		return nil, err
	}
	var all []*script
	for _, name := range files {
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		s, err := parseScript(name, string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func scriptDir() fs.FS { return os.DirFS(filepath.Join("testdata", "script")) }

var option = regexp.MustCompile(`^([a-z]+)=(.+)$`)

// parser holds the lines of one file that are not parsed yet.
type parser struct {
	file  string
	lines []string
	n     int // of the line that next returned
}

// next returns the words of the next line that has some, and nil at the end.
func (p *parser) next() []string {
	for p.n < len(p.lines) {
		line, _, _ := strings.Cut(p.lines[p.n], "#")
		p.n++
		if words := strings.Fields(line); len(words) > 0 {
			return words
		}
	}
	return nil
}

func (p *parser) at() string { return fmt.Sprintf("%s:%d", p.file, p.n) }

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s", p.at(), fmt.Sprintf(format, args...))
}

func parseScript(file, text string) (*script, error) {
	p := &parser{file: file}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		p.lines = append(p.lines, sc.Text())
	}
	head := p.next()
	if len(head) != 3 || !slices.Contains([]string{"case", "twin", "mix"}, head[0]) {
		return nil, p.errorf("a script begins with: case|twin CLASS KIND, or mix KIND KIND")
	}
	s := &script{file: file, class: head[1], kind: tcpstate.Kind(head[2]), twin: head[0] == "twin"}
	kinds := []tcpstate.Kind{s.kind}
	if head[0] == "mix" {
		s.class, s.kind, s.also = mixture, tcpstate.Kind(head[1]), tcpstate.Kind(head[2])
		kinds = []tcpstate.Kind{s.kind, s.also}
	} else if !regexp.MustCompile(`^(C\d\d|article)$`).MatchString(s.class) {
		return nil, p.errorf("unknown class %q", s.class)
	}
	for _, k := range kinds {
		if _, ok := promises[k]; !ok {
			return nil, p.errorf("unknown kind %q", k)
		}
	}
	if strings.HasPrefix(p.lines[0], "#") {
		s.title = strings.TrimSpace(strings.TrimLeft(p.lines[0], "#"))
	}
	body, end, err := p.block("")
	if err != nil {
		return nil, err
	}
	if end != "" {
		return nil, p.errorf("%q without a block", end)
	}
	s.body = body
	return s, s.complete()
}

// complete refuses a script that would pass whatever is found.
func (s *script) complete() error {
	switch {
	case s.twin && !s.uses("silent"):
		return fmt.Errorf("%s: a twin says how long it is silent", s.file)
	case !s.twin && !s.uses("expect"):
		return fmt.Errorf("%s: a case says what it expects", s.file)
	}
	return nil
}

// uses reports whether the script uses a verb outside of its blocks.
func (s *script) uses(verb string) bool {
	return slices.ContainsFunc(s.body, func(st statement) bool { return st.name == verb })
}

// block parses statements up to the word that ends them: end, or sep, or the
// end of the file, which is "".
func (p *parser) block(sep string) (body []statement, end string, err error) {
	for {
		words := p.next()
		switch {
		case words == nil:
			return body, "", nil
		case len(words) == 1 && (words[0] == "end" || words[0] == sep):
			return body, words[0], nil
		}
		st, err := p.statement(words)
		if err != nil {
			return nil, "", err
		}
		body = append(body, st)
	}
}

func (p *parser) statement(words []string) (statement, error) {
	st := statement{at: p.at(), name: words[0], verb: verbs[words[0]], opts: make(map[string]string)}
	if st.verb == nil {
		return st, p.errorf("unknown verb %q", st.name)
	}
	for _, w := range words[1:] {
		if m := option.FindStringSubmatch(w); m != nil && st.verb.opts != "" {
			if !st.verb.knows(m[1] + "=") {
				return st, p.errorf("%s has no option %q", st.name, m[1])
			}
			st.opts[m[1]] = m[2]
		} else if st.verb.knows(w) {
			st.opts[w] = w
		} else {
			st.args = append(st.args, w)
		}
	}
	if n := len(st.args); n < st.verb.min || st.verb.max >= 0 && n > st.verb.max {
		return st, p.errorf("%d arguments; usage: %s %s", n, st.name, st.verb.usage)
	}
	if st.verb.block == "" {
		return st, nil
	}
	for at := p.at(); ; {
		body, end, err := p.block(st.verb.block)
		if err != nil {
			return st, err
		}
		if end == "" {
			return st, fmt.Errorf("%s: %s has no end", at, st.name)
		}
		st.blocks = append(st.blocks, body)
		if end == "end" {
			return st, nil
		}
	}
}

// number returns the value of "7", or one between the ends of "100..4000".
func number(rng *rand.Rand, text string) (int, error) {
	lo, hi, isRange := strings.Cut(text, "..")
	from, err := strconv.Atoi(lo)
	if err != nil || !isRange {
		return from, err
	}
	to, err := strconv.Atoi(hi)
	if err != nil || to < from {
		return 0, fmt.Errorf("bad range %q", text)
	}
	return from + rng.IntN(to-from+1), nil
}

// duration returns the value of "30s" or "0.8T", where T is unit, or one
// between the ends of "0.2T..0.9T".
func duration(rng *rand.Rand, text string, unit time.Duration) (time.Duration, error) {
	one := func(text string) (time.Duration, error) {
		if factor, ok := strings.CutSuffix(text, "T"); ok {
			f, err := strconv.ParseFloat(factor, 64)
			return time.Duration(f * float64(unit)), err
		}
		return time.ParseDuration(text)
	}
	lo, hi, isRange := strings.Cut(text, "..")
	from, err := one(lo)
	if err != nil || !isRange {
		return from, err
	}
	to, err := one(hi)
	if err != nil || to < from {
		return 0, fmt.Errorf("bad range %q", text)
	}
	return from + time.Duration(rng.Int64N(int64(to-from)+1)), nil
}
