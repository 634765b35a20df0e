package sequencer_test

import (
	"testing"
	"time"
)

// BenchmarkSequencer numbers 100,000 events that are there, and then looks again at those of
// the last seconds, as each run does.
//
//	go test -run '^$' -bench Sequencer -benchtime 1x ./broker/audit/sequencer
func BenchmarkSequencer(b *testing.B) {
	w := newWorld(b)
	s := w.sequencer(nil)
	w.settle(s)
	const events = 100_000
	for b.Loop() {
		b.StopTimer()
		for range events / 5000 {
			w.write(5000)
		}
		w.exec(`ANALYZE audit_events`)
		b.StartTimer()
		began := time.Now()
		placed := 0
		for placed < events {
			placed += w.run(s).Events
		}
		b.ReportMetric(float64(placed)/time.Since(began).Seconds(), "events/s")
		began = time.Now()
		w.run(s)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-again")
	}
}
