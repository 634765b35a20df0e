// Package admin keeps the tokens of people who may look at leases and end them.
// A token has a role, an owner and an end, always; the database holds its keyed
// hash.
package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

// Role says what a token may do.
type Role string

// The roles. Each may only what is listed: an operator may all that a viewer may.
const (
	Viewer   Role = "viewer"   // reads leases, events and rules
	Operator Role = "operator" // and renews, revokes, forgets
	Redactor Role = "redactor" // redaction and leak finding over all sessions
)

// MaxTTL is the longest that an admin token may live.
const MaxTTL = 366 * 24 * time.Hour

// ErrUnknown says that there is no such token, or that it was revoked or has ended.
var ErrUnknown = errors.New("unknown admin token")

// ErrUnavailable says that the database didn't answer.
var ErrUnavailable = errors.New("admin tokens unavailable")

// Token is one admin token, without its value.
type Token struct {
	ID        string     `json:"id"`
	Role      Role       `json:"role"`
	Owner     string     `json:"owner"`
	OSUser    string     `json:"os_user"` // who ran the command that made it
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

// Can says whether the token's role covers another.
func (t *Token) Can(role Role) bool {
	return t.Role == role || (t.Role == Operator && role == Viewer)
}

// Config of Tokens. Every field is required but Since.
type Config struct {
	Pool   *pgxpool.Pool
	Hasher *keys.Hasher // of the root's key for admin tokens
	Audit  *audit.Recorder
	Tenant string
	Now    func() time.Time
	Since  time.Time // tokens from before it are void; zero: none is
}

// Tokens creates, lists, revokes and recognises admin tokens.
type Tokens struct{ config Config }

// New returns an error when a field is missing.
func New(config Config) (*Tokens, error) {
	if config.Pool == nil || config.Hasher == nil || config.Audit == nil || config.Tenant == "" || config.Now == nil {
		return nil, errors.New("making admin tokens: pool, hasher, audit, tenant and clock are all required")
	}
	return &Tokens{config: config}, nil
}

// Request is what a new token needs; all of it is required.
type Request struct {
	Role   Role
	Owner  string // a person: name or address
	OSUser string // who runs the command
	TTL    time.Duration
}

const hashDomain = "admin token"

// Create makes a token. Its value is given once, here.
func (t *Tokens) Create(ctx context.Context, r Request) (issuers.Secret, *Token, error) {
	switch {
	case r.Role != Viewer && r.Role != Operator && r.Role != Redactor:
		return issuers.Secret{}, nil, fmt.Errorf("there is no role %q: use viewer, operator or redactor", r.Role)
	case r.Owner == "" || len(r.Owner) > 200:
		return issuers.Secret{}, nil, errors.New("an admin token needs an owner: the name or address of the person who holds it")
	case r.TTL < time.Minute || r.TTL > MaxTTL:
		return issuers.Secret{}, nil, fmt.Errorf("an admin token lives between a minute and %d days", MaxTTL/(24*time.Hour))
	}
	secret := issuers.Generate(issuers.AdminToken)
	now := t.config.Now().UTC().Truncate(time.Microsecond)
	token := &Token{ID: ids.New(ids.AdminToken, now), Role: r.Role, Owner: r.Owner, OSUser: r.OSUser, CreatedAt: now, ExpiresAt: now.Add(r.TTL)}
	event, err := t.config.Audit.Event(audit.Entry{
		At: now, Type: audit.AdminTokenCreated, Subject: token.ID, Count: 1, Actor: "os user " + r.OSUser,
		Data: map[string]any{"role": r.Role, "owner": r.Owner, "expires_at": token.ExpiresAt},
	})
	if err != nil {
		return issuers.Secret{}, nil, err
	}
	hash := t.config.Hasher.Sum(hashDomain, []byte(secret.Reveal()))
	const create = `
INSERT INTO admin_tokens (id, tenant, hash, key_id, role, owner, os_user, created_at, expires_at, events) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1)`
	batch := &pgx.Batch{}
	batch.Queue(create, token.ID, t.config.Tenant, hash[:], t.config.Hasher.KeyID(), token.Role, token.Owner, token.OSUser, token.CreatedAt, token.ExpiresAt)
	audit.InsertIf(batch, []audit.Event{event}, "true")
	if err := t.config.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return issuers.Secret{}, nil, fmt.Errorf("saving admin token: %w", err)
	}
	return secret, token, nil
}

const columns = `id, role, owner, os_user, created_at, expires_at, revoked_at`

