package instance

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/issuers"
)

// Reconcile says how targets are compared with the leases.
type Reconcile struct {
	Every       time.Duration // zero: when an operator asks, and no more
	Grace       time.Duration // zero: reconciler's default
	DryRunFirst bool          // the schedule takes nothing back before an operator did
}

// openReconciler takes in each issuer that makes something outside.
func (i *Instance) openReconciler(base *Base, observe *reconcileMetrics) (err error) {
	i.metrics.reconcile = observe
	targets := map[string]reconciler.Target{}
	for name, issuer := range i.issuers {
		if _, lists := issuer.Issuer.(issuers.Lister); lists || issuer.HasTarget() {
			targets[name] = reconciler.Target{Issuer: issuer.Issuer, Address: issuer.Target}
		}
	}
	c := i.config.Reconcile
	i.targets, err = reconciler.New(reconciler.Config{
		Pool: base.Pool, Store: i.store, Audit: base.Recorder, Targets: targets, Installation: i.Installation, Tenant: Tenant,
		Every: c.Every, Grace: c.Grace, DryRunFirst: c.DryRunFirst, Epoch: func() int64 { return base.Identity.Epoch }, Logger: i.config.Logger, Observe: observe,
	})
	return err
}

// reconcileMetrics are those of the comparison of targets with the leases.
type reconcileMetrics struct {
	orphans   *prometheus.GaugeVec
	missing   *prometheus.GaugeVec
	succeeded *prometheus.GaugeVec
	revoked   *prometheus.CounterVec
	failures  *prometheus.CounterVec
}

func newReconcileMetrics(registry *prometheus.Registry) *reconcileMetrics {
	issuer := []string{"issuer"}
	m := &reconcileMetrics{
		orphans:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_orphans", Help: "Credentials on the target that no live lease knows, when it was last listed: worth an alert."}, issuer),
		missing:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_leases_missing", Help: "Live leases whose credential was not on the target when it was last listed: worth an alert."}, issuer),
		succeeded: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_reconcile_last_success_timestamp_seconds", Help: "When the target was last compared with the leases, to the end."}, issuer),
		revoked:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_orphans_revoked_total", Help: "Credentials that no live lease knew and that were taken back."}, issuer),
		failures:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_reconcile_failures_total", Help: "Comparisons of a target with the leases that ended with an error."}, issuer),
	}
	registry.MustRegister(m.orphans, m.missing, m.succeeded, m.revoked, m.failures)
	return m
}

// OrphanRevoked implements reconciler.Observer.
func (m *reconcileMetrics) OrphanRevoked(issuer string) { m.revoked.WithLabelValues(issuer).Inc() }

// ReconcileFailed implements reconciler.Observer.
func (m *reconcileMetrics) ReconcileFailed(issuer string) { m.failures.WithLabelValues(issuer).Inc() }

// countOrphans reads what any broker of the fleet found.
func (i *Instance) countOrphans(ctx context.Context) error {
	counts, err := i.targets.Counts(ctx)
	if err != nil {
		return err
	}
	for _, c := range counts {
		i.metrics.reconcile.orphans.WithLabelValues(c.Issuer).Set(float64(c.Orphans))
		i.metrics.reconcile.missing.WithLabelValues(c.Issuer).Set(float64(c.Missing))
		if !c.Succeeded.IsZero() {
			i.metrics.reconcile.succeeded.WithLabelValues(c.Issuer).Set(float64(c.Succeeded.UnixMilli()) / 1000)
		}
	}
	return nil
}
