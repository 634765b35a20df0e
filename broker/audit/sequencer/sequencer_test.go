package sequencer_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/audit"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/ids"
)

func TestEventsGetNumbers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(nil)
	w.write(3)
	w.write(700) // nodes above the leaves
	note := w.sign(s)
	c, key, err := auditlog.Open(note, []*auditlog.Key{w.key})
	if err != nil || key == nil || c.Size != 704 { // and the event of the key
		t.Fatalf("%v of %v: %v", c, key, err)
	}
	report := w.verified(s)
	if report.Size != 704 || report.Signed != 704 || report.SelfConsistent() || report.Root != c.Root || report.Checkpoints < 1 || report.Dropped != 0 {
		t.Errorf("%+v", report)
	}
	if strings.Count(w.log.String(), `"msg":"audit checkpoint"`) != report.Checkpoints {
		t.Errorf("%d checkpoints, and the log says:\n%s", report.Checkpoints, w.log)
	}
	// From the middle, and in parts.
	report, err = auditlog.VerifyBytes(w.export(s, 301), auditlog.Proof{Keys: []*auditlog.Key{w.key}, Against: []string{note}})
	if err != nil || report.From != 301 || report.Signed != 704 || report.Compared != 1 {
		t.Errorf("%+v: %v", report, err)
	}
	if again := w.run(s); again.Events != 0 || again.Checkpoint {
		t.Errorf("with nothing new: %+v", again)
	}
}

// TestOutOfOrder: transactions begin, wait and commit in any order, some long after
// others that are younger, some never, while two brokers number events at once.
// Every committed event has one number at the end, none is skipped or doubled, and
// what was signed on the way is what the log begins with.
func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fleet := []*sequencer.Sequencer{
		w.sequencer(func(c *sequencer.Config) { c.Batch = 7 }), w.sequencer(func(c *sequencer.Config) { c.Batch = 50 }),
	}
	w.write(20)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, s := range fleet {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.RunOnce(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	committed := map[string]bool{}
	rapid.Check(t, func(r *rapid.T) { w.outOfOrder(r, committed) })
	close(stop)
	running.Wait()
	w.settle(fleet[0])
	note := w.sign(fleet[0])
	var numbered, distinct, size int
	if err := w.pool.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT event_id), max(seq) + 1 FROM audit_log`).Scan(&numbered, &distinct, &size); err != nil {
		t.Fatal(err)
	}
	if want := len(committed) + 20 + 1; numbered != want || distinct != want || size != want {
		t.Errorf("%d numbers of %d events, up to %d: want %d", numbered, distinct, size, want)
	}
	if report := w.verified(fleet[0]); report.Signed != int64(size) {
		t.Errorf("%+v after %s", report, note)
	}
	for _, s := range fleet[:1] { // and a look at each event finds none without a number
		if all, err := s.Sequenced(t.Context(), ids.New(ids.Event, time.Now())); err != nil || !all {
			t.Errorf("%v %v", all, err)
		}
	}
}

// outOfOrder opens some transactions and ends them in another order.
func (w *world) outOfOrder(r *rapid.T, committed map[string]bool) {
	type open struct {
		tx     pgx.Tx
		events []audit.Event
	}
	var all []open
	for range rapid.IntRange(1, 5).Draw(r, "transactions") {
		// An id may be older than its transaction: requests wait, and clocks differ.
		w.age.Store(int64(time.Duration(rapid.SampledFrom([]int{0, 0, 1, 900, 3000}).Draw(r, "age ms")) * time.Millisecond))
		tx, err := w.pool.Begin(w.t.Context())
		if err != nil {
			r.Fatal(err)
		}
		events := w.events(ids.New(ids.Lease, time.Now()), rapid.IntRange(1, 4).Draw(r, "events"))
		w.insert(tx, events)
		all = append(all, open{tx, events})
		if rapid.Bool().Draw(r, "one between") {
			for _, e := range w.write(1) {
				committed[e.ID] = true
			}
		}
	}
	for _, o := range rapid.Permutation(slices.Clone(all)).Draw(r, "order") {
		if rapid.IntRange(0, 5).Draw(r, "rolled back") == 0 {
			if err := o.tx.Rollback(w.t.Context()); err != nil {
				r.Fatal(err)
			}
			continue
		}
		if err := o.tx.Commit(w.t.Context()); err != nil {
			r.Fatal(err)
		}
		for _, e := range o.events {
			committed[e.ID] = true
		}
	}
}

// TestLateEvents: one that is older than everything the near pass looks at gets its
// number from the sweep; one that is older than what the sweep has settled is found
// before anything is dropped.
func TestLateEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(nil)
	w.age.Store(int64(10 * time.Minute))
	w.write(2)
	w.settle(s)
	w.age.Store(int64(2 * time.Hour))
	late := w.write(1)[0]
	for range 10 {
		w.run(s)
	}
	if all, err := s.Sequenced(t.Context(), late.ID); err != nil || all {
		t.Fatalf("an event from before all that is settled: %v %v", all, err)
	}
	w.settle(s)
	if all, err := s.Sequenced(t.Context(), late.ID); err != nil || !all {
		t.Errorf("once the sweep went back for it: %v %v", all, err)
	}
	w.age.Store(0)
	w.sign(s)
	w.verified(s)
}

// TestLag: what waits is told by everyone, also where nobody numbers events.
func TestLag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(nil)
	if lag, err := s.Lag(t.Context()); err != nil || lag != 0 {
		t.Errorf("an empty log: %s %v", lag, err)
	}
	w.write(1)
	w.settle(s)
	for range 2 {
		w.run(s)
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	w.age.Store(-int64(time.Hour)) // a clock that ran ahead
	w.write(1)
	w.settle(s)
	w.age.Store(0)
	w.write(1)
	w.exec(`UPDATE audit_events SET id = $1 WHERE id NOT IN (SELECT event_id FROM audit_log)`, ids.New(ids.Event, time.Now().Add(-20*time.Second)))
	w.tamper(`UPDATE audit_log SET event_id = $1 WHERE seq = 0`, ids.New(ids.Event, time.Now().Add(-time.Minute)))
	w.tamper(`UPDATE audit_log SET event_id = $1 WHERE seq = 1`, ids.New(ids.Event, time.Now().Add(-time.Minute)))
	if lag, err := s.Lag(t.Context()); err != nil || lag < 20*time.Second {
		t.Errorf("one waits: %s %v", lag, err)
	}
	if err := s.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "behind") {
		t.Errorf("not red: %v", err)
	}
}