// List reads all tokens, newest first.
func (t *Tokens) List(ctx context.Context) ([]Token, error) {
	rows, err := t.config.Pool.Query(ctx, `SELECT `+columns+` FROM admin_tokens WHERE tenant = $1 ORDER BY id DESC`, t.config.Tenant)
	if err != nil {
		return nil, fmt.Errorf("listing admin tokens: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Token])
	if err != nil {
		return nil, fmt.Errorf("listing admin tokens: %w", err)
	}
	return list, nil
}

// Revoke ends a token now. One that was revoked before stays as it is.
func (t *Tokens) Revoke(ctx context.Context, id, osUser string) error {
	return t.revoke(ctx, id, "os user "+osUser, nil)
}

// RevokeFor is Revoke by somebody who isn't at the server's own command line, for a
// reason.
func (t *Tokens) RevokeFor(ctx context.Context, id, actor, reason string) error {
	return t.revoke(ctx, id, actor, map[string]any{"reason": reason})
}

func (t *Tokens) revoke(ctx context.Context, id, actor string, data map[string]any) error {
	tx, err := t.config.Pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("revoking admin token: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after the commit there is nothing to roll back, and before it the connection's end does it
	var events int
	var revoked bool
	err = tx.QueryRow(ctx, `SELECT events, revoked_at IS NOT NULL FROM admin_tokens WHERE tenant = $1 AND id = $2 FOR UPDATE`, t.config.Tenant, id).Scan(&events, &revoked)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %s (hint: `daypassd admin token list` names them)", ErrUnknown, id)
	}
	if err != nil {
		return fmt.Errorf("revoking admin token: %w", err)
	}
	if revoked {
		return nil
	}
	now := t.config.Now().UTC().Truncate(time.Microsecond)
	event, err := t.config.Audit.Event(audit.Entry{At: now, Type: audit.AdminTokenRevoked, Subject: id, Count: events + 1, Actor: actor, Data: data})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE admin_tokens SET revoked_at = $2, events = $3 WHERE id = $1`, id, now, events+1)
	audit.InsertIf(batch, []audit.Event{event}, "true")
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("revoking admin token: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("revoking admin token: %w", err)
	}
	return nil
}

// RevokeAll ends every token that hasn't ended, in the caller's transaction, and
// returns them.
func (t *Tokens) RevokeAll(ctx context.Context, tx pgx.Tx, actor, reason string) ([]Token, error) {
	const revoke = `
UPDATE admin_tokens SET revoked_at = $2, events = events + 1 WHERE tenant = $1 AND revoked_at IS NULL AND expires_at > $2 RETURNING ` + columns + `, events`
	type ended struct {
		Token

		Events int
	}
	now := t.config.Now().UTC().Truncate(time.Microsecond)
	rows, err := tx.Query(ctx, revoke, t.config.Tenant, now)
	if err != nil {
		return nil, fmt.Errorf("revoking admin tokens: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ended])
	if err != nil {
		return nil, fmt.Errorf("revoking admin tokens: %w", err)
	}
	tokens := make([]Token, 0, len(all))
	events := make([]audit.Event, 0, len(all))
	for _, e := range all {
		event, err := t.config.Audit.Event(audit.Entry{
			At: now, Type: audit.AdminTokenRevoked, Subject: e.ID, Count: e.Events, Actor: actor, Data: map[string]any{"reason": reason},
		})
		if err != nil {
			return nil, err
		}
		tokens, events = append(tokens, e.Token), append(events, event)
	}
	if len(events) == 0 {
		return tokens, nil
	}
	batch := &pgx.Batch{}
	audit.InsertIf(batch, events, "true")
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("revoking admin tokens: %w", err)
	}
	return tokens, nil
}

// Sum is the keyed hash of a token's value, by which it is found.
func (t *Tokens) Sum(value []byte) [32]byte { return t.config.Hasher.Sum(hashDomain, value) }

// Find finds tokens by their hashes, those included that have ended.
func (t *Tokens) Find(ctx context.Context, hashes [][32]byte) (map[[32]byte]*Token, error) {
	wanted := make([][]byte, len(hashes))
	for i := range hashes {
		wanted[i] = hashes[i][:]
	}
	rows, err := t.config.Pool.Query(ctx, `SELECT hash, `+columns+` FROM admin_tokens WHERE tenant = $1 AND hash = ANY ($2)`, t.config.Tenant, wanted)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	found := map[[32]byte]*Token{}
	var hash []byte
	var row Token
	_, err = pgx.ForEachRow(rows, []any{&hash, &row.ID, &row.Role, &row.Owner, &row.OSUser, &row.CreatedAt, &row.ExpiresAt, &row.RevokedAt}, func() error {
		token := row
		found[[32]byte(hash)] = &token
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return found, nil
}

// Authenticate recognises a token by its value. It is looked up by its keyed
// hash, so that timing tells nothing of the value.
func (t *Tokens) Authenticate(ctx context.Context, value string) (*Token, error) {
	hash := t.Sum([]byte(value))
	rows, err := t.config.Pool.Query(ctx, `SELECT `+columns+` FROM admin_tokens WHERE tenant = $1 AND hash = $2`, t.config.Tenant, hash[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	token, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[Token])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if token.CreatedAt.Before(t.config.Since) {
		return nil, ErrUnknown
	}
	if token.RevokedAt != nil || !t.config.Now().Before(token.ExpiresAt) {
		return nil, ErrUnknown
	}
	return token, nil
}
