package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// Status is a target and its last comparison.
type Status struct {
	Issuer  string
	Address string
	CanList bool
	Last    *Run // nil: there was none
}

// Targets are all, sorted by their issuers' names.
func (r *Reconciler) Targets(ctx context.Context) ([]Status, error) {
	const newest = `SELECT DISTINCT ON (issuer) ` + runColumns + ` FROM reconciliations WHERE tenant = $1 ORDER BY issuer, started_at DESC`
	rows, err := r.config.Pool.Query(ctx, newest, r.config.Tenant)
	if err != nil {
		return nil, unavailable("reading reconciliations", err)
	}
	runs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Run])
	if err != nil {
		return nil, unavailable("reading reconciliations", err)
	}
	var all []Status
	for name, target := range r.config.Targets {
		status := Status{Issuer: name, Address: target.Address}
		_, status.CanList = target.Issuer.(issuers.Lister)
		if i := slices.IndexFunc(runs, func(run Run) bool { return run.Issuer == name }); i >= 0 {
			status.Last = &runs[i]
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Issuer, b.Issuer) })
	return all, nil
}

// Report is what is known of one target.
type Report struct {
	Status

	Orphans      []Orphan // that stand, and those that the last run took back
	OrphansTotal int
	Missing      []leases.Missing
	MissingTotal int
}

// Report reads what is known of a target, with no more than limit of each list.
func (r *Reconciler) Report(ctx context.Context, issuer string, limit int) (*Report, error) {
	all, err := r.Targets(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s Status) bool { return s.Issuer == issuer })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, issuer)
	}
	report := &Report{Status: all[i]}
	run := ""
	if report.Last != nil {
		run = report.Last.ID
	}
	const list = `
SELECT ` + orphanColumns + `, count(*) OVER () FROM orphans
WHERE tenant = $1 AND issuer = $2 AND ((ended_at IS NULL AND state = 'found') OR (seen_in = $3 AND state = 'revoked')) ORDER BY id LIMIT $4`
	rows, err := r.config.Pool.Query(ctx, list, r.config.Tenant, issuer, run, limit)
	if err != nil {
		return nil, unavailable("reading orphans", err)
	}
	report.Orphans, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Orphan, error) { return scanOrphan(row, &report.OrphansTotal) })
	if err != nil {
		return nil, unavailable("reading orphans", err)
	}
	report.Missing, report.MissingTotal, err = r.config.Store.MissingOf(ctx, issuer, limit)
	return report, err
}

// Count is what is known of one target, in numbers.
type Count struct {
	Issuer    string
	Orphans   int // that stand
	Missing   int
	Succeeded time.Time // when it was last compared without an error, dry or not; zero: never
}

// Counts are those of all targets that can be listed.
func (r *Reconciler) Counts(ctx context.Context) ([]Count, error) {
	var counts []Count
	for name, target := range r.config.Targets {
		if _, can := target.Issuer.(issuers.Lister); !can {
			continue
		}
		const count = `
SELECT (SELECT count(*) FROM orphans WHERE tenant = $1 AND issuer = $2 AND ended_at IS NULL AND state = 'found'),
    (SELECT count(*) FROM missing_credentials WHERE tenant = $1 AND issuer = $2),
    (SELECT ended_at FROM reconciliations WHERE tenant = $1 AND issuer = $2 AND ended_at IS NOT NULL AND error IS NULL ORDER BY started_at DESC LIMIT 1)`
		c := Count{Issuer: name}
		var ended *time.Time
		if err := r.config.Pool.QueryRow(ctx, count, r.config.Tenant, name).Scan(&c.Orphans, &c.Missing, &ended); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, unavailable("counting orphans", err)
		}
		if ended != nil {
			c.Succeeded = *ended
		}
		counts = append(counts, c)
	}
	return counts, nil
}
