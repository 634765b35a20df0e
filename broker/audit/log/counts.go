package log

import (
	"crypto/sha256"
	"slices"
	"time"
)

// subject is a short hash of an event's subject: millions of them are kept.
type subject [16]byte

func subjectOf(text string) subject {
	sum := sha256.Sum256([]byte(text))
	return subject(sum[:16])
}

// counts are the places among a subject's events that were seen: all from first
// up to last, and those that came ahead of their turn.
type counts struct {
	first, last int
	ahead       []int
	lastAt, at  int64     // numbers of the event with count last, and of the one that was seen last
	when        time.Time // of that one
}

const (
	// maxAhead bounds how many events of a subject may stand before one that was
	// counted earlier: the log's order is nearly that of the events.
	maxAhead = 4096
	// disorder bounds how far apart such events stand in the log: two batches of numbers.
	disorder = 20_000
	// late bounds how long an event may wait for its number behind younger ones.
	late = 2 * time.Minute
)

// count takes an event's place among those of its subject. Events stand in the log in the
// order in which they were found, which is not always that of their counts.
func (v *verification) count(n int64, id string, b *body) error {
	key := subjectOf(b.Subject)
	c := v.subjects[key]
	if c == nil {
		c = &counts{first: 1, lastAt: n}
		v.subjects[key] = c
		if v.lenient() {
			c.first, c.last = b.Count, b.Count-1
		}
	}
	c.at, c.when = n, b.At
	if b.At.After(v.newest) {
		v.newest = b.At
	}
	if b.Count == c.last+1 {
		c.last, c.lastAt = b.Count, n
		c.catchUp()
		return nil
	}
	if b.Count < c.first && v.lenient() && c.last-c.first < maxAhead { // the first that the export has came later
		for m := c.first; m <= c.last; m++ {
			c.ahead = append(c.ahead, m)
		}
		slices.Sort(c.ahead)
		c.first, c.last = b.Count, b.Count
		c.catchUp()
		return nil
	}
	place, twice := slices.BinarySearch(c.ahead, b.Count)
	if twice || b.Count <= c.last {
		return finding(n, "event %q is the second with count %d of %q", id, b.Count, b.Subject)
	}
	if len(c.ahead) == maxAhead {
		return finding(n, "event %q: %q has no event with count %d", id, b.Subject, c.last+1)
	}
	c.ahead = slices.Insert(c.ahead, place, b.Count)
	return nil
}

func (c *counts) catchUp() {
	for len(c.ahead) > 0 && c.ahead[0] == c.last+1 {
		c.last++
		c.ahead = c.ahead[1:]
	}
}

// lenient says that a subject's first events may be without a body, or before the export.
func (v *verification) lenient() bool { return v.report.From > 0 || v.report.Dropped > 0 }

// gaps finds a subject with an event missing between others. Where the export doesn't have
// the first bodies of the log, one of them may be what is missing: as far as the
// log's order lets it.
func (v *verification) gaps() error {
	var worst *counts
	for _, c := range v.subjects {
		if len(c.ahead) == 0 || v.lenient() && c.lastAt < max(v.report.From, v.report.DroppedTo)+disorder {
			continue
		}
		if !c.when.IsZero() && c.when.After(v.newest.Add(-late)) {
			v.report.Open++ // what is missing may have its number behind the export's end
			continue
		}
		if worst == nil || c.at < worst.at {
			worst = c
		}
	}
	if worst == nil {
		return nil
	}
	return finding(worst.at, "its subject has an event with count %d and none with count %d", worst.ahead[0], worst.last+1)
}
