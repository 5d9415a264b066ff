package tcpstate

import (
	"fmt"
	"strings"
)

// KindPoolChurn is about pools that close connections they could keep.
const KindPoolChurn Kind = "pool.churn"

var poolKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindPoolChurn, Severity: Audit, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "pool keeps too few idle connections",
		Meaning: "The pool closes connections that could be used again, because as many as it keeps lie idle already, and most uses have to dial. Each close keeps a local port taken for a minute.",
		Causes: []string{
			"http.Transport.MaxIdleConnsPerHost is at its default of 2, and more requests than that run at once",
			"the idle limit of the pool was set for a lower load",
		},
		Fix:     "keep as many idle connections as are in use at once: raise MaxIdleConnsPerHost, or what the pool calls that limit",
		Default: "100 connections to one target within a minute, and more than half of the uses dial",
		Checks:  []string{"ss -tan state time-wait dst {rhost} | wc -l"},
	},
	say: (*story).poolChurn,
}}

func (s *story) poolChurn() {
	to := ""
	if s.sub.Target != "" {
		to = " to " + s.sub.Target
	}
	s.say("closed %s%s within a minute because enough of them lay idle; of %s uses, %s had to dial.",
		plural(s.noted(noteSurplus), "healthy connection"), to, s.noted(noteChurnUses), s.noted(noteChurnDials))
	s.sayLimit()
}

// sayLimit says which setting would help, where a pool has told.
func (s *story) sayLimit() {
	setting, kept, ok := strings.Cut(s.noted(noteKept), " ")
	if !ok {
		return
	}
	peak := s.noted(noteAtOnce)
	s.say("%s is %s, and up to %s were in use at once.", setting, kept, peak)
	s.f.Fix = fmt.Sprintf("set %s to %s", setting, peak)
}

// plural puts a number that is text already before what it counts.
func plural(n, noun string) string {
	if n == "1" {
		return n + " " + noun
	}
	return n + " " + noun + "s"
}
