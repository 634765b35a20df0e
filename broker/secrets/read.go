package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

const selectVersions = `
SELECT version, state, origin, fields, created_at, created_by, set_at, verified_at, promoted_at, retired_at, destroyed_at FROM secret_versions`

func scanVersion(row pgx.CollectableRow) (*Version, error) {
	return pgx.RowToAddrOfStructByPos[Version](row)
}

//nolint:gosec // G101: the table is called so
const selectSecrets = `
SELECT s.id, s.name, s.description, s.owner, s.rotate_every_seconds, s.rotate_fields, s.hook, s.due_at, s.rotate_at, s.attempts, coalesce(s.last_error, ''), s.created_at,
    coalesce((SELECT v.version FROM secret_versions v WHERE v.secret_id = s.id AND v.state = 'current'), 0),
    coalesce((SELECT v.version FROM secret_versions v WHERE v.secret_id = s.id AND v.state = 'pending'), 0)
FROM secrets s`

func scanListed(row pgx.CollectableRow) (*Secret, error) {
	var s Secret
	var every int64
	err := row.Scan(&s.ID, &s.Name, &s.Description, &s.Owner, &every, &s.RotateFields, &s.Hook, &s.DueAt, &s.RotateAt, &s.Attempts, &s.LastError, &s.CreatedAt, &s.Current, &s.Pending)
	s.RotateEvery = time.Duration(every) * time.Second
	return &s, err
}

// List reads secrets by name, after the one of that name; "" for the first page.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*Secret, error) {
	rows, err := s.config.Pool.Query(ctx, selectSecrets+` WHERE s.tenant = $1 AND s.name > $2 ORDER BY s.name LIMIT $3`, s.config.Tenant, after, limit)
	if err != nil {
		return nil, unavailable("listing secrets", err)
	}
	list, err := pgx.CollectRows(rows, scanListed)
	if err != nil {
		return nil, unavailable("listing secrets", err)
	}
	return list, nil
}

// maxVersions is how many versions Get tells of.
const maxVersions = 100

// Get reads a secret and its last versions, newest first.
func (s *Store) Get(ctx context.Context, name string) (*Secret, []*Version, error) {
	rows, err := s.config.Pool.Query(ctx, selectSecrets+` WHERE s.tenant = $1 AND s.name = $2`, s.config.Tenant, name)
	if err != nil {
		return nil, nil, unavailable("reading secret", err)
	}
	secret, err := pgx.CollectExactlyOneRow(rows, scanListed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, ErrNotFound
	}
	if err != nil {
		return nil, nil, unavailable("reading secret", err)
	}
	rows, err = s.config.Pool.Query(ctx, selectVersions+` WHERE secret_id = $1 ORDER BY version DESC LIMIT $2`, secret.ID, maxVersions)
	if err != nil {
		return nil, nil, unavailable("reading versions", err)
	}
	versions, err := pgx.CollectRows(rows, scanVersion)
	if err != nil {
		return nil, nil, unavailable("reading versions", err)
	}
	return secret, versions, nil
}

// ReadsPage asks for reads of a secret, newest first.
type ReadsPage struct {
	Name    string
	Version int    // only of this one; 0: of all
	Before  string // id of the last read of the page before; "" for the first page
	Limit   int
}

// Reads tells which leases read a secret.
func (s *Store) Reads(ctx context.Context, page ReadsPage) ([]Read, error) {
	secret, _, err := s.Get(ctx, page.Name)
	if err != nil {
		return nil, err
	}
	const list = `
SELECT r.id, r.version, r.lease_id, r.at, coalesce(l.policy, ''), coalesce(l.grant_name, ''), coalesce(l.provider, ''), coalesce(l.subject, ''), coalesce(l.session_id, ''), coalesce(l.state, '')
FROM secret_reads r LEFT JOIN leases l ON l.id = r.lease_id
WHERE r.secret_id = $1 AND ($2 = 0 OR r.version = $2) AND ($3 = '' OR r.id < $3) ORDER BY r.id DESC LIMIT $4`
	rows, err := s.config.Pool.Query(ctx, list, secret.ID, page.Version, page.Before, page.Limit)
	if err != nil {
		return nil, unavailable("listing reads", err)
	}
	reads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Read])
	if err != nil {
		return nil, unavailable("listing reads", err)
	}
	return reads, nil
}

// readTries is how often a read begins anew because the version that it waited for
// is no longer the one it wants.
const readTries = 4

var errMoved = errors.New("the version was replaced while it was read")

// Read implements [sealed.Vault].
func (s *Store) Read(ctx context.Context, lease issuers.Lease, wanted sealed.Wanted) (_ *sealed.Version, err error) {
	if lease.Tenant != s.config.Tenant || lease.Installation != s.config.Installation {
		return nil, fmt.Errorf("%w: the lease is of another tenant or installation", issuers.ErrRejected)
	}
	var version *sealed.Version
	for range readTries {
		if version, err = s.readOnce(ctx, lease, wanted); !errors.Is(err, errMoved) {
			break
		}
	}
	switch {
	case err == nil:
		return version, nil
	case errors.Is(err, errMoved):
		state := Current
		if wanted.Pending {
			state = Pending
		}
		return nil, fmt.Errorf("%w: there is no such secret, or it has no %s version", issuers.ErrRejected, state)
	case errors.Is(err, issuers.ErrRejected), errors.Is(err, issuers.ErrLate), errors.Is(err, issuers.ErrUnavailable):
		return nil, err
	}
	return nil, asIssuer("reading secret", err)
}

