package tcpstate

import "time"

// dialing makes an example of a kind about dials.
func dialing(f *Finding) {
	f.Evidence = unknownEvidence()
	f.State = Unknown
	f.Subject.Type, f.Subject.ID, f.Subject.Conn = f.Kind.Info().Subject, 0, nil
	if f.Subject.Type == SubjectTarget {
		f.Subject.Local, f.Subject.Remote, f.Subject.Opened = "", "", time.Time{}
		return
	}
	f.Since, f.Subject.Opened = noon.Add(-4*time.Second), noon.Add(-4*time.Second)
}

func notes(pairs ...string) func(*Finding) {
	return func(f *Finding) {
		for i := 0; i < len(pairs); i += 2 {
			f.Evidence.note(pairs[i], pairs[i+1])
		}
	}
}

func synSent(times string, n uint32) func(*Finding) {
	return func(f *Finding) {
		f.State, f.Evidence.Retransmits = SynSent, n
		f.Evidence.note(noteFrom, f.Subject.Local)
		f.Evidence.note(noteResent, times)
	}
}

var dialExamples = []exampleRow{
	{"dial_no_answer", example(KindDialNoAnswer, Client, dialing, synSent("3 times", 3), notes(noteAge, "4s", noteDeadline, "in 26s"))},
	{"dial_no_answer_no_deadline", example(KindDialNoAnswer, Client, dialing, synSent("3 times", 3), notes(noteAge, "4s", noteDeadline, "none"), many(12, 3))},
	{"dial_no_answer_blind", example(KindDialNoAnswer, Client, dialing, func(f *Finding) { f.Subject.Local = "" },
		notes(noteResent, "an unknown number of times", noteAge, "4s", noteDeadline, "over"))},
	{"dial_tuple_stuck", example(KindDialTupleStuck, Client, dialing, synSent("3 times", 3), notes(noteAge, "4s", noteDeadline, "in 26s"))},
	{"dial_fallback_starved", example(KindDialFallbackStarved, Client, dialing,
		notes(noteTried, "1 IPv6", noteUntried, "2 IPv4", noteBudget, "200ms", "last", "[2001:db8::7]:443"))},
	{"dial_dns_slow", example(KindDialDNSSlow, Client, dialing, func(f *Finding) { f.Cause = "slow" }, notes(noteLookup, "5s"))},
	{"dial_dns_silent", example(KindDialDNSSlow, Client, dialing, func(f *Finding) { f.Cause = "silent" }, notes(noteLookup, "2.4s"))},
	{"dial_dns_failed", example(KindDialDNSSlow, Client, dialing, func(f *Finding) { f.Cause = "failed" }, notes(noteLookup, "10s"))},
	{"dial_dns_gave_up", example(KindDialDNSSlow, Client, dialing, func(f *Finding) { f.Cause = "gave_up" }, notes(noteLookup, "3s"))},
	{"dial_storm", example(KindDialStorm, Client, dialing,
		notes(noteDials, "640 times in 10s", noteGivenUp, "598 (93 %)", noteAfter, "100ms on average", noteInProgress, "60"))},
	{"dial_ports", example(KindDialPorts, Client, dialing, func(f *Finding) { f.Subject.Local, f.Subject.Remote = "10.0.9.4", "10.0.3.7:443" },
		notes(notePorts, "23,100 of 28,232", noteTimeWait, "22,950", noteFrom, "10.0.9.4", noteClosedFirst, "24,012 connections", notePerConn, "1.0"))},
	{"dial_ports_churn", example(KindDialPorts, Client, dialing, func(f *Finding) { f.Subject.Local, f.Subject.Remote = "10.0.9.4", "10.0.3.7:443" },
		notes(notePorts, "23,100 of 28,232", noteTimeWait, "22,950", noteFrom, "10.0.9.4", noteClosedFirst, "24,012 connections", notePerConn, "1.0",
			noteSurplus, "23,950", noteKept, "MaxIdleConnsPerHost 2", noteAtOnce, "40"))},
	{"dial_ports_none_left", example(KindDialPorts, Client, dialing, func(f *Finding) {
		f.Severity, f.Cause, f.Subject.Local, f.Subject.Remote = Error, "none_left", "10.0.9.4", "10.0.3.7:443"
	}, notes(notePorts, "28,232 of 28,232", noteTimeWait, "28,120", noteFrom, "10.0.9.4", noteClosedFirst, "28,300 connections"))},
	{"dial_ports_not_counted", example(KindDialPorts, Client, dialing, func(f *Finding) { f.Severity, f.Cause = Error, "none_left" },
		notes(notePorts, "at most 28,232 of 28,232", noteClosedFirst, "28,300 connections"))},
	{"handshake_stalled", example(KindHandshakeStalled, Client, established, notes(noteProtocol, "TLS"), func(f *Finding) {
		f.Since = noon.Add(-11 * time.Second)
		f.Evidence.BytesIn, f.Evidence.DataIn, f.Evidence.BytesOut, f.Evidence.DataOut = 0, unknownAge, 1501, Duration(11*time.Second)
	})},
	{"handshake_stalled_path", example(KindHandshakeStalled, Client, established, notes(noteProtocol, "TLS"), func(f *Finding) {
		f.Since = noon.Add(-11 * time.Second)
		f.Evidence.BytesIn, f.Evidence.DataIn, f.Evidence.BytesOut, f.Evidence.Unacked = 0, unknownAge, 1501, 2
	})},
	{"handshake_stalled_half", example(KindHandshakeStalled, Server, established, notes(noteProtocol, "ssh"), func(f *Finding) {
		f.Since, f.Evidence.BytesIn, f.Evidence.DataIn = noon.Add(-11*time.Second), 21, Duration(11*time.Second)
	})},
	{"unused_dial", example(KindLeakUnusedDial, Client, established, func(f *Finding) {
		f.Subject.Opened = noon.Add(-31 * time.Second)
		f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.DataIn, f.Evidence.DataOut = false, unknownAge, unknownAge, unknownAge
		f.Evidence.BytesIn, f.Evidence.BytesOut, f.Evidence.ACK = 0, 0, Duration(15*time.Second)
	})},
	{"unused_dial_greeting", example(KindLeakUnusedDial, Client, established, unreadBytes(74), func(f *Finding) {
		f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.DataOut, f.Evidence.BytesOut = false, unknownAge, unknownAge, 0
	})},
}

func established(f *Finding) { f.State, f.Evidence.PeerFIN = Established, unknownAge }
