package broker_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
)

// BenchmarkBytes is what an exchange leaves in the broker's database and in its
// log, from the request to the lease's end: `go test ./broker -run xxx -bench Bytes
// -benchtime 3000x`. The figures that docs/scaling.md sizes with come from here.
func BenchmarkBytes(b *testing.B) {
	for _, grant := range []string{"payments/sign", "payments/deploy-db"} {
		for _, clients := range []int{1, 32} {
			b.Run(grant+map[int]string{1: " 1 client", 32: " 32 clients"}[clients], func(b *testing.B) {
				measureBytes(b, grant, clients)
			})
		}
	}
}

func measureBytes(b *testing.B, grant string, clients int) {
	server, err := devkit.StartPostgres(b.Context(), devkit.PostgresConfig{
		Ephemeral: true, Settings: map[string]string{"synchronous_commit": "on", "full_page_writes": "on", "max_wal_size": "4GB"},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Stop(b.Context()); err != nil {
			b.Error(err)
		}
	})
	if err := server.CreateDatabase(b.Context(), "daypass"); err != nil {
		b.Fatal(err)
	}
	broker := brokertest.New(b, brokertest.Options{Database: server.DSN("daypass")})
	work := func(n int) {
		var left atomic.Int64
		left.Store(int64(n))
		var running sync.WaitGroup
		for range clients {
			running.Go(func() {
				for left.Add(-1) >= 0 {
					a := broker.Do(http.MethodPost, api.PathExchange, broker.Job(), map[string]any{"grants": []map[string]string{{"name": grant, "ttl": "5s"}}})
					if a.Status != http.StatusOK {
						b.Errorf("%d %s", a.Status, a.Body)
						return
					}
				}
			})
		}
		running.Wait()
		patiently(b, "all have ended", func() bool { return broker.Count(`SELECT count(*) FROM leases WHERE due_at IS NOT NULL`) == 0 })
	}
	// The first pages and their images in the log belong to nobody.
	const first = 100
	work(first)
	const size = `SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind = 'r'`
	const log = `SELECT pg_current_wal_insert_lsn() - '0/0'`
	before, logged := broker.Count(size), broker.Count(log)
	b.ResetTimer()
	work(b.N)
	b.StopTimer()
	b.ReportMetric(float64(broker.Count(size)-before)/float64(b.N), "table-bytes/op")
	b.ReportMetric(float64(broker.Count(log)-logged)/float64(b.N), "log-bytes/op")
}