// readOnce opens the version that is wanted, which may take a call of the HSM, and
// puts on record that it was read, which no call of the HSM should hold up: first
// the one, then the other, if it is still that version.
func (s *Store) readOnce(ctx context.Context, lease issuers.Lease, wanted sealed.Wanted) (*sealed.Version, error) {
	found, err := s.find(ctx, s.config.Pool, findVersion, lease, wanted)
	if err != nil {
		return nil, err
	}
	values, err := s.open(ctx, found.secretID, found.number, found.value)
	switch {
	case errors.Is(err, keys.ErrOpen):
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", issuers.ErrUnavailable, err)
	}
	for _, field := range wanted.Fields {
		if _, there := values[field]; !there {
			return nil, fmt.Errorf("%w: version %d has no field %s", issuers.ErrRejected, found.number, field)
		}
	}
	err = s.inTx(ctx, "reading secret", func(ctx context.Context, tx pgx.Tx) error {
		still, err := s.find(ctx, tx, lockVersion, lease, wanted)
		if err == nil && (still.secretID != found.secretID || still.number != found.number) {
			err = errMoved
		}
		if err != nil {
			return err
		}
		return s.putOnRecord(ctx, tx, lease, wanted, still)
	})
	if err != nil {
		return nil, err
	}
	return &sealed.Version{Number: found.number, Values: values}, nil
}

const (
	findVersion = `
SELECT s.id, s.name, v.version, v.value, clock_timestamp() < $4, coalesce(l.provider, ''), coalesce(l.subject, '')
FROM secrets s JOIN secret_versions v ON v.secret_id = s.id AND v.state = $3 LEFT JOIN leases l ON l.id = $5
WHERE s.tenant = $1 AND s.name = $2`

	// The share lock makes a destruction wait until this read is on record, or makes
	// this statement see the destruction.
	lockVersion = findVersion + ` FOR SHARE OF v`
)

// found is a version as it is stored, and who asks for it.
type found struct {
	secretID, name, provider, subject string
	number                            int
	value                             []byte
}

func (s *Store) find(ctx context.Context, from interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, sql string, lease issuers.Lease, wanted sealed.Wanted,
) (*found, error) {
	state := Current
	if wanted.Pending {
		state = Pending
	}
	var f found
	var inTime bool
	err := from.QueryRow(ctx, sql, s.config.Tenant, wanted.Secret, string(state), lease.IssueDeadline, lease.ID).
		Scan(&f.secretID, &f.name, &f.number, &f.value, &inTime, &f.provider, &f.subject)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errMoved
	case err != nil:
		return nil, asIssuer("finding version", err)
	case !inTime:
		return nil, fmt.Errorf("%w: the lease's issue deadline has passed", issuers.ErrLate)
	}
	return &f, nil
}

// putOnRecord commits that a lease read a version.
func (s *Store) putOnRecord(ctx context.Context, tx pgx.Tx, lease issuers.Lease, wanted sealed.Wanted, f *found) error {
	now := s.config.Now()
	event, err := s.config.Audit.Event(audit.Entry{
		At: now, Type: audit.SecretRead, Subject: ids.New(ids.SecretRead, now), Count: 1, Actor: leases.JobActor(f.provider, f.subject),
		Data: map[string]any{"secret": f.name, "version": f.number, "lease": lease.ID, "grant": lease.Policy + "/" + lease.Grant, "fields": wanted.Fields},
	})
	if err != nil {
		return err
	}
	return s.recordRead(ctx, tx, &event, lease.ID, f.secretID, f.number)
}

const insertRead = `
INSERT INTO secret_reads (lease_id, id, tenant, secret_id, version, at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (lease_id) DO NOTHING`

// recordRead commits the read of a lease that has read nothing before.
func (s *Store) recordRead(ctx context.Context, tx pgx.Tx, event *audit.Event, lease, secretID string, number int) error {
	tag, err := tx.Exec(ctx, insertRead, lease, event.Subject, s.config.Tenant, secretID, number, event.At)
	if err != nil {
		return asIssuer("recording a read", err)
	}
	if tag.RowsAffected() == 0 {
		var ended bool
		if err := tx.QueryRow(ctx, `SELECT ended_at IS NOT NULL FROM secret_reads WHERE lease_id = $1`, lease).Scan(&ended); err != nil {
			return asIssuer("recording a read", err)
		}
		if ended {
			return fmt.Errorf("%w: the lease was ended", issuers.ErrLate)
		}
		return fmt.Errorf("%w: the lease has read its secret already", issuers.ErrRejected)
	}
	batch := &pgx.Batch{}
	audit.InsertIf(batch, []audit.Event{*event}, "true")
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return asIssuer("recording a read", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return asIssuer("recording a read", err)
	}
	return nil
}

// End implements [sealed.Vault].
func (s *Store) End(ctx context.Context, lease issuers.Lease) (found bool, err error) {
	// A lease that has read nothing leaves a fence, behind which it never will.
	const end = `
INSERT INTO secret_reads (lease_id, tenant, at, ended_at) VALUES ($1, $2, $3, $3)
ON CONFLICT (lease_id) DO UPDATE SET ended_at = coalesce(secret_reads.ended_at, excluded.ended_at)
RETURNING version IS NOT NULL`
	if err := s.config.Pool.QueryRow(ctx, end, lease.ID, s.config.Tenant, s.config.Now()).Scan(&found); err != nil {
		return false, asIssuer("ending a read", err)
	}
	return found, nil
}
