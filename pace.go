// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"math"
	"sync"
	"time"
)

// A pace tells how fast something grows, by what those who ask have seen. The
// zero value has seen nothing.
type pace struct {
	mu           sync.Mutex // guards all below
	from, recent sight
}

type sight struct {
	at   time.Time
	seen int64
}

// paceTime is how long a sight is taken as recent: what grew before it, and
// the one before that, does not count.
const paceTime = 5 * time.Second

// rest returns in how many seconds seen will have grown to all, or nil if that
// cannot be told. It has grown from 0 since started.
func (p *pace) rest(now, started time.Time, seen, all int64) *int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.from.at.IsZero() || seen < p.from.seen || seen < p.recent.seen {
		p.from = sight{started, 0}
		p.recent = sight{now, seen}
	}
	from := p.from
	if now.Sub(p.recent.at) >= paceTime {
		p.from, p.recent = p.recent, sight{now, seen}
		from = p.from
	}
	rate := float64(seen-from.seen) / now.Sub(from.at).Seconds()
	rest := math.Ceil(float64(all-seen) / rate)
	// Neither a division by zero nor a lifetime is an estimate.
	if !(rest >= 0 && rest < 1e9) {
		return nil
	}
	seconds := int64(rest)
	return &seconds
}
