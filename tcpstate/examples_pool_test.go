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
	{"not_returned_body", example(KindLeakNotReturned, Client, stuckFor(45*time.Second), use("GET payments.internal:443", true))},
	{"pool_churn", example(KindPoolChurn, Client, func(f *Finding) {
		f.Subject = Subject{Type: SubjectSite, Name: "payments", Target: "payments.internal:443"}
		f.Sites[0].Role = "pool"
		f.Evidence = unknownEvidence()
		f.Evidence.note(noteSurplus, "1,180")
		f.Evidence.note(noteChurnUses, "1,240")
		f.Evidence.note(noteChurnDials, "1,190")
		(&churnRecord{setting: "MaxIdleConnsPerHost", kept: 2}).noteLimit(&f.Evidence, 40)
	})},
}
