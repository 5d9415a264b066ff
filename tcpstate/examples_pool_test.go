package tcpstate

import "time"

var poolExamples = []exampleRow{
	{"pool_per_call", example(KindLeakPoolPerCall, Client, func(f *Finding) {
		f.Subject = Subject{Type: SubjectSite, Name: "payments"}
		f.Sites[0].Role = "pool"
		f.Evidence = unknownEvidence()
		f.Evidence.note("pools made in the last minute", "10")
		f.Evidence.note("ever", "512")
	})},
	{"not_returned", example(KindLeakNotReturned, Client, stuckFor(45*time.Second), use("checkout", false))},
	{"not_returned_by_foreign_pool", example(KindLeakNotReturned, Client, stuckFor(45*time.Second), func(f *Finding) {
		f.Sites[0].Role = "last use"
		f.Evidence.DataIn, f.Evidence.DataOut = Duration(3*time.Minute), Duration(3*time.Minute)
		f.Evidence.note(noteLentOut, "16 of 16")
		f.Evidence.note("waits so far", "2,301")
	})},
	{"not_returned_held", example(KindLeakNotReturned, Client, stuckFor(45*time.Second), use("checkout", false), func(f *Finding) { f.Cause = causeHeld })},
	{"not_returned_held_by_foreign_pool", example(KindLeakNotReturned, Client, stuckFor(45*time.Second), func(f *Finding) {
		f.Cause, f.Sites[0].Role = causeHeld, "last use"
		f.Evidence.note(noteLentOut, "all 3")
		f.Evidence.note("waits so far", "0")
	})},
	{"idle_in_pool_limit", example(KindCloseWaitIdleInPool, Client, many(5, 0), func(f *Finding) { f.Evidence.idleLimit(time.Minute) })},
}
