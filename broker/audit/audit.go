// Package audit makes the events that say who had what, when and why.
//
// An event is written in the transaction of what it records: no event, no
// access. Each one has a place among the events of its subject (a lease, a
// session, an admin token, a signing key): the first has count 1, and no count is missing. Each
// carries the leaf hash of its body (RFC 6962 §2.1) and a MAC over that hash by
// a key that isn't in the database, so that somebody who can write to the
// database can neither make an event up nor change one unseen.
package audit

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
)

// Type says what happened.
type Type string

// The types of events. Of each lease there is exactly one that ends it:
// LeaseRevoked, LeaseExpired or LeaseForgotten, of its own; or, where its time
// was up and nothing outside had to be undone, the LeasesExpired that names it.
const (
	SessionOpened  Type = "session.opened"
	SessionRevoked Type = "session.revoked"
	SessionLogin   Type = "session.login"  // a client of the Vault façade got a token
	SessionLogout  Type = "session.logout" // and gave it back
	// TokenReusedJTI: a job token came with the jti of another one, and opened no session.
	TokenReusedJTI Type = "token.jti_reused" //nolint:gosec // the name of an event
	LeaseReserved  Type = "lease.reserved"   // on record, nothing minted yet
	LeaseIssued    Type = "lease.issued"
	LeaseRenewed   Type = "lease.renewed"
	LeaseRevoking  Type = "lease.revoking" // its end came, or somebody asked
	LeaseRevoked   Type = "lease.revoked"
	LeaseExpired   Type = "lease.expired" // nothing outside had to be undone
	LeaseForgotten Type = "lease.forgotten"
	// LeasesExpired: the leases that its data lists, by their ids, came to their end.
	// The subject is the sweep's own.
	LeasesExpired Type = "leases.expired"

	// JobCreated and those after it are steps of a revocation of many leases.
	JobCreated Type = "job.created"
	JobPaused  Type = "job.paused"
	JobResumed Type = "job.resumed"
	JobDone    Type = "job.done"

	// LeaseMissing: its credential is on the target no more, and nobody here took it away.
	LeaseMissing Type = "lease.missing"
	// OrphanFound and those after it are about credentials without a live lease. The
	// subject is the orphan's or the reconciliation's own id.
	OrphanFound       Type = "orphan.found"
	OrphanRevoked     Type = "orphan.revoked"
	TargetReconciling Type = "target.reconciling" // an operator asked for it

	PoliciesLoaded    Type = "policies.loaded"    // a set came into force on one broker
	PoliciesConfirmed Type = "policies.confirmed" // an operator let a set come into force
	IdentityConflict  Type = "identity.conflict"  // a token has one half of a name and an id

	SecretCreated    Type = "secret.created"
	SecretChanged    Type = "secret.changed"     // its settings
	SecretPut        Type = "secret.put"         // a pending version was made
	SecretSet        Type = "secret.set"         // its hook put the pending version into the target
	SecretVerified   Type = "secret.verified"    // the pending version works
	SecretPromoted   Type = "secret.promoted"    // the pending version is current; the one before is retired
	SecretRolledBack Type = "secret.rolled_back" // a retired version is current again
	SecretDestroyed  Type = "secret.destroyed"   // a version, for good
	SecretRotating   Type = "secret.rotating"    // somebody asked for a rotation
	SecretRead       Type = "secret.read"        // a lease got a version; the subject is the read's own
	// KeyPlanned and those after it are steps in the life of a key that signs JWTs.
	// The subject is its key id; of a planned or given up one, which has none, its label.
	KeyPlanned   Type = "signing_key.planned"
	KeyAdopted   Type = "signing_key.adopted" // it was there before there was a record of keys
	KeyPublished Type = "signing_key.published"
	KeySigning   Type = "signing_key.signing"
	KeyRetiring  Type = "signing_key.retiring"
	KeyRetired   Type = "signing_key.retired"
	KeyRevoked   Type = "signing_key.revoked"
	KeysReplaced Type = "keys.replaced" // a sealing key was lost or stolen, and another took its place

	AuditKeyAdopted      Type = "audit_key.adopted" // it signs checkpoints from now on; the subject is its key id
	SwitchOff            Type = "switch.off"        // an operator turned a provider, policy, grant or issuer off
	SwitchOn             Type = "switch.on"
	InstallationPromoted Type = "installation.promoted" // a restored database took over, in a new epoch
	InstallationRenewed  Type = "installation.renewed"  // a copy became an installation of its own

	LeakFound Type = "leak.found" // a secret stood where it doesn't belong; the subject is the finding's own

	AdminTokenCreated Type = "admin_token.created"
	AdminTokenRevoked Type = "admin_token.revoked" //nolint:gosec // the name of an event
)

