package secrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/issuers/sealed"
)

// step is a change of one secret, whose row the transaction holds.
type step struct {
	store    *Store
	tx       pgx.Tx
	actor    string
	now      time.Time
	secret   *Secret
	current  *Version // nil: none
	pending  *Version // nil: none
	named    *Version // the version that is to be changed; nil: none of that number
	batch    *pgx.Batch
	events   []audit.Event
	inserted bool
}

//nolint:gosec // G101: the table is called so
const lockSecret = `
SELECT id, name, description, owner, rotate_every_seconds, rotate_fields, hook, due_at, rotate_at, attempts, coalesce(last_error, ''), created_at, versions, events
FROM secrets WHERE tenant = $1 AND name = $2 FOR UPDATE`

func scanSecret(row pgx.CollectableRow) (*Secret, error) {
	var s Secret
	var every int64
	err := row.Scan(&s.ID, &s.Name, &s.Description, &s.Owner, &every, &s.RotateFields, &s.Hook, &s.DueAt, &s.RotateAt, &s.Attempts, &s.LastError, &s.CreatedAt, &s.versions, &s.events)
	s.RotateEvery = time.Duration(every) * time.Second
	return &s, err
}

// begin locks a secret; step.secret is nil where there is none.
func (s *Store) begin(ctx context.Context, tx pgx.Tx, name string, version int) (*step, error) {
	st := &step{store: s, tx: tx, now: s.config.Now(), batch: &pgx.Batch{}}
	rows, err := tx.Query(ctx, lockSecret, s.config.Tenant, name)
	if err != nil {
		return nil, unavailable("locking secret", err)
	}
	st.secret, err = pgx.CollectExactlyOneRow(rows, scanSecret)
	if errors.Is(err, pgx.ErrNoRows) {
		st.secret = nil
		return st, nil
	}
	if err != nil {
		return nil, unavailable("locking secret", err)
	}
	return st, st.read(ctx, version)
}

// read looks at the versions once the secret's row is held: they don't change any
// more then.
func (st *step) read(ctx context.Context, version int) error {
	rows, err := st.tx.Query(ctx, selectVersions+` WHERE secret_id = $1 AND (state IN ('current', 'pending') OR version = $2)`, st.secret.ID, version)
	if err != nil {
		return unavailable("reading versions", err)
	}
	versions, err := pgx.CollectRows(rows, scanVersion)
	if err != nil {
		return unavailable("reading versions", err)
	}
	for _, v := range versions {
		switch v.State {
		case Current:
			st.current, st.secret.Current = v, v.Number
		case Pending:
			st.pending, st.secret.Pending = v, v.Number
		case Retired, Destroyed:
		}
		if v.Number == version {
			st.named = v
		}
	}
	return nil
}

// record adds the event of a change.
func (st *step) record(kind audit.Type, data map[string]any) error {
	st.secret.events++
	data["secret"] = st.secret.Name
	event, err := st.store.config.Audit.Event(audit.Entry{At: st.now, Type: kind, Subject: st.secret.ID, Count: st.secret.events, Actor: st.actor, Data: data})
	if err == nil {
		st.events = append(st.events, event)
	}
	return err
}

// plan says when a secret is due and when the rotator has to look at it, from the
// age of the value that is current.
func (st *step) plan(current *Version) {
	x := st.secret
	x.DueAt, x.RotateAt, x.Attempts, x.LastError = nil, nil, 0, ""
	if current != nil && x.RotateEvery > 0 {
		due := current.CreatedAt.Add(x.RotateEvery)
		x.DueAt = &due
	}
	if x.Hook != "" {
		x.RotateAt = x.DueAt
	}
}

const (
	//nolint:gosec // G101: the table is called so
	createSecret = `
INSERT INTO secrets (id, tenant, name, description, owner, rotate_every_seconds, rotate_fields, hook, due_at, rotate_at, attempts, last_error, versions, events, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, ''), $13, $14, $15)`

	updateSecret = `
UPDATE secrets SET description = $4, owner = $5, rotate_every_seconds = $6, rotate_fields = $7, hook = $8, due_at = $9, rotate_at = $10,
    attempts = $11, last_error = nullif($12, ''), versions = $13, events = $14
WHERE id = $1 AND tenant = $2 AND name = $3 AND created_at = $15`
)

