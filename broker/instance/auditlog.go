package instance

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/httpapi"
)

// openAudit opens what numbers the audit log's events and signs it.
func (i *Instance) openAudit(base *Base, registry *prometheus.Registry) (err error) {
	m := newAuditMetrics(registry)
	i.audit, err = sequencer.New(sequencer.Config{
		Pool: base.Pool, Audit: base.Recorder, Installation: i.Installation, Key: i.config.AuditKey, CheckpointFile: i.config.CheckpointFile,
		Logger: i.config.Logger, Observe: m, Now: i.config.Now,
	})
	return err
}

// AuditLog is what numbers the audit log's events.
func (i *Instance) AuditLog() *sequencer.Sequencer { return i.audit }

// auditCheck remembers for a moment what the log's health is: /readyz is open to anybody.
type auditCheck struct {
	mu    sync.Mutex
	until time.Time
	err   error
}

const auditCheckLife = time.Second

func (i *Instance) auditReady(ctx context.Context, r *httpapi.Readiness) {
	c := &i.auditing
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := i.config.Now(); !now.Before(c.until) {
		c.err, c.until = i.audit.Health(ctx), now.Add(auditCheckLife)
	}
	r.Checks["audit"] = i.audit.Status()
	if c.err != nil {
		i.config.Logger.WarnContext(ctx, "the broker is not ready", "error", c.err)
		r.Ready, r.Checks["audit"] = false, "events wait for their place in the audit log, or it can't be read"
	}
}

// auditMetrics are those of the audit log.
type auditMetrics struct {
	events  prometheus.Counter
	forged  prometheus.Counter
	lag     prometheus.Gauge
	size    prometheus.Gauge
	failing *prometheus.GaugeVec
}

func newAuditMetrics(registry *prometheus.Registry) *auditMetrics {
	m := &auditMetrics{
		events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "daypass_audit_events_numbered_total", Help: "Events that this broker gave their place in the audit log."}),
		forged:  prometheus.NewCounter(prometheus.CounterOpts{Name: "daypass_audit_events_forged_total", Help: "Events that no broker of this installation wrote as they are: worth an alert."}),
		lag:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_audit_lag_seconds", Help: "Age of the oldest event without a place in the audit log when it was last looked at: over 5 s worth an alert."}),
		size:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_audit_signed_size", Help: "How many events the last checkpoint covers that this broker signed."}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_audit_failing", Help: "1 where checkpoints can't be signed, not be written to their file, or the log isn't the one that was signed: worth an alert."}, []string{"what"}),
	}
	for _, what := range []string{sequencer.FailingSignature, sequencer.FailingFile, sequencer.FailingLog} {
		m.Failing(what, false)
	}
	registry.MustRegister(m.events, m.forged, m.lag, m.size, m.failing)
	return m
}

// Sequenced implements sequencer.Observer.
func (m *auditMetrics) Sequenced(events int) { m.events.Add(float64(events)) }

// Forged implements sequencer.Observer.
func (m *auditMetrics) Forged(events int) { m.forged.Add(float64(events)) }

// Lag implements sequencer.Observer.
func (m *auditMetrics) Lag(age time.Duration) { m.lag.Set(age.Seconds()) }

// Signed implements sequencer.Observer.
func (m *auditMetrics) Signed(size int64) { m.size.Set(float64(size)) }

// Failing implements sequencer.Observer.
func (m *auditMetrics) Failing(what string, failing bool) {
	m.failing.WithLabelValues(what).Set(oneIf(failing))
}