// Entry is what happened, before it has an id, a hash and a MAC.
type Entry struct {
	At      time.Time
	Type    Type
	Subject string         // id of the lease, session, admin token or signing key
	Count   int            // its place among the events of Subject, from 1
	Actor   string         // who did it: "job PROVIDER SUB", "admin ID OWNER", "daypassd"
	Data    map[string]any // what else is worth knowing; never a secret
}

// Event is an Entry as it is stored.
type Event struct {
	ID      string
	At      time.Time
	Tenant  string
	Type    Type
	Subject string
	Count   int
	Body    string // JSON; what Leaf covers
	Leaf    [32]byte
	MAC     [32]byte
	KeyID   string
}

// Recorder turns entries into events. Its zero value is of no use: see [New].
type Recorder struct {
	config Config
}

// Config of a Recorder. Every field is required, unless it says otherwise.
type Config struct {
	Installation string
	Tenant       string
	MAC          *keys.Hasher   // of the root's audit key
	Former       []*keys.Hasher // of roots that were replaced: they verify, and make nothing; none when empty
}

// New returns an error when a field is missing: there is no broker without an
// audit log.
func New(config Config) (*Recorder, error) {
	if config.MAC == nil || config.Tenant == "" || config.Installation == "" {
		return nil, errors.New("making audit recorder: installation, tenant and MAC key are all required")
	}
	return &Recorder{config: config}, nil
}

// body is what is stored, hashed and authenticated, in this order of fields.
type body struct {
	ID           string         `json:"id"`
	At           time.Time      `json:"at"`
	Installation string         `json:"installation"`
	Tenant       string         `json:"tenant"`
	Type         Type           `json:"type"`
	Subject      string         `json:"subject"`
	Count        int            `json:"count"`
	Actor        string         `json:"actor"`
	Data         map[string]any `json:"data,omitempty"`
}

const macDomain = "audit event leaf"

// Event makes the event of an entry.
func (r *Recorder) Event(e Entry) (Event, error) {
	at := e.At.UTC().Truncate(time.Microsecond) // what Postgres keeps
	id := ids.New(ids.Event, at)
	encoded, err := json.Marshal(body{
		ID: id, At: at, Installation: r.config.Installation, Tenant: r.config.Tenant,
		Type: e.Type, Subject: e.Subject, Count: e.Count, Actor: e.Actor, Data: e.Data,
	})
	if err != nil {
		return Event{}, fmt.Errorf("encoding audit event %s: %w", e.Type, err)
	}
	leaf := auditlog.LeafHash(encoded)
	return Event{
		ID: id, At: at, Tenant: r.config.Tenant, Type: e.Type, Subject: e.Subject, Count: e.Count,
		Body: string(encoded), Leaf: leaf, MAC: r.config.MAC.Sum(macDomain, leaf[:]), KeyID: r.config.MAC.KeyID(),
	}, nil
}

// ErrForged says that an event's body, hash and MAC don't belong together.
var ErrForged = errors.New("audit event was not written by this installation")

// Verify checks an event's hash and MAC, and that its columns say what its body says.
func (r *Recorder) Verify(e Event) error {
	var b body
	if err := json.Unmarshal([]byte(e.Body), &b); err != nil {
		return fmt.Errorf("%w: %s: its body is not readable", ErrForged, e.ID)
	}
	if err := r.VerifyLeaf(e); err != nil {
		return err
	}
	switch {
	case b.ID != e.ID || b.Subject != e.Subject || b.Count != e.Count || b.Type != e.Type || b.Tenant != e.Tenant || !b.At.Equal(e.At):
		return fmt.Errorf("%w: %s: its columns don't say what its body says", ErrForged, e.ID)
	}
	return nil
}

