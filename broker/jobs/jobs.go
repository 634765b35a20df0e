// Package jobs revokes many leases: all that a selector fits, however many they
// are, in the background.
//
// A job walks the live leases in small transactions, each of which begins to
// revoke some hundred of them and moves the job's place on, so that whoever takes
// the job over after a crash goes on from there. From that moment the leases are
// good for nothing; the revoker takes their credentials back when nothing is due
// by its own end, so that a hundred thousand of them delay nobody else. What is
// issued after a job was made isn't meant by it.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// Config of Jobs. Every field is required, unless it says otherwise.
type Config struct {
	Pool   *pgxpool.Pool
	Store  *leases.Store
	Audit  *audit.Recorder
	Tenant string
	Notify func(issuer string) // wakes the revoker of an issuer
	Logger *slog.Logger        // nil: discards
	Page   int                 // how many leases one step looks at; zero: 250
	// Settle is how long after a job was made its second walk begins, which finds
	// what an exchange was still writing down when the first passed; zero: 12 s.
	Settle time.Duration
}

// Jobs are the revocations of many leases. See [Jobs.Run].
type Jobs struct {
	config Config
	wake   chan struct{}
}

// State of a job.
type State string

// The states.
const (
	Running State = "running" // also while the credentials of all that it found are being taken back
	Paused  State = "paused"
	Done    State = "done"
)

// Job is one of them.
type Job struct {
	ID        string
	Selector  Selector
	Actor     string
	Reason    string
	State     State
	CreatedAt time.Time
	EndedAt   *time.Time
	Matched   int  // live leases that it fitted when it was made
	AtLeast   bool // there were more than were counted
	Begun     int  // no longer good for anything
	Ended     int  // of those: taken back
	Failed    int  // of those: tried in vain at least once
	Stuck     int  // of those: they wait for a person

	until  string
	place  []string
	walks  int
	events int
}

// Selector says which leases are meant; empty fields say nothing.
type Selector struct {
	Policy        string    `json:"policy,omitempty"`
	Grant         string    `json:"grant,omitempty"`
	Issuer        string    `json:"issuer,omitempty"`
	Session       string    `json:"session,omitempty"`
	Subject       string    `json:"subject,omitempty"`
	Provider      string    `json:"provider,omitempty"`
	State         string    `json:"state,omitempty"`
	Target        string    `json:"target,omitempty"`
	ExpiresBefore time.Time `json:"expires_before,omitzero"`
}

func (s Selector) filter() leases.Filter {
	return leases.Filter{
		Policy: s.Policy, Grant: s.Grant, Issuer: s.Issuer, Session: s.Session, Subject: s.Subject, Provider: s.Provider,
		State: leases.State(s.State), Target: s.Target, ExpiresBefore: s.ExpiresBefore,
	}
}

// What callers can do something about.
var (
	// ErrNotFound: there is no such job.
	ErrNotFound = errors.New("no such job")
	// ErrDone: a job that is done can't be paused or resumed.
	ErrDone = errors.New("the job is done")
	// ErrBusy: there are as many jobs as there may be at once.
	ErrBusy = errors.New("too many jobs at once")
)

const (
	defaultPage   = 250
	defaultSettle = 12 * time.Second
	mostCounted   = 10_000
	mostOpen      = 100
	claimTime     = 15 * time.Second
	callTime      = 10 * time.Second
	interval      = time.Second
)

// New checks the configuration.
func New(config Config) (*Jobs, error) {
	if config.Pool == nil || config.Store == nil || config.Audit == nil || config.Tenant == "" || config.Notify == nil {
		return nil, errors.New("making jobs: pool, store, audit, tenant and notify are all required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Page == 0 {
		config.Page = defaultPage
	}
	if config.Settle == 0 {
		config.Settle = defaultSettle
	}
	return &Jobs{config: config, wake: make(chan struct{}, 1)}, nil
}

// Count says how many live leases a selector fits, and whether there are more
// than were counted.
func (j *Jobs) Count(ctx context.Context, s Selector) (n int, atLeast bool, err error) {
	return j.count(ctx, s, j.until(j.config.Store.Now()))
}

// until is an id behind those of all leases that were reserved before a time, by
// a broker whose clock is as much ahead as it may be.
func (j *Jobs) until(now time.Time) string { return ids.From(ids.Lease, now.Add(leases.MaxSkew)) }

func (j *Jobs) count(ctx context.Context, s Selector, until string) (int, bool, error) {
	n, err := j.config.Store.CountLiveMatching(ctx, s.filter(), until, mostCounted+1)
	return min(n, mostCounted), n > mostCounted, err
}

// Create makes a job. It begins at once, on whichever broker is free.
func (j *Jobs) Create(ctx context.Context, s Selector, why leases.Why) (*Job, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("making a job took too long"))
	defer cancel()
	now := j.config.Store.Now()
	job := &Job{ID: ids.New(ids.Job, now), Selector: s, Actor: why.Actor, Reason: why.Reason, State: Running, CreatedAt: now, until: j.until(now), events: 1}
	var err error
	if job.Matched, job.AtLeast, err = j.count(ctx, s, job.until); err != nil {
		return nil, err
	}
	selector, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding selector: %w", err)
	}
	event, err := j.config.Audit.Event(audit.Entry{
		At: now, Type: audit.JobCreated, Subject: job.ID, Count: 1, Actor: why.Actor, Data: map[string]any{"reason": why.Reason, "selector": s, "matched": job.Matched},
	})
	if err != nil {
		return nil, err
	}
	err = j.inTx(ctx, func(tx pgx.Tx) error {
		const create = `
INSERT INTO revocation_jobs (id, tenant, selector, actor, reason, state, created_at, until_id, place, matched, at_least, claimed_until, events)
SELECT $1, $2, $3, $4, $5, 'running', $6, $7, '{}', $8, $9, $6, 1
WHERE (SELECT count(*) FROM revocation_jobs WHERE tenant = $2 AND state <> 'done') < $10`
		tag, err := tx.Exec(ctx, create, job.ID, j.config.Tenant, selector, why.Actor, why.Reason, now, job.until, job.Matched, job.AtLeast, mostOpen)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrBusy
		}
		return record(ctx, tx, event)
	})
	if err != nil {
		return nil, wrap("making a job", err)
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return job, nil
}

