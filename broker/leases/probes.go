package leases

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Probe is the last time that somebody in the fleet tried an issuer's target.
type Probe struct {
	Issuer    string
	StartedAt time.Time
	EndedAt   *time.Time // nil: still under way, or its broker died
	Error     *string    // nil: it works
}

// ClaimProbe makes one broker of the fleet the one that tries a target: when
// nobody has since `since`, or the last try failed before it.
func (s *Store) ClaimProbe(ctx context.Context, issuer string, since time.Time) (bool, error) {
	const claim = `
INSERT INTO probes (tenant, issuer, started_at) VALUES ($1, $2, $3)
ON CONFLICT (tenant, issuer) DO UPDATE SET started_at = $3, ended_at = NULL WHERE probes.started_at < $4`
	tag, err := s.config.Pool.Exec(ctx, claim, s.config.Tenant, issuer, s.Now(), since)
	if err != nil {
		return false, unavailable("claiming a probe", err)
	}
	return tag.RowsAffected() == 1, nil
}

// EndProbe records what a try said; "" for success.
func (s *Store) EndProbe(ctx context.Context, issuer, failure string) error {
	const end = `UPDATE probes SET ended_at = $3, error = nullif($4, '') WHERE tenant = $1 AND issuer = $2`
	if _, err := s.config.Pool.Exec(ctx, end, s.config.Tenant, issuer, s.Now(), truncate(failure, 1000)); err != nil {
		return unavailable("recording a probe", err)
	}
	return nil
}

// Probes reads what is known of all targets.
func (s *Store) Probes(ctx context.Context) ([]Probe, error) {
	rows, err := s.config.Pool.Query(ctx, `SELECT issuer, started_at, ended_at, error FROM probes WHERE tenant = $1 ORDER BY issuer`, s.config.Tenant)
	if err != nil {
		return nil, unavailable("reading probes", err)
	}
	probes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Probe])
	if err != nil {
		return nil, unavailable("reading probes", err)
	}
	return probes, nil
}
