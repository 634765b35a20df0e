package instance

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/retention"
)

// Retention is how long what happened is kept; zero: see [retention.Config].
type Retention struct {
	Leases, Audit time.Duration
	Prints        time.Duration // and how long values are known again
	Archive       bool
}

func (i *Instance) openKeeper(registry *prometheus.Registry) (err error) {
	c := i.config.Retention
	i.keeper, err = retention.New(retention.Config{
		Pool: i.pool, Now: i.store.Now, Leases: c.Leases, Audit: c.Audit, Prints: c.Prints, Archive: c.Archive, Observe: newRetentionMetrics(registry), Logger: i.config.Logger,
		Droppable: i.audit.Sequenced,
	})
	return err
}

// partitions is what /readyz says of the tables.
func (i *Instance) partitions(ctx context.Context) (string, bool) {
	if err := i.keeper.Health(ctx); err != nil {
		i.config.Logger.WarnContext(ctx, "the broker is not ready", "error", err)
		return "no partitions for the next two weeks", false
	}
	return "ok", true
}

// retentionMetrics implement retention.Observer.
type retentionMetrics struct {
	ahead    *prometheus.GaugeVec
	dropped  *prometheus.CounterVec
	deleted  *prometheus.CounterVec
	failures prometheus.Counter
}

func newRetentionMetrics(registry *prometheus.Registry) *retentionMetrics {
	table := []string{"table"}
	m := &retentionMetrics{
		ahead:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_partitions_ahead_weeks", Help: "For how many weeks from now on a table has partitions: below 2 is worth an alert."}, table),
		dropped:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_partitions_dropped_total", Help: "Partitions that were older than they are kept for, dropped or archived."}, table),
		deleted:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_retention_deleted_rows_total", Help: "Rows that went with what they belonged to."}, table),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "daypass_retention_failures_total", Help: "Steps of keeping the tables that failed; each is tried again."}),
	}
	registry.MustRegister(m.ahead, m.dropped, m.deleted, m.failures)
	return m
}

// PartitionsAhead implements retention.Observer.
func (m *retentionMetrics) PartitionsAhead(table string, weeks int) {
	m.ahead.WithLabelValues(table).Set(float64(weeks))
}

// Dropped implements retention.Observer.
func (m *retentionMetrics) Dropped(table string) { m.dropped.WithLabelValues(table).Inc() }

// Deleted implements retention.Observer.
func (m *retentionMetrics) Deleted(table string, rows int) {
	m.deleted.WithLabelValues(table).Add(float64(rows))
}

// RetentionFailed implements retention.Observer.
func (m *retentionMetrics) RetentionFailed() { m.failures.Inc() }
