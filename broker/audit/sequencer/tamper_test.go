package sequencer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
)

// TestTampering: whatever somebody changes in the tables, an export of them doesn't
// verify, and says at which number.
func TestTampering(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(nil)
	w.write(300)
	first := w.sign(s)
	w.write(5)
	w.sign(s)
	var size int64
	if err := w.pool.QueryRow(t.Context(), `SELECT max(seq) + 1 FROM audit_log`).Scan(&size); err != nil || size != 306 {
		t.Fatal(size, err)
	}
	proof := auditlog.Proof{Keys: []*auditlog.Key{w.key}, Against: []string{first}}
	const of = `(SELECT event_id FROM audit_log WHERE seq = 7)`
	for _, test := range []struct{ name, sql, want string }{
		{"nothing", `SELECT`, ""},
		{"a body", `UPDATE audit_events SET body = replace(body, 'repo:a/b', 'repo:c/d') WHERE id = ` + of, "at number 7: the body of event"},
		{"a body and its leaf, everywhere", `UPDATE audit_events SET body = replace(body, 'repo:a/b', 'repo:c/d') WHERE id = ` + of + `;
			UPDATE audit_events SET leaf = sha256('\x00'::bytea || convert_to(body, 'UTF8')) WHERE id = ` + of + `;
			UPDATE audit_log l SET leaf = e.leaf FROM audit_events e WHERE e.id = l.event_id AND l.seq = 7`, "events has another root"},
		{"a leaf", `UPDATE audit_log SET leaf = sha256('x') WHERE seq = 7`, "at number 7: the body of event"},
		{"an event", `DELETE FROM audit_events WHERE id = ` + of, "at number 7: the body of event"},
		{"an event and its number", `DELETE FROM audit_events WHERE id = ` + of + `; DELETE FROM audit_log WHERE seq = 7`, "at number 7: the event is missing"},
		{"an event, and the others closed up", `DELETE FROM audit_events WHERE id = ` + of + `; DELETE FROM audit_log WHERE seq = 7;
			UPDATE audit_log SET seq = seq + 10000 WHERE seq > 7; UPDATE audit_log SET seq = seq - 10001 WHERE seq > 7`, "at number "},
		{"two swapped", `UPDATE audit_log SET seq = seq + 10000 WHERE seq IN (7, 8); UPDATE audit_log SET seq = 10015 - seq WHERE seq > 10000`, "events has another root"},
		{"the end cut off", `DELETE FROM audit_log WHERE seq > 100; DELETE FROM audit_checkpoints`, "the log ends here"},
		{"the checkpoints", `DELETE FROM audit_checkpoints`, "no checkpoint in the export is signed by a given key"},
		{"a checkpoint's size", `UPDATE audit_checkpoints SET size = 200 WHERE size = (SELECT max(size) FROM audit_checkpoints)`, "stands here"},
		{"a checkpoint", `UPDATE audit_checkpoints SET note = replace(note, E'\n306\n', E'\n305\n')`, "a checkpoint: the checkpoint's signature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Changes of one test are undone by a copy, not by a transaction: exports read by other connections.
			for _, table := range []string{"audit_events", "audit_log", "audit_checkpoints"} {
				w.exec(`CREATE TABLE kept_` + table + ` AS SELECT * FROM ` + table)
				defer func() {
					w.tamper(`DELETE FROM ` + table)
					w.tamper(`INSERT INTO ` + table + ` SELECT * FROM kept_` + table)
					w.exec(`DROP TABLE kept_` + table)
				}()
			}
			for sql := range strings.SplitSeq(test.sql, ";\n") {
				for sql := range strings.SplitSeq(sql, "; ") {
					w.tamper(sql)
				}
			}
			_, err := auditlog.VerifyBytes(w.export(s, 0), proof)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestNoSignatureForAFork: whoever changes the database can't get the changed log
// signed, neither from a broker that remembers nor from one that has its file.
func TestNoSignatureForAFork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "checkpoints")
	s := w.sequencer(func(c *sequencer.Config) { c.CheckpointFile = path })
	w.write(50)
	w.sign(s)
	w.tamper(`UPDATE audit_log SET leaf = sha256('x') WHERE seq = 3`)
	w.exec(`DELETE FROM audit_checkpoints`)
	refused := func(s *sequencer.Sequencer) {
		t.Helper()
		w.write(3)
		for deadline := time.Now().Add(time.Minute); !w.seen.fails(sequencer.FailingLog); time.Sleep(10 * time.Millisecond) {
			w.settle(s)
			if time.Now().After(deadline) {
				t.Fatal("nobody complains")
			}
		}
		if note, err := s.Latest(t.Context()); !errors.Is(err, sequencer.ErrNoCheckpoint) {
			t.Errorf("it was signed: %s %v", note, err)
		}
		w.seen.Failing(sequencer.FailingLog, false)
	}
	refused(s)
	if !strings.Contains(w.log.String(), "it is not the one that was signed before") {
		t.Errorf("the log says:\n%s", w.log)
	}
	refused(w.sequencer(func(c *sequencer.Config) { c.CheckpointFile = path }))
	// Events get their numbers all the same, and what is mended is signed again.
	w.tamper(`UPDATE audit_log l SET leaf = e.leaf FROM audit_events e WHERE e.id = l.event_id`)
	w.sign(s)
	w.verified(s)
	// A log that was cut off behind its last checkpoint.
	w.tamper(`DELETE FROM audit_log`)
	w.tamper(`DELETE FROM audit_checkpoints`)
	w.exec(`DELETE FROM audit_events WHERE id > (SELECT id FROM audit_events ORDER BY id OFFSET 10 LIMIT 1)`)
	w.exec(`UPDATE audit_sequencer SET settled = ''`)
	refused(s)
}

func TestCheckpointFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "checkpoints")
	s := w.sequencer(func(c *sequencer.Config) { c.CheckpointFile = path })
	w.write(1)
	note := w.sign(s)
	text, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(text), note+"\n") {
		t.Fatalf("%q: %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	// One that was killed while it wrote leaves a part of a note: at each byte.
	whole := string(text)
	for cut := range note + "\n" {
		torn := whole + (note + "\n")[:cut]
		if err := os.WriteFile(path, []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		w.sequencer(func(c *sequencer.Config) { c.CheckpointFile = path })
		if got, err := os.ReadFile(path); err != nil || string(got) != whole {
			t.Fatalf("torn at %d: %q: %v", cut, got, err)
		}
	}
	for name, content := range map[string]string{"somebody else's": "listen: 127.0.0.1\n", "another installation's": strings.ReplaceAll(whole, installation, "ba9876543210")} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := sequencer.New(sequencer.Config{
			Pool: w.pool, Audit: w.recorder, Installation: installation, Key: w.signer, CheckpointFile: path, Logger: testLogger(), Observe: w.seen, Now: time.Now,
		}); err == nil {
			t.Errorf("%s file is taken", name)
		}
	}
}

// TestForged: an event that no broker wrote gets its number, and is spoken of.
func TestForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(nil)
	events := w.write(3)
	w.exec(`UPDATE audit_events SET body = body || ' ' WHERE id = $1`, events[0].ID)
	w.exec(`UPDATE audit_events SET mac = sha256('x') WHERE id = $1`, events[1].ID)
	w.settle(s)
	if w.seen.forged != 2 || strings.Count(w.log.String(), "somebody writes to its database") != 2 || !strings.Contains(w.log.String(), events[0].ID) {
		t.Errorf("%d; the log says:\n%s", w.seen.forged, w.log)
	}
	w.sign(s)
	if _, err := auditlog.VerifyBytes(w.export(s, 0), auditlog.Proof{}); err == nil || !strings.Contains(err.Error(), "the body of event") {
		t.Error(err)
	}
}

