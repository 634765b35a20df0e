package instance

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/leases"
)

// metrics of what runs beside the requests.
type metrics struct {
	revoked      *prometheus.CounterVec
	lag          *prometheus.HistogramVec
	failed       *prometheus.CounterVec
	overdue      *prometheus.GaugeVec
	stuck        *prometheus.GaugeVec
	oldest       *prometheus.GaugeVec
	shown        map[string]leases.Overdue // the issuers of overdue, stuck and oldest
	degradedness *prometheus.GaugeVec
	reused       *prometheus.CounterVec
	policies     policyMetrics
	secrets      secretMetrics
	reconcile    *reconcileMetrics
}

// policyMetrics are those of the policies and what they refuse.
type policyMetrics struct {
	info            *prometheus.GaugeVec
	loaded          prometheus.Gauge
	failed          prometheus.Gauge
	failures        prometheus.Counter
	pending         prometheus.Gauge
	noLongerAllowed prometheus.Gauge
	denied          *prometheus.CounterVec
	dropped         prometheus.Counter
	conflicts       prometheus.Counter
}

func newPolicyMetrics(registry *prometheus.Registry) policyMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := policyMetrics{
		info:            prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_policies_info", Help: "1, with the digest of the set of policies in force."}, []string{"digest"}),
		loaded:          gauge("daypass_policies_loaded_timestamp_seconds", "When the set of policies came into force."),
		failed:          gauge("daypass_policies_reload_failed", "1 while what the policy folder holds does not load: worth an alert."),
		failures:        counter("daypass_policies_reload_failures_total", "Reloads that failed."),
		pending:         gauge("daypass_policies_pending", "1 while a set of policies waits for an operator's confirmation."),
		noLongerAllowed: gauge("daypass_leases_no_longer_allowed", "Live leases that the set of policies in force did not allow when it was loaded."),
		denied:          prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_denials_total", Help: "Requests that the policies refused, by whose they were."}, []string{"whose"}),
		dropped:         counter("daypass_denials_dropped_total", "Denials of own jobs that were not kept: too many at once, or the database was away."),
		conflicts:       counter("daypass_identity_conflicts_total", "Tokens with one half of a name and an id: renamed, or taken over."),
	}
	registry.MustRegister(m.info, m.loaded, m.failed, m.failures, m.pending, m.noLongerAllowed, m.denied, m.dropped, m.conflicts)
	return m
}

// Loaded implements reloader.Observer.
func (m *metrics) Loaded(digest string, at time.Time) {
	m.policies.info.Reset()
	m.policies.info.WithLabelValues(digest).Set(1)
	m.policies.loaded.Set(float64(at.UnixMilli()) / 1000)
}

// ReloadFailed implements reloader.Observer.
func (m *metrics) ReloadFailed(failed bool) {
	m.policies.failed.Set(oneIf(failed))
	if failed {
		m.policies.failures.Inc()
	}
}

// Pending implements reloader.Observer.
func (m *metrics) Pending(waits bool) { m.policies.pending.Set(oneIf(waits)) }

// NoLongerAllowed implements reloader.Observer.
func (m *metrics) NoLongerAllowed(leases int) { m.policies.noLongerAllowed.Set(float64(leases)) }

// Denied implements broker.Observer.
func (m *metrics) Denied(ours bool) {
	whose := "other"
	if ours {
		whose = "own"
	}
	m.policies.denied.WithLabelValues(whose).Inc()
}

// DenialDropped implements broker.Observer.
func (m *metrics) DenialDropped() { m.policies.dropped.Inc() }

// Conflict implements broker.Observer.
func (m *metrics) Conflict() { m.policies.conflicts.Inc() }

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
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
		oldest:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_leases_overdue_oldest_seconds", Help: "How long ago the oldest overdue lease should have been taken back."}, issuer),
		degradedness: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_issuer_degraded", Help: "1 where the last try of the target failed."}, issuer),
		reused:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_jti_reused_total", Help: "Job tokens that were refused because another one had their jti: worth an alert."}, []string{"provider"}),
	}
	m.policies, m.secrets = newPolicyMetrics(registry), newSecretMetrics(registry)
	registry.MustRegister(m.revoked, m.lag, m.failed, m.overdue, m.stuck, m.oldest, m.degradedness, m.reused)
	return m
}

// Revoked implements revoker.Observer.
func (m *metrics) Revoked(issuer string, lag time.Duration) {
	m.revoked.WithLabelValues(issuer).Inc()
	m.lag.WithLabelValues(issuer).Observe(lag.Seconds())
}

// Failed implements revoker.Observer.
func (m *metrics) Failed(issuer string, _ bool) { m.failed.WithLabelValues(issuer).Inc() }

// ReusedJTI implements broker.Observer.
func (m *metrics) ReusedJTI(provider string) { m.reused.WithLabelValues(provider).Inc() }

// late shows what was found, by issuer. It takes away what is gone and nothing
// else: who reads between two counts must not find a series missing.
func (m *metrics) late(found map[string]leases.Overdue, now time.Time) {
	for name, o := range found {
		var oldest time.Duration
		if o.Since != nil {
			oldest = max(0, now.Sub(*o.Since))
		}
		m.overdue.WithLabelValues(name).Set(float64(o.Overdue))
		m.stuck.WithLabelValues(name).Set(float64(o.Stuck))
		m.oldest.WithLabelValues(name).Set(oldest.Seconds())
	}
	for name := range m.shown {
		if _, still := found[name]; !still {
			m.overdue.DeleteLabelValues(name)
			m.stuck.DeleteLabelValues(name)
			m.oldest.DeleteLabelValues(name)
		}
	}
	m.shown = found
}

func (m *metrics) degraded(issuer string, is bool) {
	m.degradedness.WithLabelValues(issuer).Set(oneIf(is))
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
		if err := i.countSecrets(ctx); err != nil && ctx.Err() == nil {
			i.config.Logger.WarnContext(ctx, "static secrets could not be counted", "error", err)
		}
		if err := i.countOrphans(ctx); err != nil && ctx.Err() == nil {
			i.config.Logger.WarnContext(ctx, "orphans could not be counted", "error", err)
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
	found := map[string]leases.Overdue{}
	for name := range i.issuers {
		found[name] = leases.Overdue{}
	}
	for _, c := range counts {
		found[c.Issuer] = c
		if _, configured := i.issuers[c.Issuer]; !configured && c.Overdue > 0 {
			i.config.Logger.ErrorContext(ctx, "leases of an issuer that is no longer configured can't be taken back (hint: configure it again until they are)", "issuer", c.Issuer, "leases", c.Overdue)
		}
	}
	i.metrics.late(found, i.store.Now())
	if degraded, err := i.broker.Degraded(ctx); err == nil {
		for name, failure := range degraded {
			i.metrics.degraded(name, failure != "")
		}
	}
	return nil
}
