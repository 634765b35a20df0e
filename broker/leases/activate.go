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
	a.events = a.events[:0]
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

// activateLeases writes what it changes, with the events and fingerprints of it.
// The bounds say which partitions the leases are in: see span. The state is asked
// for outside, so that nobody thinks of reading an index of all that lives.
func activateLeases(c *columns, prints, low, high, tenant string) string {
	sql := `
WITH minted AS (
    SELECT * FROM ` + c.table("m") + `
), locked AS MATERIALIZED (
    SELECT found.id FROM (SELECT id FROM minted ORDER BY id) m CROSS JOIN LATERAL (
        SELECT l.id, l.state FROM leases l WHERE l.id = m.id AND l.id BETWEEN ` + low + ` AND ` + high + ` OFFSET 0 FOR UPDATE) found
    WHERE found.state = 'issuing'
), changed AS (
    UPDATE leases l SET state = 'active', handle = m.handle, signing_key = nullif(m.signing_key, ''), due_at = l.expires_at, events = 2
    FROM minted m JOIN locked USING (id) WHERE l.id = m.id AND l.id BETWEEN ` + low + ` AND ` + high + ` RETURNING l.id
), recorded AS (
    INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id)
    SELECT m.event, m.now, ` + tenant + `, '` + string(audit.LeaseIssued) + `', m.id, 2, m.event_body, m.event_leaf, m.event_mac, m.event_key FROM minted m JOIN changed USING (id)
)`
	if prints != "" {
		sql += `, printed AS (
    INSERT INTO fingerprints (fingerprint, lease_id, field, key_id, scheme, created_at, anchor)
    SELECT f.fingerprint, f.lease_id, f.field, f.key_id, f.scheme, f.created_at, f.anchor FROM ` + prints + ` JOIN changed ON changed.id = f.lease_id
)`
	}
	return sql + `
SELECT m.exchange, changed.id IS NOT NULL FROM minted m LEFT JOIN changed USING (id)`
}

// mintedRow is one lease with the exchange that it belongs to.
type mintedRow struct {
	exchange int
	at       time.Time
	event    *audit.Event
	*Minted
}

func (s *Store) queueActivations(batch *pgx.Batch, writes []*write) {
	var rows []mintedRow
	var prints printRows
	for i, w := range writes {
		for j := range w.activate.Leases {
			l := &w.activate.Leases[j]
			rows = append(rows, mintedRow{exchange: i, at: w.activate.Now, event: &w.activate.events[j], Minted: l})
			prints.add(l.ID, l.Fingerprints, w.activate.Now)
		}
	}
	leaseIDs := column(rows, func(r mintedRow) string { return r.ID })
	least, greatest := span(leaseIDs)
	c := &columns{}
	low, high, tenant := c.arg(least), c.arg(greatest), c.arg(s.config.Tenant)
	from := prints.table(c)
	c.add("exchange", "int", column(rows, func(r mintedRow) int32 { return int32(r.exchange) })) //nolint:gosec // at most maxBatch
	c.add("id", "text", leaseIDs)
	c.add("handle", "bytea", column(rows, func(r mintedRow) []byte { return r.sealed }))
	c.add("signing_key", "text", column(rows, func(r mintedRow) string { return r.SigningKey }))
	c.add("now", "timestamptz", column(rows, func(r mintedRow) time.Time { return r.at }))
	c.add("event", "text", column(rows, func(r mintedRow) string { return r.event.ID }))
	c.add("event_body", "text", column(rows, func(r mintedRow) string { return r.event.Body }))
	c.add("event_leaf", "bytea", column(rows, func(r mintedRow) []byte { return r.event.Leaf[:] }))
	c.add("event_mac", "bytea", column(rows, func(r mintedRow) []byte { return r.event.MAC[:] }))
	c.add("event_key", "text", column(rows, func(r mintedRow) string { return r.event.KeyID }))
	batch.Queue(activateLeases(c, from, low, high, tenant), c.args...).Query(func(found pgx.Rows) error {
		var exchange int
		var changed bool
		_, err := pgx.ForEachRow(found, []any{&exchange, &changed}, func() error {
			if !changed {
				writes[exchange].err = ErrNotActive
			}
			return nil
		})
		return err
	})
}
