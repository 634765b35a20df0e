package leases

import (
	"io"
	"time"
)

// Judge lets tests look at made-up clocks.
type Judge struct{ known *moment }

// NewJudge knows nothing.
func NewJudge() *Judge { return &Judge{} }

// Look is one look: what is wrong, the later clock, and what the row is raised to.
func (j *Judge) Look(elapsed time.Duration, there, row, ours time.Time) (wrong string, later, raise time.Time) {
	j.known, raise = judge(j.known, &look{elapsed: elapsed, there: there, row: row, ours: ours})
	if j.known.wrong != nil {
		wrong = j.known.wrong.Detail
	}
	if later = j.known.highest; later.Before(j.known.there) {
		later = j.known.there
	}
	return wrong, later, raise
}

// LockOf lets tests hold what is counted.
func LockOf(kind string, of ...[]byte) int64 { return lockOf(kind, of...) }

// Unknown says whether a transaction that ended so may have been committed.
func Unknown(err error) bool { return unknown(err) }

// Commits reads what a server says.
func Commits(from io.Reader) io.Reader { return newCommits(from) }
