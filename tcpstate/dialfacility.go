package tcpstate

import (
	"cmp"
	"runtime"
)

// facilities says what dials in progress are known by. noDiag is why sockets
// cannot be counted, nil where they can.
func (c *dialingChore) facilities(t *Tracker, noDiag error) []Facility {
	hooks := Facility{Name: "dial watch", OK: true, Detail: "the kernel is asked about dials in progress"}
	switch err := t.seam.dialHooks; {
	case err != nil:
		hooks.OK, hooks.Detail = false, "dials are not watched: "+err.Error()+"; whether a SYN was sent again is not known"
	case runtime.GOOS != "linux":
		hooks.OK, hooks.Detail = false, "the kernel is not asked about dials on "+runtime.GOOS+": whether a SYN was sent again is not known"
	}
	if !hooks.OK {
		hooks.Kinds = []Kind{KindDialNoAnswer, KindDialTupleStuck}
	}
	trace := Facility{Name: "httptrace", OK: true, Detail: "names that are resolved and addresses that are tried are seen"}
	if err := t.seam.dialTrace; err != nil {
		trace.OK, trace.Detail = false, "names that are resolved and addresses that are tried are not seen: "+err.Error()
		trace.Kinds = []Kind{KindDialDNSSlow, KindDialFallbackStarved}
	}
	c.mu.Lock()
	c.ports.learn(t)
	err := cmp.Or(c.ports.err, noDiag)
	c.mu.Unlock()
	ports := Facility{Name: "ports", OK: true, Detail: "the local ports that are taken can be counted"}
	if err != nil {
		ports.OK, ports.Detail = false, "the local ports that are taken cannot be counted: "+err.Error()
		ports.Kinds = []Kind{KindDialPorts}
	}
	return []Facility{hooks, trace, ports}
}
