package tcptest_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestAScriptThatMakesNoSenseIsRefusedWithItsLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no head":           {"wait 1T\n", "x.txt:1: a script begins with"},
		"unknown class":     {"case 6 close_wait.eof_seen\n", `x.txt:1: unknown class "6"`},
		"kind of a mixture": {"mix close_wait.eof_seen close_wait.eof\n", `x.txt:1: unknown kind "close_wait.eof"`},
		"unknown kind":      {"case C06 close_wait.eof\n", `x.txt:1: unknown kind "close_wait.eof"`},
		"unknown verb":      {"# what it is\ncase C06 close_wait.eof_seen\n\nexplode s\n", `x.txt:4: unknown verb "explode"`},
		"too few arguments": {"case C06 close_wait.eof_seen\nsay a b\n", "x.txt:2: 2 arguments; usage: say FROM TO N"},
		"unknown option":    {"case C06 close_wait.eof_seen\nserver s c colour=red\n", `x.txt:2: server has no option "colour"`},
		"no expectation":    {"case C06 close_wait.eof_seen\nserver s c\nclose c\n", "x.txt: a case says what it expects"},
		"no silence":        {"twin C06 close_wait.eof_seen\nserver s c\n", "x.txt: a twin says how long"},
		"block without end": {"case C06 close_wait.eof_seen\nrepeat 3\n  wait 1T\n", "x.txt:2: repeat has no end"},
		"end without block": {"case C06 close_wait.eof_seen\nend\n", `x.txt:2: "end" without a block`},
		"or in a repeat":    {"case C06 close_wait.eof_seen\nrepeat 2\nor\nend\n", `x.txt:3: unknown verb "or"`},
		"nested":            {"case C06 close_wait.eof_seen\nrepeat 2\n  either\n    boom\n  end\nend\n", `x.txt:4: unknown verb "boom"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseScript("x.txt", c.text)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestAScriptIsParsedWithItsBlocks(t *testing.T) {
	s, err := parseScript("c06_x.txt", "# what it is\ncase C06 close_wait.eof_seen # kind\neither\n  wait 1T\nor\n  server s c small name=api\n  repeat 2\n    gc\n  end\nend\nexpect none\n")
	require.NoError(t, err)
	require.Equal(t, "what it is", s.title)
	require.Equal(t, "c06_x", s.name())
	require.Len(t, s.body, 2)
	blocks := s.body[0].blocks
	require.Len(t, blocks, 2)
	require.Equal(t, map[string]string{"small": "small", "name": "api"}, blocks[1][0].opts)
	require.Equal(t, []string{"s", "c"}, blocks[1][0].args)
	require.Equal(t, "c06_x.txt:8", blocks[1][1].blocks[0][0].at)
}

func TestNumbersAndDurationsComeFromTheirRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	seen := make(map[int]bool)
	for range 200 {
		n, err := number(rng, "3..6")
		require.NoError(t, err)
		seen[n] = true
		d, err := duration(rng, "0.5T..1s", time.Second)
		require.NoError(t, err)
		require.True(t, 500*time.Millisecond <= d && d <= time.Second, "%v", d)
	}
	require.Equal(t, map[int]bool{3: true, 4: true, 5: true, 6: true}, seen)
	d, err := duration(rng, "0.8T", 30*time.Second)
	require.NoError(t, err)
	require.Equal(t, 24*time.Second, d)
	for _, bad := range []string{"", "x", "6..3", "1.."} {
		_, err := number(rng, bad)
		require.Error(t, err, bad)
	}
	_, err = duration(rng, "2T..1T", time.Second)
	require.Error(t, err)
}

// The checks can fail: each script says something that is not so.
func TestAScriptFailsWhenItIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a case that finds nothing": {
			"case C06 close_wait.eof_seen\nserver s c\nsay c s 5\nexpect close_wait.eof_seen\n",
			"x.txt:4: expect: 0 of 1 close_wait.eof_seen after",
		},
		"a case that finds another kind": {
			"case C06 close_wait.eof_seen\nserver s c\nsay c s 5\nclose c\nexpect close_wait.eof_seen\n",
			"x.txt:5: expect: after 3", // and the finding
		},
		"a finding that comes too early": {
			"case C06 close_wait.eof_seen\nserver s c\nsay c s 5\nclose c\neof s\nwait 1.2T\nexpect close_wait.eof_seen\n",
			"x.txt:6: wait: after 3",
		},
		"a finding that comes too late": {
			"case C04 close_wait.idle_in_pool\nserver s c\nsay c s 5\nclose c\nexpect close_wait.not_reading\n",
			"x.txt:5: expect: 0 of 1 close_wait.not_reading after 27s", // by the T of the head
		},
		"a finding with another name": {
			"case C06 close_wait.eof_seen\nserver s c name=api\nclose c\neof s\nexpect close_wait.eof_seen name=web\n",
			`name="api" in place of "web"`,
		},
		"a finding too many": {
			"case C06 close_wait.eof_seen\nserver s c\nserver t d\nclose c\neof s\nclose d\nwait 0.5T\nexpect close_wait.eof_seen\n",
			"unexpected close_wait.never_read",
		},
		"another count": {
			"case C06 close_wait.eof_seen\nserver s c\nclose c\neof s\nexpect close_wait.eof_seen count=2\n",
			"1 of 2 close_wait.eof_seen",
		},
		"a finding that goes away": {
			"case C06 close_wait.eof_seen\nserver s c\nclose c\neof s\nexpect close_wait.eof_seen\nclose s\n",
			"at its end 0 of 1 close_wait.eof_seen are open",
		},
		"a finding that stays": {
			"case C06 close_wait.eof_seen\nserver s c\nclose c\neof s\nexpect close_wait.eof_seen\nexpect none\n",
			"x.txt:6: expect: still there after",
		},
		"inventory that is a warning": {
			"case C06 close_wait.eof_seen\nserver s c\nclose c\neof s\nexpect inventory close_wait.eof_seen\n",
			`severity="warning" in place of "inventory"`,
		},
		"a twin that is reported": {
			"twin C06 close_wait.eof_seen\nserver s c\nclose c\neof s\nsilent 3T\n",
			"x.txt:5: silent: after 3",
		},
		"a twin that is too short": {
			"twin C06 close_wait.eof_seen\nserver s c\nsilent 2T\n",
			"the twin runs for",
		},
		"an unknown connection": {
			"twin C06 close_wait.eof_seen\nrepeat 1\n  close nobody\nend\nsilent 3T\n",
			`x.txt:3: close: there is no connection "nobody"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := parseScript("x.txt", c.text)
			require.NoError(t, err)
			_, err = runScript(t, s, 1)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestASeedDecidesWhatAScriptDoes(t *testing.T) {
	s, err := parseScript("x.txt", "twin C06 close_wait.eof_seen\nsilent 3T\n")
	require.NoError(t, err)
	draw := func(seed uint64) string {
		r := newRun(t, s, seed)
		return fmt.Sprint(r.rng.Uint64(), r.rng.Uint64())
	}
	require.Equal(t, draw(1), draw(1))
	require.NotEqual(t, draw(1), draw(2))
}

func TestAReportSaysWhatOneEndCannotKnow(t *testing.T) {
	f := tcpstate.Finding{Kind: "dial.tuple_stuck", Severity: tcpstate.Warning, Title: "stuck", Summary: "what it is cannot be known from this end"}
	require.NoError(t, admits(&f))
	f.Kind = "dial.no_answer"
	require.ErrorContains(t, admits(&f), "is in the report: true")
	f.Summary = "no answer"
	require.NoError(t, admits(&f))
	f.Kind = "dial.tuple_stuck"
	require.ErrorContains(t, admits(&f), "is in the report: false")
}

func TestAMixtureFindsBothKindsAndNoOther(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"one is missing":   {"mix close_wait.eof_seen peer.unresponsive\nserver s c\nclose c\neof s\nexpect close_wait.eof_seen\n", "nobody expected peer.unresponsive"},
		"a third":          {"mix close_wait.eof_seen close_wait.error_path\nserver s c\nserver d e\nserver f g\nsay c s 1..9\nsay e d 1..9\ntimeout d\nclose c\nclose e\nclose g\neof s\neof f\nallow close_wait.error_path\nallow close_wait.idle_in_pool\nclient k l pooled\nclose l\nexpect close_wait.eof_seen count=2\nexpect close_wait.error_path\n", "a mixture of two kinds, and close_wait.idle_in_pool"},
		"one only counted": {"mix close_wait.eof_seen peer.unresponsive\nserver s c\nserver d e\nclose c\neof s\nsend e 2000\nclose d\nwait 0.9T\nexpect close_wait.eof_seen\n", "unexpected reset.by_us_unread"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := parseScript("mix_x.txt", c.text)
			require.NoError(t, err)
			_, err = runScript(t, s, 1)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestEveryClassHasACaseAndATwin(t *testing.T) {
	scripts, err := loadScripts(scriptDir())
	require.NoError(t, err)
	cases, twins := make(map[string]bool), make(map[string]bool)
	kindCases, kindTwins := make(map[tcpstate.Kind]bool), make(map[tcpstate.Kind]bool)
	for _, s := range scripts {
		require.True(t, s.class == "article" || strings.HasPrefix(s.file, strings.ToLower(s.class)+"_"), s.file)
		require.Equal(t, s.twin, strings.Contains(s.file, "twin"), s.file)
		require.NotEmpty(t, s.title, "%s begins with a comment that says what it is", s.file)
		if s.twin {
			twins[s.class], kindTwins[s.kind] = true, true
			continue
		}
		if s.class == mixture {
			continue
		}
		cases[s.class], kindCases[s.kind] = true, true
	}
	for n := 1; n <= classes; n++ {
		class := fmt.Sprintf("C%02d", n)
		require.True(t, cases[class], "%s has no case", class)
		require.True(t, twins[class], "%s has no twin", class)
	}
	for _, e := range elsewhere {
		kindCases[e.kind] = true
	}
	for _, k := range tcpstate.Kinds() {
		require.Contains(t, promises, k.Kind)
		require.True(t, kindCases[k.Kind], "%s has no case", k.Kind)
	}
	for k := range promises {
		if k != "fds.pressure" && k != "path.local_address_gone" {
			require.True(t, kindCases[k], "%s has no case", k)
		}
	}
}

func TestTheLanguageIsDocumented(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "script", "README.md"))
	require.NoError(t, err)
	want := vocabulary()
	if *updateFlag {
		b = regexp.MustCompile("(?s)```verbs\n.*\n```").ReplaceAllLiteral(b, []byte("```verbs\n"+want+"```"))
		require.NoError(t, os.WriteFile(filepath.Join("testdata", "script", "README.md"), b, 0o644))
	}
	require.Contains(t, string(b), want, "go test ./internal/tcptest -run TestTheLanguageIsDocumented -update")
}

// vocabulary lists the verbs by subject.
func vocabulary() string {
	var b strings.Builder
	for _, group := range vocabularies() {
		fmt.Fprintf(&b, "%s\n", group.title)
		for _, name := range slices.Sorted(maps.Keys(group.verbs)) {
			v := group.verbs[name]
			fmt.Fprintf(&b, "  %s %s\n", name, v.usage)
			if v.opts != "" {
				fmt.Fprintf(&b, "      [%s]\n", v.opts)
			}
		}
	}
	return b.String()
}
