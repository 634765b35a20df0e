package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/leases"
)

// Run works on jobs until ctx ends. Any number of brokers may.
func (j *Jobs) Run(ctx context.Context) {
	for ctx.Err() == nil {
		worked, err := j.RunOnce(ctx)
		if err != nil && ctx.Err() == nil {
			j.config.Logger.ErrorContext(ctx, "working on revocations of many leases failed", "error", err)
		}
		if worked && err == nil {
			continue
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
		case <-j.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// errOvertaken: the job was paused, or somebody else is at it.
var errOvertaken = errors.New("the job was taken over or paused")

// RunOnce takes one step of one job that nobody else is at, and says whether
// there is more to do at once.
func (j *Jobs) RunOnce(ctx context.Context) (worked bool, err error) {
	now := j.config.Store.Now()
	const claim = `
UPDATE revocation_jobs SET claimed_until = $3 WHERE id = (
    SELECT id FROM revocation_jobs WHERE tenant = $1 AND state = 'running' AND claimed_until <= $2 ORDER BY claimed_until, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING ` + jobColumns
	rows, err := j.config.Pool.Query(ctx, claim, j.config.Tenant, now, now.Add(claimTime))
	if err != nil {
		return false, wrap("claiming a job", err)
	}
	job, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, wrap("claiming a job", err)
	}
	next := now // when somebody looks at it again
	switch {
	case job.walks == 0, job.walks == 1 && !now.Before(job.CreatedAt.Add(j.config.Settle)):
		worked, err = true, j.walk(ctx, job)
	default:
		next = now.Add(interval)
		var done bool
		if done, err = j.tally(ctx, job); done || err != nil {
			return false, err
		}
	}
	if err != nil {
		if errors.Is(err, errOvertaken) {
			return true, nil
		}
		return false, err
	}
	// Only ours: a claim that was overtaken meanwhile is somebody else's.
	_, err = j.config.Pool.Exec(ctx, `UPDATE revocation_jobs SET claimed_until = $2 WHERE id = $1 AND claimed_until = $3`, job.ID, next, now.Add(claimTime))
	if err != nil {
		return false, wrap("giving a job back", err)
	}
	return worked, nil
}

// walk takes the next stretch of live leases. The job's place moves in the same
// transaction, and only from where we saw it: two who walk do no harm.
func (j *Jobs) walk(ctx context.Context, job *Job) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("a step of a job took too long"))
	defer cancel()
	done, err := j.config.Store.EndMatching(ctx, leases.MassStep{
		Filter: job.Selector.filter(), Until: job.until, Place: job.place, Limit: j.config.Page, Job: job.ID, Why: leases.Why{Actor: job.Actor, Reason: job.Reason},
		Record: func(ctx context.Context, tx pgx.Tx, done leases.MassResult) error {
			const move = `
UPDATE revocation_jobs SET place = $3, walks = walks + $4, begun = begun + $5, ended = ended + $6
WHERE id = $1 AND state = 'running' AND place = $2 AND walks = $7`
			place, walked := done.Place, 0
			if done.Last {
				place, walked = []string{}, 1
			}
			tag, err := tx.Exec(ctx, move, job.ID, job.place, place, walked, done.Begun, done.Ended, job.walks)
			if err == nil && tag.RowsAffected() == 0 {
				return errOvertaken
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	for _, issuer := range done.Issuers {
		j.config.Notify(issuer)
	}
	return nil
}

// tallyBatch is how many leases are counted with one commit.
const tallyBatch = 5000

// tally counts what was taken back, and ends the job when that is all.
func (j *Jobs) tally(ctx context.Context, job *Job) (done bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("counting what a job has done took too long"))
	defer cancel()
	err = j.inTx(ctx, func(tx pgx.Tx) error {
		var events, begun, ended, left int
		var state State
		// The job's row first: whoever pauses it, or walks for it, waits for us.
		if err := tx.QueryRow(ctx, `SELECT state, events, begun FROM revocation_jobs WHERE id = $1 FOR UPDATE`, job.ID).Scan(&state, &events, &begun); err != nil {
			return err
		}
		if state != Running {
			return errOvertaken
		}
		const gone = `
WITH gone AS (
    DELETE FROM revocation_queue WHERE lease_id = ANY (ARRAY(
        SELECT q.lease_id FROM revocation_queue q JOIN leases l ON l.id = q.lease_id
        WHERE q.job_id = $1 AND NOT q.waiting AND l.state IN ('revoked', 'expired', 'forgotten') LIMIT $2)) RETURNING 1)
UPDATE revocation_jobs SET ended = ended + (SELECT count(*) FROM gone) WHERE id = $1 RETURNING ended`
		if err := tx.QueryRow(ctx, gone, job.ID, tallyBatch).Scan(&ended); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM revocation_queue WHERE job_id = $1 LIMIT 1) found`, job.ID).Scan(&left); err != nil {
			return err
		}
		if left > 0 || job.walks < 2 {
			return nil
		}
		done = true
		now := j.config.Store.Now()
		event, err := j.config.Audit.Event(audit.Entry{
			At: now, Type: audit.JobDone, Subject: job.ID, Count: events + 1, Actor: "daypassd", Data: map[string]any{"begun": begun, "ended": ended},
		})
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE revocation_jobs SET state = 'done', ended_at = $2, events = $3 WHERE id = $1`, job.ID, now, events+1); err != nil {
			return err
		}
		return record(ctx, tx, event)
	})
	if errors.Is(err, errOvertaken) {
		return false, err
	}
	if err != nil {
		return false, wrap("counting what a job has done", err)
	}
	return done, nil
}
