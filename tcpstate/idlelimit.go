package tcpstate

import (
	"net/netip"
	"slices"
	"time"
)

// This file estimates after which idle time a server closes connections: what
// those had in common that it closed.

const (
	// severalDeaths is how many connections must have been closed alike.
	severalDeaths = 5
	// maxDeaths is how many of the last ones count.
	maxDeaths = 16
	// maxIdleLimits bounds the servers that are told apart.
	maxIdleLimits = 256
	// leastIdle is the least idle time that is one: less is a server that closes
	// after its answer.
	leastIdle = time.Second
	// farewell is how much a server may send before it closes: an error message
	// of a database, a close_notify of TLS.
	farewell = 1 << 10
)

// idleKey is one server, under one connection name.
type idleKey struct {
	name   string
	target string         // as dialed
	addr   netip.AddrPort // without a target
}

// idleDeaths are the last connections that one server has closed while they lay
// idle.
type idleDeaths struct {
	idle [maxDeaths]time.Duration // before the end
	at   [maxDeaths]int64         // when that came
	n    int
}

// idleTable is the deaths of idle connections by server. Owned by the loop.
type idleTable map[idleKey]*idleDeaths

func (e *entry) idleKey() idleKey {
	k := idleKey{name: e.series.name}
	e.mu.Lock()
	k.target = e.target
	e.mu.Unlock()
	if k.target == "" {
		k.addr = plainAddr(e.remote)
	}
	return k
}

// idleBefore returns for how long the connection had been idle when a FIN or RST
// was noticed that has just come: since the last byte, but for what the server says
// in farewell.
func (s *sample) idleBefore() time.Duration {
	if s.recvQueue > 0 && s.recvQueue <= farewell && s.dataRecv < leastIdle {
		return s.dataSent
	}
	return min(s.dataSent, s.dataRecv)
}

// note notes that the server has closed e, which had been idle for so long.
func (tab *idleTable) note(e *entry, idle time.Duration, now int64) {
	if idle < leastIdle {
		return
	}
	key := e.idleKey()
	d := (*tab)[key]
	if d == nil {
		if len(*tab) >= maxIdleLimits {
			tab.dropOldest()
		}
		if *tab == nil {
			*tab = make(idleTable)
		}
		d = new(idleDeaths)
		(*tab)[key] = d
	}
	d.add(idle, now)
}

// dropOldest makes room for a server.
func (tab *idleTable) dropOldest() {
	var oldest idleKey
	var last int64
	for key, d := range *tab {
		if at := d.last(); last == 0 || at < last {
			oldest, last = key, at
		}
	}
	delete(*tab, oldest)
}

// limit returns the estimate for the server of e, 0 for none.
func (tab *idleTable) limit(e *entry) time.Duration {
	if d := (*tab)[e.idleKey()]; d != nil {
		return d.limit()
	}
	return 0
}

func (d *idleDeaths) add(idle time.Duration, now int64) {
	d.idle[d.n%maxDeaths], d.at[d.n%maxDeaths] = idle, now
	d.n++
}

// last returns when the last death was.
func (d *idleDeaths) last() int64 { return d.at[(d.n-1)%maxDeaths] }

// limit returns the least idle time of those deaths that came after about the
// same one, if they are three quarters of all, and did not come all at once:
// connections that were idle together also die together when the server is
// restarted.
func (d *idleDeaths) limit() time.Duration {
	n := min(d.n, maxDeaths)
	if n < severalDeaths {
		return 0
	}
	median := slices.Sorted(slices.Values(d.idle[:n]))[n/2]
	spread := max(median/10, leastIdle/2)
	alike, least := 0, median
	var first, last int64
	for i, idle := range d.idle[:n] {
		if (idle - median).Abs() > spread {
			continue
		}
		if alike++; alike == 1 {
			first, last = d.at[i], d.at[i]
		}
		least, first, last = min(least, idle), min(first, d.at[i]), max(last, d.at[i])
	}
	if alike < severalDeaths || alike*4 < n*3 || last-first < int64(time.Second) {
		return 0
	}
	return least
}

// below returns an idle limit for a pool whose server has this one: early enough
// for a request that is on its way.
func below(limit time.Duration) time.Duration {
	d := limit * 5 / 6
	switch {
	case d >= 5*time.Minute:
		return d.Truncate(30 * time.Second)
	case d >= 30*time.Second:
		return d.Truncate(5 * time.Second)
	case d >= 5*time.Second:
		return d.Truncate(time.Second)
	}
	return d.Truncate(100 * time.Millisecond)
}
