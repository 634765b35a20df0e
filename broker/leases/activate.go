package leases

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// Activation is what Issue brought for one exchange: all its leases, or none.
type Activation struct {
	Now    time.Time
	Actor  string
	Leases []Minted

	events []audit.Event
}

// Minted is one lease whose credential now exists.
type Minted struct {
	ID           string
	Handle       []byte // as the issuer gave it; sealed before it is stored
	Fingerprints []Fingerprint
	SigningKey   string // that signed it; "" where none did

	sealed []byte
}

// Activate records that the credentials exist and how to take them back. When
// one of the leases is no longer issuing, somebody else has begun to revoke it:
// ErrNotActive, and the caller must revoke them all and hand out none.
func (s *Store) Activate(ctx context.Context, a *Activation) error {
	slices.SortFunc(a.Leases, func(x, y Minted) int { return cmp.Compare(x.ID, y.ID) })
	for i := range a.Leases {
		l := &a.Leases[i]
		if l.Handle != nil {
			sealed, err := s.config.Handles.Seal(ctx, s.handleRow(l.ID), l.Handle)
			if err != nil {
				return fmt.Errorf("sealing what revokes %s: %w: %w", l.ID, ErrUnavailable, err)
			}
			l.sealed = sealed
		}
		event, err := s.config.Audit.Event(audit.Entry{At: a.Now, Type: audit.LeaseIssued, Subject: l.ID, Count: 2, Actor: a.Actor})
		if err != nil {
			return err
		}
		a.events = append(a.events, event)
	}
	return s.submit(ctx, &write{activate: a})
}

const (
	activateLeases = `
WITH minted AS (
    SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[], $4::text[]) AS m(exchange, id, handle, signing_key)
), locked AS MATERIALIZED (
    SELECT found.* FROM (SELECT id FROM minted ORDER BY id) m CROSS JOIN LATERAL (
        SELECT l.id FROM leases l WHERE l.id = m.id AND l.state = 'issuing' OFFSET 0 FOR UPDATE) found
), changed AS (
    UPDATE leases l SET state = 'active', handle = m.handle, signing_key = nullif(m.signing_key, ''), due_at = l.expires_at, events = 2
    FROM minted m JOIN locked USING (id) WHERE l.id = m.id RETURNING l.id
)
SELECT m.exchange, changed.id IS NOT NULL FROM minted m LEFT JOIN changed USING (id)`

	leaseIsActive = `coalesce((SELECT l.state = 'active' AND l.events = e.count FROM leases l WHERE l.id = e.subject), false)`
)

func queueActivations(batch *pgx.Batch, writes []*write) {
	var exchanges []int32
	var leaseIDs []string
	var handles [][]byte
	var signingKeys []string
	var prints printRows
	var events []audit.Event
	for i, w := range writes {
		for _, l := range w.activate.Leases {
			exchanges, leaseIDs, handles = append(exchanges, int32(i)), append(leaseIDs, l.ID), append(handles, l.sealed)
			signingKeys = append(signingKeys, l.SigningKey)
			prints.add(l.ID, l.Fingerprints, w.activate.Now)
		}
		events = append(events, w.activate.events...)
	}
	batch.Queue(activateLeases, exchanges, leaseIDs, handles, signingKeys).Query(func(rows pgx.Rows) error {
		var exchange int
		var changed bool
		_, err := pgx.ForEachRow(rows, []any{&exchange, &changed}, func() error {
			if !changed {
				writes[exchange].err = ErrNotActive
			}
			return nil
		})
		return err
	})
	audit.InsertIf(batch, events, leaseIsActive)
	prints.queue(batch)
}