// VerifyLeaf checks an event's hash and MAC alone: what is quick enough for every event.
func (r *Recorder) VerifyLeaf(e Event) error {
	leaf := auditlog.LeafHash([]byte(e.Body))
	if leaf != e.Leaf {
		return fmt.Errorf("%w: %s: its body was changed", ErrForged, e.ID)
	}
	hasher := r.config.MAC
	for _, former := range r.config.Former {
		if former.KeyID() == e.KeyID {
			hasher = former
		}
	}
	if mac := hasher.Sum(macDomain, leaf[:]); e.KeyID != hasher.KeyID() || !hmac.Equal(mac[:], e.MAC[:]) {
		return fmt.Errorf("%w: %s: its MAC is of another key", ErrForged, e.ID)
	}
	return nil
}

const insert = `
INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::int[], $7::text[], $8::bytea[], $9::bytea[], $10::text[])`

// InsertIf queues the writing of events in the caller's transaction. condition
// is SQL over the alias e (id, subject, count …) that says which of them are
// written, "true" for all: an event of something that another statement of the
// same transaction may have declined must look for its subject first.
func InsertIf(batch *pgx.Batch, events []Event, condition string) *pgx.QueuedQuery {
	n := len(events)
	eventIDs, ats, tenants, types := make([]string, n), make([]time.Time, n), make([]string, n), make([]string, n)
	subjects, counts, bodies, keyIDs := make([]string, n), make([]int32, n), make([]string, n), make([]string, n)
	leaves, macs := make([][]byte, n), make([][]byte, n)
	for i, e := range events {
		eventIDs[i], ats[i], tenants[i], types[i] = e.ID, e.At, e.Tenant, string(e.Type)
		subjects[i], counts[i], bodies[i], keyIDs[i] = e.Subject, int32(e.Count), e.Body, e.KeyID //nolint:gosec // counts are small
		leaves[i], macs[i] = e.Leaf[:], e.MAC[:]
	}
	return batch.Queue(insert+" AS e(id, at, tenant, type, subject, count, body, leaf, mac, key_id) WHERE "+condition,
		eventIDs, ats, tenants, types, subjects, counts, bodies, leaves, macs, keyIDs)
}

// Page asks for events, newest first.
type Page struct {
	Tenant  string
	Subject string // only this one's; "" for all
	Before  string // id of the last event of the page before; "" for the first page
	Limit   int
}

// List reads events as they are stored. Ids sort by time.
func List(ctx context.Context, conn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, page Page,
) ([]Event, error) {
	const list = `
SELECT id, at, tenant, type, subject, count, body, leaf, mac, key_id FROM audit_events
WHERE tenant = $1 AND ($2 = '' OR subject = $2) AND ($3 = '' OR id < $3)
ORDER BY id DESC LIMIT $4`
	rows, err := conn.Query(ctx, list, page.Tenant, page.Subject, page.Before, page.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing audit events: %w", err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Event, err error) {
		var leaf, mac []byte
		if err = row.Scan(&e.ID, &e.At, &e.Tenant, &e.Type, &e.Subject, &e.Count, &e.Body, &leaf, &mac, &e.KeyID); err == nil {
			copy(e.Leaf[:], leaf)
			copy(e.MAC[:], mac)
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing audit events: %w", err)
	}
	return events, nil
}

// Details reads who did it and what else was said from an event's body.
func (e Event) Details() (actor string, data map[string]any) {
	var b body
	if json.Unmarshal([]byte(e.Body), &b) != nil {
		return "", nil
	}
	return b.Actor, b.Data
}

// LeafHex is the leaf hash as the API shows it.
func (e Event) LeafHex() string { return hex.EncodeToString(e.Leaf[:]) }

// MACHex is the MAC as the API shows it.
func (e Event) MACHex() string { return hex.EncodeToString(e.MAC[:]) }