// commit writes the secret's row, what was queued before, and the events.
func (st *step) commit(ctx context.Context) error {
	x := st.secret
	write := updateSecret
	if st.inserted {
		write = createSecret
	}
	if x.RotateFields == nil {
		x.RotateFields = []string{}
	}
	batch := &pgx.Batch{}
	batch.Queue(write, x.ID, st.store.config.Tenant, x.Name, x.Description, x.Owner, int64(x.RotateEvery/time.Second), x.RotateFields, x.Hook, x.DueAt, x.RotateAt,
		x.Attempts, x.LastError, x.versions, x.events, x.CreatedAt)
	batch.QueuedQueries = append(batch.QueuedQueries, st.batch.QueuedQueries...)
	audit.InsertIf(batch, st.events, "true")
	if err := st.tx.SendBatch(ctx, batch).Close(); err != nil {
		return unavailable("changing secret", err)
	}
	if err := st.tx.Commit(ctx); err != nil {
		return unavailable("changing secret", err)
	}
	return nil
}

// Settings are what a secret has besides its versions. A nil field stays as it is;
// of a new secret it is empty.
type Settings struct {
	Description  *string
	Owner        *string // required of a new secret
	RotateEvery  *time.Duration
	RotateFields *[]string
	Hook         *string
}

func (n Settings) check(hooks map[string]Hook) error {
	for name, text := range map[string]*string{"description": n.Description, "owner": n.Owner} {
		if text != nil && len(*text) > maxText {
			return invalid("%s has more than %d bytes", name, maxText)
		}
	}
	if n.Owner != nil && *n.Owner == "" {
		return invalid("owner is empty: name the person or team who answers for this secret")
	}
	if n.RotateEvery != nil && *n.RotateEvery != 0 && (*n.RotateEvery < MinRotateEvery || *n.RotateEvery > MaxRotateEvery) {
		return invalid("rotate_every is between 1h and 10 years, or 0 for never")
	}
	if n.RotateFields != nil {
		for _, field := range *n.RotateFields {
			if err := sealed.CheckField(field); err != nil {
				return invalid("rotate_fields: %v", err)
			}
		}
		if len(*n.RotateFields) > sealed.MaxFields {
			return invalid("rotate_fields: more than %d", sealed.MaxFields)
		}
	}
	if n.Hook != nil && *n.Hook != "" && *n.Hook != HookGenerate && hooks[*n.Hook] == nil {
		return invalid("there is no hook %.64q: those are generate and what stands under secrets.hooks in the server's configuration", *n.Hook)
	}
	return nil
}

// apply lays the settings over a secret and says which changed.
func (n Settings) apply(x *Secret) (changed []string) {
	set := func(name string, differs bool, assign func()) {
		if differs {
			assign()
			changed = append(changed, name)
		}
	}
	if n.Description != nil {
		set("description", x.Description != *n.Description, func() { x.Description = *n.Description })
	}
	if n.Owner != nil {
		set("owner", x.Owner != *n.Owner, func() { x.Owner = *n.Owner })
	}
	if n.RotateEvery != nil {
		set("rotate_every", x.RotateEvery != n.RotateEvery.Truncate(time.Second), func() { x.RotateEvery = n.RotateEvery.Truncate(time.Second) })
	}
	if n.RotateFields != nil {
		set("rotate_fields", !slices.Equal(x.RotateFields, *n.RotateFields), func() { x.RotateFields = *n.RotateFields })
	}
	if n.Hook != nil {
		set("hook", x.Hook != *n.Hook, func() { x.Hook = *n.Hook })
	}
	return changed
}

// PutRequest makes a secret, changes its settings, or makes a pending version, or
// all of these at once.
type PutRequest struct {
	Name     string
	Settings Settings
	Values   Values // of a pending version; nil: there is none to make
	// Replace destroys a pending version that is in the way.
	Replace bool
	Actor   string
}

// Put does what the request says, and returns the secret as it is then.
func (s *Store) Put(ctx context.Context, r PutRequest) (*Secret, error) {
	if err := sealed.CheckName(r.Name); err != nil {
		return nil, invalid("%v", err)
	}
	if err := r.Settings.check(s.config.Hooks); err != nil {
		return nil, err
	}
	if r.Values != nil {
		if err := r.Values.check(); err != nil {
			return nil, err
		}
	}
	var secret *Secret
	err := s.inTx(ctx, "putting secret", func(ctx context.Context, tx pgx.Tx) error {
		// Two that make one secret at once wait for each other here; there is no row to
		// lock yet.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('daypass secret ' || $1 || ' ' || $2, 0))`, s.config.Tenant, r.Name); err != nil {
			return unavailable("putting secret", err)
		}
		st, err := s.begin(ctx, tx, r.Name, 0)
		if err != nil {
			return err
		}
		st.actor = r.Actor
		if err := st.put(ctx, &r); err != nil {
			return err
		}
		secret = st.secret
		return st.commit(ctx)
	})
	return secret, err
}

