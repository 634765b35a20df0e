package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

const (
	// claimTime is how long nobody else looks at a secret that a rotator has taken
	// on: longer than a stage can take.
	claimTime = time.Minute

	firstPause   = 15 * time.Second
	longestPause = time.Hour
	// MaxAttempts is how often a stage may fail before the rotation waits for a
	// person: about thirteen hours.
	MaxAttempts = 20

	rotatorActor = "daypassd"
)

// claimed is a secret that one rotator has taken on, for a while.
type claimed struct {
	name, id string
	until    time.Time // names the claim
	attempts int
}

// claim takes the secret that has waited longest for the rotator; nil: none waits.
func (s *Store) claim(ctx context.Context) (*claimed, error) {
	now := s.config.Now()
	c := &claimed{until: now.Add(claimTime)}
	const claim = `
UPDATE secrets SET rotate_at = $3 WHERE id = (
    SELECT id FROM secrets WHERE tenant = $1 AND rotate_at <= $2 ORDER BY rotate_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, name, attempts`
	err := s.config.Pool.QueryRow(ctx, claim, s.config.Tenant, now, c.until).Scan(&c.id, &c.name, &c.attempts)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("looking for what is to be rotated", err)
	}
	return c, nil
}

// failed records that a stage failed. Nothing is done where the claim was
// overtaken: by another broker, or by somebody who asked for a rotation.
func (s *Store) failed(ctx context.Context, c *claimed, failure error) (again time.Duration, err error) {
	pause := min(longestPause, firstPause<<min(c.attempts, 10))
	next := s.config.Now().Add(pause)
	at := &next
	if c.attempts+1 >= MaxAttempts {
		at, pause = nil, 0 // it waits for a person
	}
	const fail = `UPDATE secrets SET attempts = attempts + 1, last_error = $4, rotate_at = $3 WHERE id = $1 AND rotate_at = $2`
	if _, err := s.config.Pool.Exec(ctx, fail, c.id, c.until, at, clip(failure.Error())); err != nil {
		return 0, unavailable("recording that a rotation failed", err)
	}
	return pause, nil
}

// clip makes what an error said fit for a text column.
func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
}

// task is where a rotation stands: the rows say it, so that whoever comes next
// goes on from there.
type task struct {
	hook   string
	secret *Secret
	// of the pending version; 0: it has to be made
	pending          int
	isSet, isTried   bool
	values, previous Values
}

// look reads where a rotation stands.
func (s *Store) look(ctx context.Context, c *claimed) (*task, error) {
	var t *task
	err := s.inTx(ctx, "looking at a rotation", func(ctx context.Context, tx pgx.Tx) error {
		st, err := s.begin(ctx, tx, c.name, 0)
		if err != nil {
			return err
		}
		if st.secret == nil || st.secret.Hook == "" {
			return errNothingToDo
		}
		t = &task{hook: st.secret.Hook, secret: st.secret}
		if st.current != nil {
			if t.previous, err = st.values(ctx, st.current); err != nil {
				return err
			}
		}
		if st.pending == nil {
			return nil
		}
		if st.pending.Origin != originRotation {
			return fmt.Errorf("version %d was put by hand and is pending: promote or destroy it first", st.pending.Number)
		}
		t.pending, t.isSet, t.isTried = st.pending.Number, st.pending.SetAt != nil, st.pending.VerifiedAt != nil
		t.values, err = st.values(ctx, st.pending)
		return err
	})
	return t, err
}

// errNothingToDo: the secret lost its hook since it was claimed.
var errNothingToDo = errors.New("nothing to rotate")

func (st *step) values(ctx context.Context, v *Version) (Values, error) {
	var value []byte
	if err := st.tx.QueryRow(ctx, `SELECT value FROM secret_versions WHERE secret_id = $1 AND version = $2`, st.secret.ID, v.Number).Scan(&value); err != nil {
		return nil, unavailable("reading version", err)
	}
	return st.store.open(ctx, st.secret.ID, v.Number, value)
}

