package instance

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/sealing"
)

// sealingMetrics are those of the keys that seal.
type sealingMetrics struct {
	opened  *prometheus.CounterVec
	wrapped *prometheus.GaugeVec
}

func newSealingMetrics(registry *prometheus.Registry) *sealingMetrics {
	m := &sealingMetrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_data_keys_opened_total", Help: "Data keys that the HSM was asked to open."}, []string{"outcome"}),
		wrapped: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "daypass_wrapped_keys", Help: "Roots and data keys by what wraps them: the latest sealing key, a former one, or (worth an alert) one that isn't configured.",
		}, []string{"by"}),
	}
	registry.MustRegister(m.opened, m.wrapped)
	return m
}

// Opened implements sealing.Observer.
func (m *sealingMetrics) Opened(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.opened.WithLabelValues(outcome).Inc()
}

// Progress implements sealing.Observer.
func (m *sealingMetrics) Progress(p sealing.Progress) {
	m.wrapped.WithLabelValues("latest").Set(float64(p.Done))
	m.wrapped.WithLabelValues("former").Set(float64(p.Total - p.Done - p.Unreadable))
	m.wrapped.WithLabelValues("unknown").Set(float64(p.Unreadable))
}
