package broker

import (
	"context"
	"log/slog"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
)

// Limits keep one job, and one tenant, from taking what is everybody's. Whose
// job it is and which tokens are of one job, the catalogue of providers knows. 0:
// no limit.
type Limits struct {
	TenantRequests int // exchanges a minute with verified tokens, through this broker
	JobRequests    int // the same of one job
	TenantLeases   int // live at once, through all brokers
	JobLeases      int // the same of one job
}

// The limits on requests, by their names in the configuration.
const (
	LimitTenantRequests = "tenant_requests"
	LimitJobRequests    = "job_requests"
)

// rates count exchanges. The narrower one comes first: what a job asks beyond
// its own limit costs its tenant nothing.
type rates struct{ job, tenant *limit.Rate }

func (r *rates) take(a *asking) error {
	if wait := r.job.Take(string(a.job)); wait > 0 {
		return &limit.Error{Limit: LimitJobRequests, After: wait}
	}
	if wait := r.tenant.Take(string(a.whose)); wait > 0 {
		return &limit.Error{Limit: LimitTenantRequests, After: wait}
	}
	return nil
}

// reportsPerMinute bounds, for each tenant, what stands in log and audit log of
// job tokens that came with the jti of another: at some providers whoever writes
// a job shapes its tokens. The metric counts all of them.
const reportsPerMinute = 5

// reusedJTI raises that a job token came with the jti of another: either its
// provider makes a mistake, or somebody shapes tokens.
func (b *Broker) reusedJTI(ctx context.Context, r *leases.Reservation) {
	b.config.Observe.ReusedJTI(r.Session.Provider)
	if b.reports.Take(string(r.Whose)) > 0 {
		return
	}
	b.config.Logger.LogAttrs(ctx, slog.LevelWarn, "a job token came with the jti of another one and was refused",
		slog.String("provider", r.Session.Provider), slog.String("subject", r.Session.Subject), slog.String("event_subject", r.Session.ID))
	if err := b.config.Store.RecordReusedJTI(ctx, &r.Session, r.Now); err != nil {
		b.config.Logger.ErrorContext(ctx, "a reused jti could not be put on record", "error", err)
	}
}
