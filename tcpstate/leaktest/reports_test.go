package leaktest_test

// Whole reports, as same returns them.
const (
	leftOpen = `leaktest: 1 connection left open

tcpstate WARN  connection left open                                                   test.left_open
  cache (127.0.0.1:PORT) — opened AGE ago, not closed; ESTABLISHED.
    dial       tcpstate/leaktest_test.dial                                                    tcpstate/leaktest/main_test.go:LINE
    called by  tcpstate/leaktest_test.TestAConnLeftOpenIsReportedWithTheLineThatDialed.func1  tcpstate/leaktest/leaktest_test.go:LINE
    called by  tcpstate/leaktest_test.run                                                     tcpstate/leaktest/main_test.go:LINE
  queues recv 0 · send 0
  fix    close it where it was made, or in a cleanup: t.Cleanup(func() { conn.Close() })
  ids    conn N 127.0.0.1:PORT→127.0.0.1:PORT
`
	dialing = `leaktest: 1 dial in progress

tcpstate WARN  dial still in progress                                                   test.dialing
  cache (127.0.0.1:PORT) — begun AGE ago, has not returned; SYN-SENT to 127.0.0.1:PORT.
    dial       tcpstate/leaktest_test.TestADialInProgressIsReported.func2.1  tcpstate/leaktest/leaktest_test.go:LINE
  fix    cancel its context and wait until it has returned, before the test ends
`
)
