package instance

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/secrets"
)

// openSecrets opens the static secrets and what rotates them.
func (i *Instance) openSecrets(base *Base) (err error) {
	if i.secrets, err = secrets.New(secrets.Config{
		Pool: base.Pool, Audit: base.Recorder, Sealer: i.sealer, Installation: i.Installation, Tenant: Tenant,
		Now: i.store.Now, Hooks: i.config.SecretHooks, Logger: i.config.Logger,
	}); err != nil {
		return err
	}
	i.rotator, err = secrets.NewRotator(secrets.RotatorConfig{Store: i.secrets, Checkpoint: i.config.Checkpoint})
	return err
}

// secretMetrics are those of static secrets.
type secretMetrics struct {
	overdue prometheus.Gauge
	failing prometheus.Gauge
	oldest  prometheus.Gauge
	due     *prometheus.GaugeVec
}

// maxDueDates bounds how many secrets a metric names: those that are due first.
const maxDueDates = 1000

func newSecretMetrics(registry *prometheus.Registry) secretMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := secretMetrics{
		overdue: gauge("daypass_secrets_overdue", "Static secrets whose current version should have been replaced: worth an alert."),
		failing: gauge("daypass_secrets_rotation_failing", "Static secrets whose rotation failed last, or waits for a person: worth an alert."),
		oldest:  gauge("daypass_secrets_oldest_version_age_seconds", "Age of the oldest value of a static secret that is current."),
		due: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "daypass_secret_due_timestamp_seconds", Help: "When a static secret is due to be replaced; of the 1,000 that are due first.",
		}, []string{"secret"}),
	}
	registry.MustRegister(m.overdue, m.failing, m.oldest, m.due)
	return m
}

func (i *Instance) countSecrets(ctx context.Context) error {
	f, err := i.secrets.Freshness(ctx, maxDueDates)
	if err != nil {
		return err
	}
	m := i.metrics.secrets
	m.overdue.Set(float64(f.Overdue))
	m.failing.Set(float64(f.Failing))
	m.oldest.Set(f.Oldest.Seconds())
	m.due.Reset()
	for _, d := range f.Due {
		m.due.WithLabelValues(d.Name).Set(float64(d.At.UnixMilli()) / float64(time.Second/time.Millisecond))
	}
	return nil
}