// TestKeyChange: a new key signs from then on; the old one verifies what it signed.
func TestKeyChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(2)
	w.sign(w.sequencer(nil))
	old := w.key
	w.signer = newSigner(t)
	next, err := auditlog.NewKey(auditlog.Origin(installation), w.signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	s := w.sequencer(nil)
	w.write(2)
	w.sign(s)
	report, err := auditlog.VerifyBytes(w.export(s, 0), auditlog.Proof{Keys: []*auditlog.Key{old, next}})
	if err != nil || report.Signed != report.Size || report.SignedBy != next.ID() || report.Foreign != 0 {
		t.Errorf("%+v: %v", report, err)
	}
	var known int
	if err := w.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_keys`).Scan(&known); err != nil || known != 2 {
		t.Errorf("%d keys are on record: %v", known, err)
	}
}

// TestBeginAnew: a copy that becomes an installation of its own has an empty log, and what it
// was copied with is in nobody's way.
func TestBeginAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(300)
	w.sign(w.sequencer(nil))
	var last string
	if err := w.pool.QueryRow(t.Context(), `SELECT max(id) FROM audit_events`).Scan(&last); err != nil {
		t.Fatal(err)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		return sequencer.BeginAnew(t.Context(), tx, ids.Time(ids.Event, last).Add(time.Millisecond))
	}); err != nil {
		t.Fatal(err)
	}
	s := w.sequencer(func(c *sequencer.Config) { c.Key = nil })
	w.age.Store(-int64(time.Second)) // behind the moment, however fast it was
	w.write(2)
	for range 3 {
		w.run(s)
	}
	report, err := auditlog.VerifyBytes(w.export(s, 0), auditlog.Proof{})
	if err != nil || report.Size != 2 {
		t.Errorf("%+v: %v", report, err)
	}
	if all, err := s.Sequenced(t.Context(), last); err != nil || !all {
		t.Errorf("what can be dropped: %v %v", all, err)
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCrash: a run that dies at any of its statements leaves nothing, or a whole step.
func TestCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(40)
	for n := int64(1); ; n++ {
		ctx, kill := context.WithCancel(t.Context())
		config := w.pool.Config().Copy()
		trace := &killer{after: n, kill: kill}
		config.ConnConfig.Tracer = trace
		pool, err := poolOf(t, config)
		if err != nil {
			t.Fatal(err)
		}
		s := w.sequencer(func(c *sequencer.Config) { c.Pool, c.Batch = pool, 9 })
		_, err = s.RunOnce(ctx)
		pool.Close()
		died := trace.seen.Load() >= n
		if died && err == nil {
			// It died at its last statement, whose answer came.
			t.Logf("run %d ended well", n)
		}
		w.consistent()
		if !died {
			break
		}
		if n > 500 {
			t.Fatal("a run never ends")
		}
	}
	s := w.sequencer(nil)
	w.sign(s)
	if report := w.verified(s); report.Size != 41 {
		t.Errorf("%+v", report)
	}
}

// consistent says that numbers have no gap.
func (w *world) consistent() {
	w.t.Helper()
	var n, size int64
	if err := w.pool.QueryRow(w.t.Context(), `SELECT count(*), coalesce(max(seq) + 1, 0) FROM audit_log`).Scan(&n, &size); err != nil || n != size {
		w.t.Fatalf("%d numbers up to %d: %v", n, size, err)
	}
}

// TestWithoutAKey: events have their numbers, and nothing is signed.
func TestWithoutAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sequencer(func(c *sequencer.Config) { c.Key = nil })
	w.write(3)
	w.settle(s)
	if _, err := s.Latest(t.Context()); !errors.Is(err, sequencer.ErrNoCheckpoint) || !strings.Contains(s.Status(), "not signed") || !strings.Contains(w.log.String(), "are not signed") {
		t.Errorf("%v, %q", err, s.Status())
	}
	report, err := auditlog.VerifyBytes(w.export(s, 0), auditlog.Proof{})
	if err != nil || report.Size != 3 || !report.SelfConsistent() {
		t.Errorf("%+v: %v", report, err)
	}
	if err := s.Export(t.Context(), 2, 9, func(*auditlog.Line) error { return nil }); !errors.Is(err, sequencer.ErrRange) {
		t.Error(err)
	}
	failing := &failingSigner{Signer: w.signer}
	broken := w.sequencer(func(c *sequencer.Config) { c.Key = failing })
	if _, err := broken.RunOnce(t.Context()); err == nil || !w.seen.fails(sequencer.FailingSignature) {
		t.Errorf("a key that doesn't sign: %v", err)
	}
}

var _ pgx.QueryTracer = (*killer)(nil)

var _ keys.Signer = (*failingSigner)(nil)