// makeUp adds a pending version with new values, unless there is one.
func (s *Store) makeUp(ctx context.Context, t *task) error {
	values, err := next(t.secret, t.previous)
	if err != nil {
		return err
	}
	_, err = s.change(ctx, Change{Name: t.secret.Name, Actor: rotatorActor}, func(ctx context.Context, st *step) error {
		if st.pending != nil {
			return &StateError{Detail: "another version is pending by now"}
		}
		if err := st.add(ctx, values, originRotation); err != nil {
			return err
		}
		st.goOn()
		if st.secret.Hook == HookGenerate {
			st.secret.RotateAt = nil // the rest is done by whoever puts it into the target
		}
		return nil
	})
	return err
}

// goOn makes the next stage due at once.
func (st *step) goOn() { st.secret.RotateAt, st.secret.Attempts, st.secret.LastError = &st.now, 0, "" }

// next makes up the values of the version that is to follow.
func next(secret *Secret, previous Values) (Values, error) {
	made := secret.RotateFields
	if len(made) == 0 {
		made = previous.fields()
	}
	if len(made) == 0 {
		made = []string{sealed.DefaultField}
	}
	values := make(Values, len(previous))
	maps.Copy(values, previous)
	for _, field := range made {
		if previous != nil && !slices.Contains(previous.fields(), field) {
			return nil, fmt.Errorf("rotate_fields: the current version has no field %s", field)
		}
		values[field] = sealed.Value{Secret: issuers.Generate(issuers.Password), RandomBits: issuers.GeneratedBits}
	}
	return values, nil
}

// markSet records that the hook put a pending version into the target.
func (s *Store) markSet(ctx context.Context, t *task) error {
	return s.advance(ctx, t, func(st *step) error {
		st.batch.Queue(`UPDATE secret_versions SET set_at = $3 WHERE secret_id = $1 AND version = $2 AND state = 'pending'`, st.secret.ID, t.pending, st.now)
		return st.record(audit.SecretSet, map[string]any{"version": t.pending})
	})
}

// markVerified records that the hook found the pending version to work.
func (s *Store) markVerified(ctx context.Context, t *task) error {
	return s.advance(ctx, t, func(st *step) error { return st.verify() })
}

// finish promotes it.
func (s *Store) finish(ctx context.Context, t *task) error {
	_, err := s.change(ctx, Change{Name: t.secret.Name, Version: t.pending, Actor: rotatorActor}, func(_ context.Context, st *step) error { return st.promote() })
	return err
}

func (s *Store) advance(ctx context.Context, t *task, f func(*step) error) error {
	_, err := s.change(ctx, Change{Name: t.secret.Name, Version: t.pending, Actor: rotatorActor}, func(_ context.Context, st *step) error {
		if st.named.State != Pending {
			return &StateError{Detail: fmt.Sprintf("version %d is %s by now", t.pending, st.named.State)}
		}
		st.goOn()
		return f(st)
	})
	return err
}

// Freshness is what metrics tell of secrets.
type Freshness struct {
	Overdue int           // past their due date
	Failing int           // whose rotation failed last, or waits for a person
	Oldest  time.Duration // age of the oldest value that is current; 0: there is none
	Due     []Due         // those that are due first
}

// Due is when a secret is due.
type Due struct {
	Name string
	At   time.Time
}

// Freshness counts, and lists at most most due dates.
func (s *Store) Freshness(ctx context.Context, most int) (*Freshness, error) {
	now := s.config.Now()
	var f Freshness
	var oldest *time.Time
	const count = `
SELECT count(*) FILTER (WHERE s.due_at <= $2), count(*) FILTER (WHERE s.last_error IS NOT NULL), min(v.created_at)
FROM secrets s LEFT JOIN secret_versions v ON v.secret_id = s.id AND v.state = 'current' WHERE s.tenant = $1`
	if err := s.config.Pool.QueryRow(ctx, count, s.config.Tenant, now).Scan(&f.Overdue, &f.Failing, &oldest); err != nil {
		return nil, unavailable("counting secrets", err)
	}
	if oldest != nil {
		f.Oldest = now.Sub(*oldest)
	}
	rows, err := s.config.Pool.Query(ctx, `SELECT name, due_at FROM secrets WHERE tenant = $1 AND due_at IS NOT NULL ORDER BY due_at, name LIMIT $2`, s.config.Tenant, most)
	if err != nil {
		return nil, unavailable("reading due dates", err)
	}
	if f.Due, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Due]); err != nil {
		return nil, unavailable("reading due dates", err)
	}
	return &f, nil
}