// Pause lets a job rest: nothing more is begun, and what was begun and waits is
// left to its own end.
func (j *Jobs) Pause(ctx context.Context, id, actor string) (*Job, error) {
	return j.turn(ctx, id, Paused, actor)
}

// Resume lets it go on.
func (j *Jobs) Resume(ctx context.Context, id, actor string) (*Job, error) {
	return j.turn(ctx, id, Running, actor)
}

func (j *Jobs) turn(ctx context.Context, id string, to State, actor string) (*Job, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("changing a job took too long"))
	defer cancel()
	err := j.inTx(ctx, func(tx pgx.Tx) error {
		var state State
		var events int
		const lock = `SELECT state, events FROM revocation_jobs WHERE tenant = $1 AND id = $2 FOR UPDATE`
		if err := tx.QueryRow(ctx, lock, j.config.Tenant, id).Scan(&state, &events); err != nil {
			return err
		}
		switch state {
		case to:
			return nil
		case Done:
			return ErrDone
		case Running, Paused:
		}
		now := j.config.Store.Now()
		kind := audit.JobPaused
		if to == Running {
			kind = audit.JobResumed
		}
		event, err := j.config.Audit.Event(audit.Entry{At: now, Type: kind, Subject: id, Count: events + 1, Actor: actor})
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE revocation_jobs SET state = $2, events = $3, claimed_until = $4 WHERE id = $1`, id, to, events+1, now); err != nil {
			return err
		}
		return record(ctx, tx, event)
	})
	if err != nil {
		return nil, wrap("changing job "+id, err)
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return j.Get(ctx, id)
}

const jobColumns = `id, selector, actor, reason, state, created_at, ended_at, matched, at_least, begun, ended, until_id, place, walks, events`

func scanJob(row pgx.CollectableRow) (*Job, error) {
	job := &Job{}
	var selector []byte
	if err := row.Scan(&job.ID, &selector, &job.Actor, &job.Reason, &job.State, &job.CreatedAt, &job.EndedAt, &job.Matched, &job.AtLeast, &job.Begun, &job.Ended,
		&job.until, &job.place, &job.walks, &job.events); err != nil {
		return nil, err
	}
	job.CreatedAt = job.CreatedAt.UTC()
	return job, json.Unmarshal(selector, &job.Selector)
}

// Get reads one job, and how many of its leases could not be taken back yet.
func (j *Jobs) Get(ctx context.Context, id string) (*Job, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("reading a job took too long"))
	defer cancel()
	rows, err := j.config.Pool.Query(ctx, `SELECT `+jobColumns+` FROM revocation_jobs WHERE tenant = $1 AND id = $2`, j.config.Tenant, id)
	if err != nil {
		return nil, wrap("reading job "+id, err)
	}
	job, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if err != nil {
		return nil, wrap("reading job "+id, err)
	}
	// Of those that were tried; what waits in the queue was not.
	const troubled = `
SELECT count(*) FILTER (WHERE l.attempts > 0), count(*) FILTER (WHERE l.stuck)
FROM (SELECT lease_id FROM revocation_queue WHERE job_id = $1 AND NOT waiting ORDER BY lease_id LIMIT 10000) q JOIN leases l ON l.id = q.lease_id WHERE l.state = 'revoking'`
	if err := j.config.Pool.QueryRow(ctx, troubled, id).Scan(&job.Failed, &job.Stuck); err != nil {
		return nil, wrap("reading job "+id, err)
	}
	return job, nil
}

// List reads jobs, newest first, without those numbers that only [Jobs.Get] counts.
func (j *Jobs) List(ctx context.Context, before string, limit int) ([]*Job, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("listing jobs took too long"))
	defer cancel()
	rows, err := j.config.Pool.Query(ctx, `SELECT `+jobColumns+` FROM revocation_jobs WHERE tenant = $1 AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3`,
		j.config.Tenant, before, limit)
	if err != nil {
		return nil, wrap("listing jobs", err)
	}
	list, err := pgx.CollectRows(rows, scanJob)
	if err != nil {
		return nil, wrap("listing jobs", err)
	}
	return list, nil
}

func (j *Jobs) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, j.config.Pool, f)
}

func record(ctx context.Context, tx pgx.Tx, event audit.Event) error {
	batch := &pgx.Batch{}
	audit.InsertIf(batch, []audit.Event{event}, "true")
	return tx.SendBatch(ctx, batch).Close()
}

func wrap(doing string, err error) error {
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, ErrDone), errors.Is(err, ErrBusy):
		return err
	}
	return leases.Unavailable(doing, err)
}
