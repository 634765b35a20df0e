package instance

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/fleet"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/switches"
)

// lockConnections is how many locks of a session there can be at once beside those
// of the fleet: where a pooler is in between, that of making a signing key.
const lockConnections = 2

// topicDue says that leases of an issuer are due now.
const topicDue = "due"

// joinFleet finds out where the connection leads that what is done once in the
// fleet depends on, and prepares it.
func (i *Instance) joinFleet(ctx context.Context, registry *prometheus.Registry) (err error) {
	direct, setting := i.config.Direct, "database.direct_url"
	if direct == nil {
		direct, setting = i.config.Database.ConnConfig, "database.url"
	}
	if err := RequireDirect(ctx, direct, setting); err != nil {
		return err
	}
	if direct != i.config.Database.ConnConfig {
		locks := i.config.Database.Copy()
		locks.ConnConfig, locks.MaxConns = direct.Copy(), lockConnections
		if i.locks, err = pgxpool.NewWithConfig(ctx, locks); err != nil {
			return fmt.Errorf("opening database: %w", err)
		}
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	i.fleet, err = fleet.New(fleet.Config{
		Database: direct, Logger: i.config.Logger, Observe: newFleetMetrics(registry),
		Member: fleet.Member{ID: ids.New(ids.Broker, i.config.Now()), Host: host, Version: i.config.Version},
		Check: func(ctx context.Context, conn *pgx.Conn) error {
			id, err := installation.Check(ctx, conn)
			if err == nil && id != i.Installation {
				err = fmt.Errorf("%s leads to installation %s, and database.url to %s", setting, id, i.Installation)
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	i.fleet.Subscribe(topicDue, func(issuer string) {
		if issuer != "" {
			i.revoker.Notify(issuer)
			return
		}
		for name := range i.issuers {
			i.revoker.Notify(name)
		}
	})
	i.fleet.Subscribe(switches.Topic, func(string) { i.switches.Wake() })
	return nil
}

// RequireDirect refuses a database whose sessions aren't those of the server, by
// the name of the setting that says where it is.
func RequireDirect(ctx context.Context, database *pgx.ConnConfig, setting string) error {
	switch err := fleet.CheckDirect(ctx, database); {
	case errors.Is(err, fleet.ErrPooled):
		return fmt.Errorf("%s: %w, and locks and notices between brokers are lost in it (hint: set database.direct_url_file to the URL of the server itself; exchanges go on through database.url)", setting, err)
	case err != nil:
		return fmt.Errorf("reaching the broker's database by %s: %w", setting, err)
	}
	return nil
}

// openSwitches opens what an operator turned off.
func (i *Instance) openSwitches(ctx context.Context, base *Base, registry *prometheus.Registry) (err error) {
	i.switches, err = switches.Open(ctx, switches.Config{
		Pool: base.Pool, Leases: i.store, Audit: base.Recorder, Tenant: Tenant, Now: i.config.Now, Logger: i.config.Logger,
		Notify: i.wake, Observe: newSwitchMetrics(registry),
		Announce: func(batch *pgx.Batch) { fleet.NotifyIn(batch, switches.Topic, "") },
	})
	return err
}

// once runs what must run once in the fleet, on whichever broker is elected for
// it, until ctx ends. Two may run for a moment.
func (i *Instance) once(ctx context.Context, name string, run func(ctx context.Context)) {
	if err := i.fleet.Once(ctx, name, run); err != nil {
		i.config.Logger.ErrorContext(ctx, "something that is done once in the fleet isn't done by this broker", "error", err)
	}
}

// wake has the leases of an issuer that are due looked at now, by this broker and
// a moment later by the others.
func (i *Instance) wake(issuer string) {
	i.revoker.Notify(issuer)
	i.fleet.Notify(topicDue, issuer)
}

func (i *Instance) members(ctx context.Context) ([]fleet.Member, error) {
	return fleet.Members(ctx, i.pool)
}

// fleetMetrics are those of this broker's place in the fleet.
type fleetMetrics struct {
	connected prometheus.Gauge
	leads     *prometheus.GaugeVec
	notices   *prometheus.CounterVec
	gaps      *prometheus.CounterVec
}

func newFleetMetrics(registry *prometheus.Registry) *fleetMetrics {
	m := &fleetMetrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "daypass_fleet_connected", Help: "1 while this broker hears of the others, and can be elected."}),
		leads:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_fleet_leads", Help: "1 where this broker does what is done once in the fleet."}, []string{"task"}),
		notices:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_fleet_notices_total", Help: "Notices of other brokers."}, []string{"topic"}),
		gaps:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "daypass_fleet_gaps_total", Help: "Times that notices may have been lost, the start included; what they say is looked for then."}, []string{"topic"}),
	}
	registry.MustRegister(m.connected, m.leads, m.notices, m.gaps)
	return m
}

// Connected implements fleet.Observer.
func (m *fleetMetrics) Connected(connected bool) { m.connected.Set(oneIf(connected)) }

// Leads implements fleet.Observer.
func (m *fleetMetrics) Leads(task string, leads bool) {
	m.leads.WithLabelValues(task).Set(oneIf(leads))
}

// Noticed implements fleet.Observer.
func (m *fleetMetrics) Noticed(topic string, lost bool) {
	if lost {
		m.gaps.WithLabelValues(topic).Inc()
		return
	}
	m.notices.WithLabelValues(topic).Inc()
}

// switchMetrics tell what is off.
type switchMetrics struct{ off *prometheus.GaugeVec }

func newSwitchMetrics(registry *prometheus.Registry) *switchMetrics {
	m := &switchMetrics{off: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "daypass_switches_off", Help: "Providers, policies, grants and issuers that an operator turned off."}, []string{"kind"})}
	registry.MustRegister(m.off)
	return m
}

// Off implements switches.Observer.
func (m *switchMetrics) Off(kind switches.Kind, names int) {
	m.off.WithLabelValues(string(kind)).Set(float64(names))
}
