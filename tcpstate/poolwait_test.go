package tcpstate_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

type waiter struct{}

func TestAWaitIsToldWhenItHasEnded(t *testing.T) {
	r := newRig(t)
	var told []tcpstate.WaitInfo
	stop := r.tr.Observe(&tcpstate.Observer{
		Token:    func(ctx context.Context) any { return ctx.Value(waiter{}) },
		WaitDone: func(w tcpstate.WaitInfo) { told = append(told, w) },
	})
	p := r.tr.NewPool(tcpstate.Origin{Name: "db"})
	c, _ := r.dialed(tcpstate.Expect{})
	ctx := context.WithValue(t.Context(), waiter{}, "request 7")
	start := r.clk.Now()
	one, other := p.Waiting(ctx), p.Waiting(t.Context())
	r.clk.Advance(1e9)
	one(c.Watch(), nil)
	one(nil, errors.New("told before"))
	no := errors.New("no room")
	other(nil, no)
	stop()
	require.Equal(t, []tcpstate.WaitInfo{
		{Pool: "db", Start: start, End: start.Add(1e9), ID: c.Watch().ID(), Token: "request 7"},
		{Pool: "db", Start: start, End: start.Add(1e9), Err: no},
	}, told)

	(*tcpstate.Pool)(nil).Waiting(t.Context())(nil, nil)
	p.Waiting(t.Context())(nil, nil) // nobody listens
}
