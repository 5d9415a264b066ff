package tcptest_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Verbs that let time pass, in blocks or not, and that say what is found.

func expectVerbs() map[string]*verb {
	return map[string]*verb{
		"wait":   {"D: lets time pass in which nothing else is found", 1, 1, "", "", (*run).wait},
		"silent": {"D: the same, at the end of a twin", 1, 1, "", "", (*run).wait},
		"expect": {"[inventory|count|audit] KIND, or none: time passes until exactly that is found; site: the role of the first one; subject: conn or other; was: the finding that becomes it; within: how long that may take, in place of what is left of T and a sweep since the last action, where the kernel moves once more; after: in place of T, from the beginning of what the finding is about; brief: it may end by itself", 1, 2,
			"cause= severity= name= role= phase= state= site= subject= count= was= within= after= brief", "", (*run).expect},
		"allow":      {"[count|audit|inventory] KIND: may be found, too, with that severity", 1, 2, "", "", (*run).allow},
		"expectdial": {"retrans>=N: the last dial that ended needed so many SYNs", 1, 1, "", "", (*run).expectDial},
		"repeat":     {"N: the lines up to end, N times", 1, 1, "", "end", (*run).repeat},
		"shuffle":    {"the lines up to end, in any order", 0, 0, "", "end", (*run).shuffle},
		"either":     {"one of the blocks that are separated by or", 0, 0, "", "or", (*run).either},
	}
}

func (r *run) wait(st *statement) error {
	d, err := r.duration(st.args[0])
	if err != nil {
		return err
	}
	if st.name == "silent" {
		d += r.unit / 50 // T is a little more than the threshold
	} else {
		d += time.Duration(r.rng.Int64N(int64(d)/20+1) - int64(d)/40)
	}
	r.waited += d
	return r.pass(d)
}

func (r *run) repeat(st *statement) error {
	n, err := r.number(st.args[0])
	if err != nil {
		return err
	}
	for range n {
		if err := r.do(st.blocks[0]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) shuffle(st *statement) error {
	body := slices.Clone(st.blocks[0])
	r.rng.Shuffle(len(body), func(i, j int) { body[i], body[j] = body[j], body[i] })
	return r.do(body)
}

func (r *run) either(st *statement) error { return r.do(st.blocks[r.rng.IntN(len(st.blocks))]) }

func (r *run) allow(st *statement) error {
	r.allowed = append(r.allowed, tcpstate.Kind(strings.Join(st.args, " ")))
	return nil
}

// sampled is how long it may take until every connection was looked at once
// more, and the suspects, too.
const sampled = 15 * time.Second

func (r *run) expect(st *statement) error {
	kind := tcpstate.Kind(st.args[len(st.args)-1])
	if len(st.args) == 2 {
		st.opts["severity"] = st.args[0]
	}
	if kind == noFinding {
		return r.expectNone()
	}
	want := 1
	var err error
	if text := st.opts["count"]; text != "" {
		if want, err = r.number(text); err != nil {
			return err
		}
	}
	// What has waited since the last action is part of it.
	limit := r.unit*6/5 + sampled - r.clk.Now().Sub(r.acted)
	if text := cmp.Or(st.opts["within"], st.opts["after"]); text != "" {
		if limit, err = r.duration(text); err != nil {
			return err
		}
	}
	r.allowed = append(r.allowed, kind)
	was := tcpstate.Kind(st.opts["was"])
	if was != "" {
		r.expected = slices.DeleteFunc(r.expected, func(x expectation) bool { return x.kind == was })
	}
	if st.opts["severity"] == "count" {
		return r.expectCount(kind, want, limit)
	}
	r.clk.Settle()
	for end := r.clk.Now().Add(limit); ; {
		if err := r.check(); err != nil {
			return err
		}
		found := ofKind(r.findings(), kind, st.opts["severity"])
		if len(found) == want {
			for i := range found {
				if err := matches(&found[i], st.opts); err != nil {
					return err
				}
				if err := r.punctual(&found[i], st.opts); err != nil {
					return err
				}
			}
			if st.opts["brief"] == "" {
				r.expected = append(r.expected, expectation{kind, st.opts["severity"], want})
			}
			if was != "" {
				// Until here both could be seen.
				r.allowed = slices.DeleteFunc(r.allowed, func(k tcpstate.Kind) bool { return k == was })
			}
			return nil
		}
		if r.clk.Now().After(end) {
			return fmt.Errorf("%d of %d %s after %v", len(found), want, kind, limit.Round(time.Millisecond))
		}
		r.clk.Advance(time.Second)
	}
}

// expectCount is for kinds that are counted, not reported: somewhere they must
// show.
func (r *run) expectCount(kind tcpstate.Kind, want int, limit time.Duration) error {
	for end := r.clk.Now().Add(limit); ; {
		if err := r.check(); err != nil {
			return err
		}
		got := countKind(r.findings(), kind)
		for _, c := range r.tr.FindingCounts() {
			if c.Kind == kind {
				got = max(got, c.Open)
			}
		}
		r.mu.Lock()
		got = max(got, countKind(r.opened, kind))
		r.mu.Unlock()
		if got >= want {
			r.seen = append(r.seen, kind)
			return nil
		}
		if r.clk.Now().After(end) {
			return fmt.Errorf("%d of %d %s are counted", got, want, kind)
		}
		r.clk.Advance(time.Second)
	}
}

// expectNone asks that what was found has ended.
func (r *run) expectNone() error {
	limit := 2 * sampled
	for end := r.clk.Now().Add(limit); ; {
		if err := r.check(); err != nil {
			return err
		}
		left := r.findings()
		if len(left) == 0 {
			r.allowed, r.expected = nil, nil
			return nil
		}
		if r.clk.Now().After(end) {
			return fmt.Errorf("still there after %v: %s", limit, describeFinding(&left[0]))
		}
		r.clk.Advance(time.Second)
	}
}

// matches compares a finding with the options of expect.
func matches(f *tcpstate.Finding, opts map[string]string) error {
	site, subject := "", "other"
	if f.Subject.ID != 0 {
		subject = "conn"
	}
	if len(f.Sites) > 0 {
		site = strings.ReplaceAll(f.Sites[0].Role, " ", "-")
	}
	for name, got := range map[string]string{
		"cause": f.Cause, "severity": f.Severity.String(), "name": f.Subject.Name, "role": f.Subject.Role.String(),
		"phase": strings.ReplaceAll(f.Phase.String(), " ", "-"), "state": strings.ToLower(f.State.String()), "site": site, "subject": subject,
	} {
		if want := opts[name]; want != "" && want != got {
			return fmt.Errorf("%s=%q in place of %q: %s\n%s", name, got, want, describeFinding(f), f.String())
		}
	}
	if f.Severity == 0 || f.Title == "" || f.Summary == "" {
		return errors.New("the finding does not say what it is")
	}
	if s := f.Kind.Severity(); opts["severity"] == "" && s != f.Severity {
		return fmt.Errorf("severity %s in place of %s, that of the kind", f.Severity, s)
	}
	return nil
}

func (r *run) expectDial(st *statement) error {
	var want int
	if _, err := fmt.Sscanf(st.args[0], "retrans>=%d", &want); err != nil {
		return err
	}
	var last tcpstate.DialInfo
	err := r.until("the dial to be told", func() (bool, error) {
		r.clk.Advance(time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.dialed) == 0 {
			return false, nil
		}
		last = r.dialed[len(r.dialed)-1]
		return true, nil
	})
	if err == nil && int(last.Retransmits) < want {
		err = fmt.Errorf("%d SYNs were sent again", last.Retransmits)
	}
	return err
}
