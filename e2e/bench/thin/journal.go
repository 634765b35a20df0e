package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// lease is the one row that an exchange leaves.
type lease struct {
	id, grant, subject  string
	digest              [32]byte // of the job token
	issuedAt, expiresAt time.Time

	kept chan error
}

// journal writes leases by group commit: those that wait while all writers are
// busy share the next transaction.
type journal struct {
	pool    *pgxpool.Pool
	queue   chan *lease
	running sync.WaitGroup
	stop    context.CancelFunc
}

const (
	writers  = 4
	maxBatch = 128
)

const schema = `CREATE TABLE IF NOT EXISTS leases (
    id text PRIMARY KEY, grant_name text NOT NULL, subject text NOT NULL, digest bytea NOT NULL, issued_at timestamptz NOT NULL, expires_at timestamptz NOT NULL)`

func openJournal(ctx context.Context, urlFile string) (*journal, error) {
	url, err := os.ReadFile(urlFile) //nolint:gosec // G304: the bench names the file
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(strings.TrimSpace(string(url)))
	if err != nil {
		return nil, fmt.Errorf("reading the URL in %s: the form is postgres://user:password@host/name", urlFile)
	}
	config.MaxConns = writers
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, schema); err != nil {
		pool.Close()
		return nil, fmt.Errorf("making the table: %w", err)
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	j := &journal{pool: pool, queue: make(chan *lease, maxBatch), stop: stop}
	for range writers {
		j.running.Go(func() { j.write(working) })
	}
	return j, nil
}

// close ends the writers. Nobody may be waiting.
func (j *journal) close() {
	j.stop()
	j.running.Wait()
	j.pool.Close()
}

// keep returns when the lease is on disk.
func (j *journal) keep(ctx context.Context, l *lease) error {
	l.kept = make(chan error, 1)
	select {
	case j.queue <- l:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-l.kept:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *journal) write(ctx context.Context) {
	for {
		batch := make([]*lease, 0, maxBatch)
		select {
		case <-ctx.Done():
			return
		case l := <-j.queue:
			batch = append(batch, l)
		}
	drain:
		for len(batch) < maxBatch {
			select {
			case l := <-j.queue:
				batch = append(batch, l)
			default:
				break drain
			}
		}
		err := j.insert(ctx, batch)
		for _, l := range batch {
			l.kept <- err
		}
	}
}

const insertLeases = `
INSERT INTO leases (id, grant_name, subject, digest, issued_at, expires_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[], $6::timestamptz[])`

func (j *journal) insert(ctx context.Context, batch []*lease) error {
	n := len(batch)
	ids, grants, subjects := make([]string, n), make([]string, n), make([]string, n)
	digests, issued, expires := make([][]byte, n), make([]time.Time, n), make([]time.Time, n)
	for i, l := range batch {
		ids[i], grants[i], subjects[i] = l.id, l.grant, l.subject
		digests[i], issued[i], expires[i] = l.digest[:], l.issuedAt, l.expiresAt
	}
	_, err := j.pool.Exec(ctx, insertLeases, ids, grants, subjects, digests, issued, expires)
	return err
}
