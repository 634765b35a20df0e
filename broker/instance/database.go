package instance

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/leases"
)

// watchDatabase shows how the pool does, and the clocks.
func watchDatabase(registry *prometheus.Registry, pool *pgxpool.Pool, store *leases.Store) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	const connections, about = "daypass_database_connections", "Connections to the broker's database: in use, idle, and the most that there may be."
	gauge(connections, about, prometheus.Labels{"state": "used"}, func() float64 { return float64(pool.Stat().AcquiredConns()) })
	gauge(connections, about, prometheus.Labels{"state": "idle"}, func() float64 { return float64(pool.Stat().IdleConns()) })
	gauge(connections, about, prometheus.Labels{"state": "max"}, func() float64 { return float64(pool.Stat().MaxConns()) })
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "daypass_database_waits_total", Help: "How often somebody had to wait for a connection to the broker's database, or for one to be made.",
	}, func() float64 { return float64(pool.Stat().EmptyAcquireCount()) }))
	gauge("daypass_clock_offset_seconds", "The database's clock minus the broker's.", nil, func() float64 { return store.ClockOffset().Seconds() })
	gauge("daypass_clock_wrong", "1 while nothing is issued or renewed because of a clock.", nil, func() float64 {
		if store.CheckClock() != nil {
			return 1
		}
		return 0
	})
}
