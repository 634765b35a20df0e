package instance

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

// ringMetrics are those of the keys that sign.
type ringMetrics struct {
	now      func() time.Time
	age      prometheus.Gauge
	next     prometheus.Gauge
	read     prometheus.Gauge
	failing  prometheus.Gauge
	unopened prometheus.Gauge
	keys     *prometheus.GaugeVec
}

func newRingMetrics(registry *prometheus.Registry, now func() time.Time) *ringMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &ringMetrics{
		now:      now,
		age:      gauge("daypass_signing_key_age_seconds", "How long the signing key has signed; NaN: no key signs."),
		next:     gauge("daypass_signing_key_rotation_timestamp_seconds", "When the next key begins to sign; 0: no schedule. Worth an alert when it lies behind."),
		read:     gauge("daypass_signing_keys_read_timestamp_seconds", "When this broker last read the signing keys: after ten minutes it signs nothing."),
		failing:  gauge("daypass_signing_key_rotation_failing", "1 while a step of the signing keys fails: worth an alert."),
		unopened: gauge("daypass_signing_keys_unopened", "Signing keys in use that this broker can't open, and that its JWKS lacks: worth an alert."),
		keys:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_signing_keys", Help: "Signing keys that have not ended, by state."}, []string{"state"}),
	}
	registry.MustRegister(m.age, m.next, m.read, m.failing, m.unopened, m.keys)
	return m
}

// Ring implements keyring.Observer.
func (m *ringMetrics) Ring(h keyring.Health) {
	m.age.Set(m.now().Sub(h.SigningSince).Seconds())
	if h.SigningSince.IsZero() {
		m.age.Set(math.NaN())
	}
	m.next.Set(0)
	if !h.NextRotation.IsZero() {
		m.next.Set(float64(h.NextRotation.Unix()))
	}
	m.read.Set(float64(h.Read.UnixMilli()) / 1000)
	m.failing.Set(oneIf(h.Failing != nil))
	m.unopened.Set(float64(len(h.Unopened)))
	for _, state := range []keyring.State{keyring.Making, keyring.Published, keyring.Signing, keyring.Retiring} {
		m.keys.WithLabelValues(string(state)).Set(float64(h.Keys[state]))
	}
}

// OpenRing opens the keys that sign for a command: no broker runs beside it, and
// nothing is rotated by itself. What it returns beside the ring is to be called
// when the command is done.
func (b *Base) OpenRing(ctx context.Context, signing Signing, now func() time.Time) (*keyring.Ring, func(), error) {
	store, err := leases.Open(ctx, leases.Config{
		Pool: b.Pool, Audit: b.Recorder, Handles: b.Root.RowSealer(), Claims: b.Root.Hasher(keys.SessionClaims), Installation: b.Installation, Tenant: Tenant, Now: now,
	})
	if err != nil {
		return nil, nil, err
	}
	ring, err := keyring.Open(ctx, keyring.Config{
		Pool: b.Pool, Leases: store, Audit: b.Recorder, Tenant: Tenant, Store: signing.Store, Pair: signing.Pair, Create: signing.Create, RotateEvery: signing.RotateEvery, Now: now, Repair: true,
	})
	if err != nil {
		store.Close()
		return nil, nil, fmt.Errorf("keys.signing: %w", err)
	}
	return ring, store.Close, nil
}
