// Package limit holds the limits of how often somebody may ask, in memory, for
// one broker: rates ([Rate]) and what failed tokens cost their senders ([Gate]).
//
// Memory is fixed, whatever comes: a key isn't remembered, but hashed to two of
// many buckets, of which the fuller one counts. So nothing is ever evicted, and
// nobody gets a bucket back by filling the table with other keys. Two keys that
// share both buckets share their limit: with the seeds of one process, which
// nobody knows, that happens to one pair in four billion.
package limit

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	rows  = 2
	slots = 1 << 16
)

// Rate lets each key through so many times a minute: a bucket of that size, full
// at first and refilled evenly. A nil Rate lets everything through. It is safe
// for concurrent use.
type Rate struct {
	interval time.Duration // in which one is refilled
	now      func() time.Time
	began    time.Time
	seeds    [rows]maphash.Seed

	mu sync.Mutex
	// When each bucket is full again, since began: a bucket's debt is its distance
	// from now.
	full [rows][slots]time.Duration
}

// NewRate is nil, which lets everything through, for no limit.
func NewRate(perMinute int, now func() time.Time) *Rate {
	if perMinute <= 0 {
		return nil
	}
	r := &Rate{interval: max(time.Minute/time.Duration(perMinute), 1), now: now, began: now()}
	for i := range r.seeds {
		r.seeds[i] = maphash.MakeSeed()
	}
	return r
}

// Take takes one of the key's. Where none is left it returns how long it takes
// until there is.
func (r *Rate) Take(key string) (wait time.Duration) { return r.take(key, r.spend) }

// Left is Take without taking.
func (r *Rate) Left(key string) (wait time.Duration) { return r.take(key, nil) }

func (r *Rate) take(key string, spend func(places [rows]int, now, debt time.Duration)) time.Duration {
	if r == nil {
		return 0
	}
	var places [rows]int
	for i, seed := range r.seeds {
		places[i] = int(maphash.String(seed, key) % slots)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now().Sub(r.began)
	debt := time.Minute
	for i, place := range places {
		// A clock that was set back finds an empty bucket, and no worse.
		r.full[i][place] = min(r.full[i][place], now+time.Minute)
		debt = min(debt, max(r.full[i][place]-now, 0))
	}
	if wait := debt + r.interval - time.Minute; wait > 0 {
		return wait
	}
	if spend != nil {
		spend(places, now, debt+r.interval)
	}
	return 0
}

// spend writes a key's debt to its buckets. One that others have filled further
// stays so.
func (r *Rate) spend(places [rows]int, now, debt time.Duration) {
	for i, place := range places {
		r.full[i][place] = max(r.full[i][place], now+debt)
	}
}