func (st *step) put(ctx context.Context, r *PutRequest) error {
	kind := audit.SecretChanged
	if st.secret == nil {
		if r.Settings.Owner == nil {
			return invalid("there is no secret %s yet, and a new one needs an owner", r.Name)
		}
		st.inserted, kind = true, audit.SecretCreated
		st.secret = &Secret{ID: ids.New(ids.Secret, st.now), Name: r.Name, CreatedAt: st.now}
	}
	if changed := r.Settings.apply(st.secret); len(changed) > 0 {
		x := st.secret
		if err := st.record(kind, map[string]any{
			"changed": changed, "owner": x.Owner, "hook": x.Hook, "rotate_every": x.RotateEvery.String(), "rotate_fields": x.RotateFields,
		}); err != nil {
			return err
		}
		if slices.Contains(changed, "rotate_every") || slices.Contains(changed, "hook") {
			st.plan(st.current)
		}
	}
	if r.Values == nil {
		return nil
	}
	if st.pending != nil {
		if !r.Replace {
			return &StateError{Detail: fmt.Sprintf("version %d is pending: promote it, destroy it, or replace it", st.pending.Number)}
		}
		if err := st.destroy(st.pending, "replaced by another"); err != nil {
			return err
		}
	}
	return st.add(ctx, r.Values, originPut)
}

const addVersion = `
INSERT INTO secret_versions (secret_id, version, state, origin, value, fields, created_at, created_by) VALUES ($1, $2, 'pending', $3, $4, $5, $6, $7)`

// add makes a pending version.
func (st *step) add(ctx context.Context, values Values, origin string) error {
	st.secret.versions++
	number := st.secret.versions
	value, err := st.store.seal(ctx, st.secret.ID, number, values)
	if err != nil {
		return err
	}
	st.batch.Queue(addVersion, st.secret.ID, number, origin, value, values.fields(), st.now, st.actor)
	st.secret.Pending = number
	return st.record(audit.SecretPut, map[string]any{"version": number, "fields": values.fields(), "origin": origin})
}

// change is a step from which a version has to be there.
func (s *Store) change(ctx context.Context, what Change, f func(context.Context, *step) error) (secret *Secret, err error) {
	err = s.inTx(ctx, "changing secret", func(ctx context.Context, tx pgx.Tx) error {
		st, err := s.begin(ctx, tx, what.Name, what.Version)
		if err != nil {
			return err
		}
		if st.secret == nil || (what.Version != 0 && st.named == nil) {
			return ErrNotFound
		}
		st.actor = what.Actor
		if err := f(ctx, st); err != nil {
			return err
		}
		secret = st.secret
		return st.commit(ctx)
	})
	return secret, err
}

// Change names what is to be changed, and who asks.
type Change struct {
	Name    string
	Version int
	Actor   string
}

// Verify records that the pending version works.
func (s *Store) Verify(ctx context.Context, c Change) (*Secret, error) {
	return s.change(ctx, c, func(_ context.Context, st *step) error { return st.verify() })
}

func (st *step) verify() error {
	v := st.named
	if v.State != Pending {
		return &StateError{Detail: fmt.Sprintf("version %d is %s: only a pending one is verified", v.Number, v.State)}
	}
	if v.VerifiedAt != nil {
		return &StateError{Detail: fmt.Sprintf("version %d was verified already", v.Number)}
	}
	st.batch.Queue(`UPDATE secret_versions SET verified_at = $3 WHERE secret_id = $1 AND version = $2 AND state = 'pending'`, st.secret.ID, v.Number, st.now)
	return st.record(audit.SecretVerified, map[string]any{"version": v.Number})
}

// Promote makes the pending version the current one, once it was verified. Leases
// of the one before live to their end.
func (s *Store) Promote(ctx context.Context, c Change) (*Secret, error) {
	return s.change(ctx, c, func(_ context.Context, st *step) error { return st.promote() })
}

func (st *step) promote() error {
	v := st.named
	if v.State != Pending {
		return &StateError{Detail: fmt.Sprintf("version %d is %s: only a pending one is promoted", v.Number, v.State)}
	}
	if v.VerifiedAt == nil {
		return &StateError{Detail: fmt.Sprintf("version %d was not verified: try it, then say so", v.Number)}
	}
	st.secret.Pending = 0
	st.replaceCurrent(v)
	st.plan(v)
	return st.record(audit.SecretPromoted, map[string]any{"version": v.Number, "retired": st.retired()})
}

const (
	retire      = `UPDATE secret_versions SET state = 'retired', retired_at = $3 WHERE secret_id = $1 AND version = $2 AND state = 'current'`
	makeCurrent = `UPDATE secret_versions SET state = 'current', promoted_at = $3 WHERE secret_id = $1 AND version = $2 AND state = $4`
)

