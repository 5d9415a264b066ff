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
}
