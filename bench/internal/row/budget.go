package row

// A Budget is the most that something may cost.
type Budget struct {
	Of    string // the quantity, as in Cell.Of
	Limit float64
	Unit  Unit
	More  bool // Limit is what may come on top of plain

	// Exact is for what does not depend on the machine or its load:
	// allocations, system calls, what is lost. Tests judge these, and the table
	// shows all.
	Exact bool

	// Round is for means of what comes in whole numbers: a mean of 6.02 is 6,
	// because the loop and the runtime allocate now and then.
	Round bool

	// Today, if not 0, is what tests accept while Limit is not met: the last
	// figure that was, so that it does not get worse meanwhile.
	Today float64
}

// A Check is a figure beside its budget.
type Check struct {
	Budget   Budget
	Measured float64

	// Error is the standard error of Measured, not the spread of single
	// measurements: with more of them it gets smaller. 0 for what is exact.
	Error float64
}

// Verdict is what a Check comes to.
type Verdict string

// The verdicts. Only OK passes.
const (
	OK    Verdict = "ok"
	Over  Verdict = "OVER"
	Noisy Verdict = "noisy" // the error is too large to tell: nothing is proven
)

// Verdict judges c. Two standard errors either way are where the truth is, 19
// times of 20. What is beyond the limit by more than that is Over. What is
// within is OK if so little would be seen at all: if two standard errors are no
// more than the limit itself.
func (c Check) Verdict() Verdict {
	limit, doubt := c.Budget.Limit, 0.0
	if !c.Budget.Exact {
		doubt = 2 * c.Error
	}
	within := c.within(limit)
	switch {
	case within && doubt <= limit, within && doubt == 0:
		return OK
	case within || c.Measured-doubt <= limit:
		return Noisy
	default:
		return Over
	}
}

// Worse reports whether a test has to fail: an exact figure is beyond what was
// committed to.
func (c Check) Worse() bool { return c.Budget.Exact && !c.within(max(c.Budget.Limit, c.Budget.Today)) }

func (c Check) within(limit float64) bool {
	if c.Budget.Round {
		return c.Measured < limit+0.5
	}
	return c.Measured <= limit // not for NaN
}
