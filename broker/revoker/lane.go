package revoker

import (
	"math/rand/v2" //nolint:depguard // jitter: nothing secret comes of it
	"sync"
	"time"
)

const (
	firstBackoff = 500 * time.Millisecond
	// longestBackoff is how long what failed waits for another try.
	longestBackoff = 5 * time.Minute
	// longestProbe is how long a target that came back may wait for us. It can be
	// short: however much waits for the target, one try at a time finds out.
	longestProbe = 20 * time.Second
	// breakAfter is how many times in a row a target may not answer before it is
	// tried with one lease at a time.
	breakAfter = 5
)

// lane is one target, however many issuers have it: how much is asked of it at
// once, and whether it answers at all.
type lane struct {
	slots   chan struct{} // one for each try at the same time
	issuers []string

	mu       sync.Mutex
	failures int // in a row, of a target that didn't answer
	next     time.Time
	probing  bool
}

// take does something when it is its turn to ask the target.
func (l *lane) take(do func()) {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	do()
}

// open says that the target doesn't answer.
func (l *lane) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures >= breakAfter
}

// probe says whether it is time for one try of a target that doesn't answer, and
// if not, when. Who gets true tells what came of it: [lane.answered],
// [lane.silent] or [lane.unprobed].
func (l *lane) probe(now time.Time) (bool, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.probing || now.Before(l.next) {
		return false, l.next
	}
	l.probing = true
	return true, l.next
}

// unprobed: there was nothing to try it with.
func (l *lane) unprobed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
}

// answered says whether the target is back.
func (l *lane) answered() (back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	back = l.failures >= breakAfter
	l.failures, l.probing = 0, false
	return back
}

// silent notes that the target didn't answer, and returns when it is tried again.
func (l *lane) silent(now time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
	if now.Before(l.next) {
		return l.next // of the same silence: tries that began together count once
	}
	pause := backoff(max(0, l.failures-breakAfter+1), longestProbe)
	l.failures++
	if l.failures >= breakAfter {
		l.next = now.Add(pause)
	}
	return now.Add(pause)
}

// Backoff is how long to wait after a number of failures: doubling, bounded by
// five minutes, and between half and the whole of it at random, so that a fleet
// doesn't come back all at once.
func Backoff(failures int) time.Duration { return backoff(failures, longestBackoff) }

func backoff(failures int, longest time.Duration) time.Duration {
	whole := min(longest, firstBackoff<<min(failures, 12))
	return whole/2 + rand.N(whole/2) //nolint:gosec // jitter, no secret
}
