package leases

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// failureLife is how long one write that failed counts. A broker that isn't ready
// gets no exchanges, whose writes would show that it is over.
const failureLife = 5 * time.Second

// writing is how the latest writes went.
type writing struct {
	mu     sync.Mutex
	failed error
	at     time.Duration // on the clock that nobody sets
}

// wrote takes down how a write went.
func (s *Store) wrote(err error) {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	s.writing.failed, s.writing.at = err, s.clock.elapsed()
}

// raised is wrote for the row of the clock, which needs no space and waits for
// nobody: when it goes well, that tells only that the database isn't read-only.
func (s *Store) raised(err error) {
	s.writing.mu.Lock()
	failed := s.writing.failed
	s.writing.mu.Unlock()
	var pg *pgconn.PgError
	if err != nil || (errors.As(failed, &pg) && pg.Code == readOnly) {
		s.wrote(err)
	}
}

// Health says in words for an operator why the database takes no writes, as the
// latest ones told; nil when they went well, or long ago.
func (s *Store) Health() error {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	if s.writing.failed == nil || s.clock.elapsed()-s.writing.at > failureLife {
		return nil
	}
	return errors.New(Outage(s.writing.failed))
}

// Outage says why the database failed, in words for an operator: without the addresses that
// errors of connecting hold.
func Outage(err error) string {
	var pg *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.Is(err, pgconn.ErrReadOnlyConnection):
		return "no host of database.url takes writes: all that answer are read-only, or standbys"
	case errors.As(err, &pg) && pg.Code == transactionUnknown:
		return pg.Message
	case errors.As(err, &pg):
		return whyRefused(pg.Code, errors.As(err, &connecting))
	case errors.Is(err, context.DeadlineExceeded):
		return "the database does not answer in time (hint: with synchronous replication a commit waits for a standby, however long that is away)"
	}
	return "the database does not answer"
}

func whyRefused(code string, connecting bool) string {
	switch code {
	case "25006":
		return "the database is read-only (hint: it is a standby, or default_transaction_read_only is on)"
	case "53100":
		return "the database's disk is full"
	case "53200":
		return "the database is out of memory"
	case "53300":
		return "the database has no connection left (hint: max_connections there, database.max_connections here)"
	case "57P01", "57P02", "57P03":
		return "the database is starting, stopping or recovering from a crash"
	case "57014":
		return "the database took longer than the statement timeout"
	}
	if connecting {
		return "the database lets nobody in, with SQLSTATE " + code
	}
	if transient(code) {
		return "the database refuses with SQLSTATE " + code
	}
	return "a statement failed with SQLSTATE " + code + ": the log says more"
}