func (st *step) replaceCurrent(v *Version) {
	if st.current != nil {
		st.batch.Queue(retire, st.secret.ID, st.current.Number, st.now)
	}
	st.batch.Queue(makeCurrent, st.secret.ID, v.Number, st.now, string(v.State))
	st.secret.Current = v.Number
}

func (st *step) retired() int {
	if st.current == nil {
		return 0
	}
	return st.current.Number
}

// Rollback makes a retired version current again. The rotator then leaves the
// secret alone, overdue or not, until somebody rotates it or promotes a version.
func (s *Store) Rollback(ctx context.Context, c Change) (*Secret, error) {
	return s.change(ctx, c, func(_ context.Context, st *step) error {
		v := st.named
		if v.State != Retired {
			return &StateError{Detail: fmt.Sprintf("version %d is %s: only a retired one can be made current again", v.Number, v.State)}
		}
		st.replaceCurrent(v)
		st.plan(v)
		st.secret.RotateAt = nil
		return st.record(audit.SecretRolledBack, map[string]any{"version": v.Number, "retired": st.retired()})
	})
}

// Destroy ends a version for good. One that is current, or that live leases hold,
// needs force.
func (s *Store) Destroy(ctx context.Context, c Change, force bool) (*Secret, error) {
	return s.change(ctx, c, func(ctx context.Context, st *step) error {
		if st.named.State == Destroyed {
			return &StateError{Detail: fmt.Sprintf("version %d was destroyed already", c.Version)}
		}
		if !force {
			if err := st.unused(ctx); err != nil {
				return err
			}
		}
		return st.destroy(st.named, "asked for")
	})
}

// unused refuses to destroy what is held. Whoever reads a version locks its row
// first, and so do we: a lease is seen here, or finds nothing to read.
func (st *step) unused(ctx context.Context) error {
	if _, err := st.tx.Exec(ctx, `SELECT FROM secret_versions WHERE secret_id = $1 AND version = $2 FOR UPDATE`, st.secret.ID, st.named.Number); err != nil {
		return unavailable("locking version", err)
	}
	const holders = `
SELECT r.lease_id, count(*) OVER () FROM secret_reads r JOIN leases l ON l.id = r.lease_id
WHERE r.secret_id = $1 AND r.version = $2 AND l.state IN ('issuing', 'active', 'revoking') ORDER BY r.id LIMIT 20`
	rows, err := st.tx.Query(ctx, holders, st.secret.ID, st.named.Number)
	if err != nil {
		return unavailable("looking for who holds a version", err)
	}
	used := &InUseError{}
	var lease string
	if _, err := pgx.ForEachRow(rows, []any{&lease, &used.Count}, func() error {
		used.Leases = append(used.Leases, lease)
		return nil
	}); err != nil {
		return unavailable("looking for who holds a version", err)
	}
	if used.Count > 0 {
		return used
	}
	if st.named.State == Current {
		return &StateError{Detail: fmt.Sprintf("version %d is current: promote another one first, or force it, and leases of this secret fail", st.named.Number)}
	}
	return nil
}

// destroy takes the value away in the statement that says so.
func (st *step) destroy(v *Version, reason string) error {
	st.batch.Queue(`UPDATE secret_versions SET state = 'destroyed', value = NULL, destroyed_at = $3 WHERE secret_id = $1 AND version = $2 AND state = $4`,
		st.secret.ID, v.Number, st.now, string(v.State))
	switch v.State {
	case Current:
		st.secret.Current = 0
		st.plan(nil)
	case Pending:
		st.secret.Pending = 0
		st.secret.Attempts, st.secret.LastError = 0, ""
		if st.secret.Hook != "" {
			st.secret.RotateAt = st.secret.DueAt
		}
	case Retired, Destroyed:
	}
	return st.record(audit.SecretDestroyed, map[string]any{"version": v.Number, "was": string(v.State), "reason": reason})
}

// Rotate makes the rotator look at a secret now.
func (s *Store) Rotate(ctx context.Context, name, actor string) (*Secret, error) {
	return s.change(ctx, Change{Name: name, Actor: actor}, func(_ context.Context, st *step) error {
		if st.secret.Hook == "" {
			return ErrNoHook
		}
		if st.secret.Hook == HookGenerate && st.pending != nil {
			return &StateError{Detail: fmt.Sprintf("version %d is pending: put it into the target, verify and promote it", st.pending.Number)}
		}
		st.secret.RotateAt, st.secret.Attempts, st.secret.LastError = &st.now, 0, ""
		return st.record(audit.SecretRotating, map[string]any{})
	})
}
