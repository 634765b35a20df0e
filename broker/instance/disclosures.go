package instance

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/prints"
	"github.com/daypass/daypass/broker/retention"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/catalogue"
)

// Redaction is what is masked in logs beside what policies say, and how much of them
// may be sent here. Zero values have defaults, unless they say otherwise.
type Redaction struct {
	Rules      []leases.Rule // of the configuration; none when empty
	Streams    httpapi.Streams
	AtOnce     int // streams
	Requests   int // that one caller may begin a minute; 0: any number
	MaxAnchors int
	Reporters  httpapi.Reporters // who else may report leaks; nobody
}

const (
	defaultStreamBytes = 1 << 30
	defaultStreamTime  = time.Hour
	defaultStreamIdle  = 2 * time.Minute
)

func (r *Redaction) streams() httpapi.Streams {
	return httpapi.Streams{
		MaxBytes: cmp.Or(r.Streams.MaxBytes, defaultStreamBytes), MaxTime: cmp.Or(r.Streams.MaxTime, defaultStreamTime),
		Idle: cmp.Or(r.Streams.Idle, defaultStreamIdle),
	}
}

// patterns are those of the configuration that have not ended.
func (r *Redaction) patterns(now time.Time) []string {
	var list []string
	for i := range r.Rules {
		if until := r.Rules[i].Until; until == nil || now.Before(*until) {
			list = append(list, r.Rules[i].Pattern)
		}
	}
	return list
}

func (i *Instance) openDisclosures(base *Base, registry *prometheus.Registry) (err error) {
	c := &i.config.Redaction
	i.disclosures, err = disclosures.New(disclosures.Config{
		Pool: base.Pool, Store: i.store, Admins: i.Tokens, Audit: base.Recorder, Prints: prints.New(base.Root), SessionTokens: base.Root.Hasher(keys.SessionTokens),
		Tenant: Tenant, Now: i.config.Now, Notify: i.wake, Run: runOf(i.config.Providers), Logger: i.config.Logger, Observe: newDisclosureMetrics(registry),
		MaxAnchors: c.MaxAnchors, Requests: c.Requests, Streams: c.AtOnce,
	})
	if err != nil {
		return err
	}
	i.fleet.Subscribe(disclosures.Topic, func(string) { i.disclosures.Wake() })
	return nil
}

func (i *Instance) keepRules(ctx context.Context) { i.disclosures.KeepRules(ctx, i.rules()) }

func (i *Instance) rules() disclosures.RulesConfig {
	return disclosures.RulesConfig{
		Policies: func() *policies.Set { return i.reloads.Set() }, Server: i.config.Redaction.Rules, Keep: cmp.Or(i.config.Retention.Prints, retention.DefaultPrints),
		Announce: func() { i.fleet.Notify(disclosures.Topic, "") },
	}
}

// KeepRules puts the redaction rules in force on record now.
func (i *Instance) KeepRules(ctx context.Context) error {
	return i.disclosures.KeepRulesOnce(ctx, i.rules())
}

// runOf says where a session's provider shows its job.
func runOf(providers []oidc.Provider) func(*leases.Session) string {
	types := map[string]*catalogue.Provider{}
	for _, p := range providers {
		if known, ok := catalogue.Lookup(p.Type); ok {
			types[p.Name] = known
		}
	}
	return func(session *leases.Session) string {
		provider, known := types[session.Provider]
		if !known {
			return ""
		}
		var claims map[string]any
		if json.Unmarshal(session.Claims, &claims) != nil {
			return ""
		}
		return provider.Run(session.Issuer, claims)
	}
}

// disclosureMetrics implement disclosures.Observer.
type disclosureMetrics struct {
	found     *prometheus.CounterVec
	takenBack *prometheus.CounterVec
	anchors   prometheus.Gauge
	running   prometheus.Gauge
}

func newDisclosureMetrics(registry *prometheus.Registry) *disclosureMetrics {
	m := &disclosureMetrics{
		found: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "daypass_leaks_found_total", Help: "Secrets found where they don't belong, each once for each place: those that were live are worth an alert.",
		}, []string{"kind", "live"}),
		takenBack: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_leaks_revoked_total", Help: "Credentials that were taken back because they were found."}, []string{"kind"}),
		anchors:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_leak_anchors", Help: "Values without a shape of their own that this broker can find at the moment; 0: nobody asked lately."}),
		running:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_redaction_streams", Help: "Streams that are masked or searched at the moment."}),
	}
	for _, kind := range []string{disclosures.KindLease, disclosures.KindSessionToken, disclosures.KindAdminToken} {
		m.found.WithLabelValues(kind, "true")
		m.found.WithLabelValues(kind, "false")
		m.takenBack.WithLabelValues(kind)
	}
	registry.MustRegister(m.found, m.takenBack, m.anchors, m.running)
	return m
}

// Found implements disclosures.Observer.
func (m *disclosureMetrics) Found(kind string, live bool) {
	text := "false"
	if live {
		text = "true"
	}
	m.found.WithLabelValues(kind, text).Inc()
}

// TakenBack implements disclosures.Observer.
func (m *disclosureMetrics) TakenBack(kind string) { m.takenBack.WithLabelValues(kind).Inc() }

// Anchors implements disclosures.Observer.
func (m *disclosureMetrics) Anchors(n int) { m.anchors.Set(float64(n)) }

// Running implements disclosures.Observer.
func (m *disclosureMetrics) Running(n int) { m.running.Set(float64(n)) }

// Disclose has those who watch the redaction rules looked after now, rather than
// with the next beat.
func (i *Instance) Disclose() { i.disclosures.Wake() }
