package instance

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of what runs beside the requests.
type metrics struct {
	revoked      *prometheus.CounterVec
	lag          *prometheus.HistogramVec
	failed       *prometheus.CounterVec
	overdue      *prometheus.GaugeVec
	stuck        *prometheus.GaugeVec
	degradedness *prometheus.GaugeVec
	reused       *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) *metrics {
	issuer := []string{"issuer"}
	m := &metrics{
		revoked: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_revocations_total", Help: "Credentials taken back."}, issuer),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "daypass_revocation_lag_seconds", Help: "How long after its end a credential was taken back.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 18),
		}, issuer),
		failed:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_revocation_failures_total", Help: "Tries to take a credential back that failed; each is tried again."}, issuer),
		overdue:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_leases_overdue", Help: "Leases that should have been taken back and were not yet, those of issuers that are no longer configured included."}, issuer),
		stuck:        prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_leases_stuck", Help: "Leases whose revocation waits for a person: worth an alert."}, issuer),
		degradedness: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_issuer_degraded", Help: "1 where the last try of the target failed."}, issuer),
		reused:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_jti_reused_total", Help: "Job tokens that were refused because another one had their jti: worth an alert."}, []string{"provider"}),
	}
	registry.MustRegister(m.revoked, m.lag, m.failed, m.overdue, m.stuck, m.degradedness, m.reused)
	return m
}

// Revoked implements revoker.Observer.
func (m *metrics) Revoked(issuer string, lag time.Duration) {
	m.revoked.WithLabelValues(issuer).Inc()
	m.lag.WithLabelValues(issuer).Observe(lag.Seconds())
}

// Failed implements revoker.Observer.
func (m *metrics) Failed(issuer string, _ bool) { m.failed.WithLabelValues(issuer).Inc() }

func (m *metrics) reusedJTI(provider string) { m.reused.WithLabelValues(provider).Inc() }

func (m *metrics) degraded(issuer string, is bool) {
	value := 0.0
	if is {
		value = 1
	}
	m.degradedness.WithLabelValues(issuer).Set(value)
}

const (
	overdueInterval = 15 * time.Second
	overdueGrace    = 30 * time.Second
)

// watchOverdue counts what should have been taken back, also of issuers that
// are configured no longer: nobody else would speak of those.
func (i *Instance) watchOverdue(ctx context.Context) {
	tick := time.NewTicker(overdueInterval)
	defer tick.Stop()
	for {
		if err := i.countOverdue(ctx); err != nil && ctx.Err() == nil {
			i.config.Logger.WarnContext(ctx, "overdue leases could not be counted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (i *Instance) countOverdue(ctx context.Context) error {
	counts, err := i.store.OverdueBefore(ctx, i.store.Now().Add(-overdueGrace))
	if err != nil {
		return err
	}
	i.metrics.overdue.Reset()
	i.metrics.stuck.Reset()
	for name := range i.issuers {
		i.metrics.overdue.WithLabelValues(name).Set(0)
		i.metrics.stuck.WithLabelValues(name).Set(0)
	}
	for _, c := range counts {
		i.metrics.overdue.WithLabelValues(c.Issuer).Set(float64(c.Overdue))
		i.metrics.stuck.WithLabelValues(c.Issuer).Set(float64(c.Stuck))
		if _, configured := i.issuers[c.Issuer]; !configured && c.Overdue > 0 {
			i.config.Logger.ErrorContext(ctx, "leases of an issuer that is no longer configured can't be taken back (hint: configure it again until they are)", "issuer", c.Issuer, "leases", c.Overdue)
		}
	}
	if degraded, err := i.broker.Degraded(ctx); err == nil {
		for name, failure := range degraded {
			i.metrics.degraded(name, failure != "")
		}
	}
	return nil
}
