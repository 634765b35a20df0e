package sealing

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Status is what there is of keys that seal.
type Status struct {
	SealingKey string    `json:"sealing_key"` // that this program was configured with
	Latest     string    `json:"latest"`      // that was taken up last, by whomever
	AdoptedAt  time.Time `json:"adopted_at"`
	Progress   Progress  `json:"progress"`
	DataKeys   []DataKey `json:"data_keys"` // those that aren't destroyed
}

// DataKey is what can be told of a data key.
type DataKey struct {
	ID         string    `json:"id"`
	Tenant     string    `json:"tenant"`
	Purpose    string    `json:"purpose"`
	SealingKey string    `json:"sealing_key"`
	Seals      int64     `json:"seals"` // no more than these
	CreatedAt  time.Time `json:"created_at"`
	State      string    `json:"state"` // current, retired or lost
}

// Status reads it.
func (w *Wrapping) Status(ctx context.Context) (*Status, error) {
	s := &Status{SealingKey: w.Sealer.KeyID()}
	var err error
	if s.Latest, s.AdoptedAt, err = w.latest(ctx); err != nil {
		return nil, err
	}
	if s.Progress, err = w.Progress(ctx); err != nil {
		return nil, err
	}
	const list = `
SELECT id, tenant, purpose, sealing_key, seals, created_at,
    CASE WHEN lost_at IS NOT NULL THEN 'lost' WHEN retired_at IS NOT NULL THEN 'retired' ELSE 'current' END
FROM data_keys WHERE destroyed_at IS NULL ORDER BY tenant, purpose, created_at DESC LIMIT 1000`
	rows, err := w.Pool.Query(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("listing data keys: %w", err)
	}
	if s.DataKeys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[DataKey]); err != nil {
		return nil, fmt.Errorf("listing data keys: %w", err)
	}
	return s, nil
}
