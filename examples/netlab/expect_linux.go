package netlab

import (
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Hold is how long the condition of a healthy twin lasts: longer than every
// scaled threshold and a sweep. The kernel's time is real, so that there is
// nothing else to wait for.
const Hold = 40 * time.Second / Scale

// AnyCause is what Expect is given where the cause does not matter.
const AnyCause = "*"

// Expect waits until the agent reports kind, and fails the test unless that,
// with cause, is all it reports with a severity of warning or above. It returns
// what was told. It skips the rest of the test while this version has no such
// kind.
func (a *Agent) Expect(kind tcpstate.Kind, cause string) Told {
	a.t.Helper()
	if !slices.ContainsFunc(tcpstate.Kinds(), func(k tcpstate.KindInfo) bool { return k.Kind == kind }) {
		a.t.Skip("not built yet: " + kind)
	}
	var found []Told
	for end := time.Now().Add(Deadline); len(found) == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			a.t.Fatalf("netlab: waited %v for a finding of kind %s; there is: %v", Deadline, kind, a.serious())
		}
		found = slices.DeleteFunc(a.serious(), func(f Told) bool { return f.Kind != kind })
	}
	time.Sleep(Hold / 2) // anything else would come soon
	for _, f := range a.serious() {
		if f.Kind != kind || cause != AnyCause && f.Cause != cause {
			a.t.Errorf("netlab: want only %s/%s, also reported: %v", kind, cause, f)
		}
	}
	return found[0]
}

// ExpectSilence waits for Hold and fails the test if the agent reports anything
// with a severity of warning or above.
func (a *Agent) ExpectSilence() {
	a.t.Helper()
	time.Sleep(Hold)
	a.silent()
}

func (a *Agent) silent() {
	a.t.Helper()
	for _, f := range a.serious() {
		a.t.Errorf("netlab: reported without a fault: %v", f)
	}
}

// serious returns all findings so far of severity warning or above.
func (a *Agent) serious() []Told {
	a.t.Helper()
	f := a.Findings()
	return slices.DeleteFunc(append(f.Told, f.Open...), func(f Told) bool {
		return f.Severity != tcpstate.Warning.String() && f.Severity != tcpstate.Error.String()
	})
}
