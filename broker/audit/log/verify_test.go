package log_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	auditlog "github.com/daypass/daypass/broker/audit/log"
)

// export is one that is made by hand.
type export struct {
	t      testing.TB
	signer signer
	key    *auditlog.Key
	tree   auditlog.Tree
	lines  []*auditlog.Line
	counts map[string]int
}

func newExport(t testing.TB) *export {
	t.Helper()
	e := &export{t: t, counts: map[string]int{}}
	e.signer, e.key = newSigner(t)
	e.lines = []*auditlog.Line{{Header: auditlog.NewHeader(origin, &e.tree)}}
	return e
}

func (e *export) event(subject string, withBody bool) {
	e.t.Helper()
	e.counts[subject]++
	e.counted(subject, e.counts[subject], withBody)
}

func (e *export) counted(subject string, count int, withBody bool) {
	e.t.Helper()
	id := fmt.Sprintf("evt_%06d", e.tree.Size())
	text, err := json.Marshal(map[string]any{"id": id, "installation": "0123456789ab", "subject": subject, "count": count, "data": "<&>\u2028"})
	if err != nil {
		e.t.Fatal(err)
	}
	leaf := auditlog.LeafHash(text)
	r := &auditlog.Record{Seq: e.tree.Size(), ID: id, Leaf: hex.EncodeToString(leaf[:])}
	if body := string(text); withBody {
		r.Body = &body
	}
	e.tree.Append(leaf, nil)
	e.lines = append(e.lines, &auditlog.Line{Record: r})
}

func (e *export) checkpoint() string {
	e.t.Helper()
	text := e.signed(e.signer)
	e.lines = append(e.lines, &auditlog.Line{Checkpoint: text})
	return text
}

func (e *export) signed(by signer) string {
	e.t.Helper()
	text, err := (&auditlog.Checkpoint{Origin: origin, Size: e.tree.Size(), Root: e.tree.Root()}).Sign(e.t.Context(), by)
	if err != nil {
		e.t.Fatal(err)
	}
	return text
}

func (e *export) text() []byte {
	e.t.Helper()
	return encode(e.t, append(slices.Clone(e.lines), &auditlog.Line{End: &auditlog.End{Size: e.tree.Size()}}))
}

func encode(t testing.TB, lines []*auditlog.Line) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, l := range lines {
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	return out.Bytes()
}

// sample has 30 events of three subjects and checkpoints over 10, 20 and 30 of them; it
// returns the one over 20.
func sample(t testing.TB) (*export, string) {
	t.Helper()
	e := newExport(t)
	var kept string
	for n := range 30 {
		e.event(fmt.Sprintf("lse_%d", n%3), true)
		if n%10 == 9 {
			if note := e.checkpoint(); n == 19 {
				kept = note
			}
		}
	}
	return e, kept
}

func TestVerify(t *testing.T) {
	t.Parallel()
	e, kept := sample(t)
	report, err := auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key}, Against: []string{kept}})
	if err != nil || report.Size != 30 || report.Signed != 30 || report.SelfConsistent() || report.Checkpoints != 3 || report.Compared != 1 || report.SignedBy != e.key.ID() {
		t.Errorf("%+v: %v", report, err)
	}
	if report, err = auditlog.VerifyBytes(e.text(), auditlog.Proof{Against: []string{kept}}); err != nil || !report.SelfConsistent() || report.Foreign != 3 || report.Compared != 1 {
		t.Errorf("without a key: %+v: %v", report, err)
	}
	e.event("lse_0", true)
	if report, err = auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key}}); err != nil || report.Signed != 30 || report.Size != 31 || !report.SelfConsistent() {
		t.Errorf("with one that isn't signed: %+v: %v", report, err)
	}
	// Two keys, of which one signs no longer.
	next, nextKey := newSigner(t)
	e.signer = next
	e.checkpoint()
	if report, err = auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key, nextKey}}); err != nil || report.Signed != 31 || report.Foreign != 0 {
		t.Errorf("with two keys: %+v: %v", report, err)
	}
	// What retention dropped.
	dropped := newExport(t)
	for range 5 {
		dropped.event("lse_0", false)
	}
	dropped.event("lse_0", true)
	dropped.event("lse_0", true)
	dropped.checkpoint()
	if report, err = auditlog.VerifyBytes(dropped.text(), auditlog.Proof{Keys: []*auditlog.Key{dropped.key}}); err != nil || report.Dropped != 5 || report.DroppedTo != 5 || report.SelfConsistent() {
		t.Errorf("without bodies: %+v: %v", report, err)
	}
	// Counts stand in the order in which they were found.
	mixed := newExport(t)
	for _, count := range []int{2, 1, 4, 5, 3} {
		mixed.counted("lse_0", count, true)
	}
	mixed.checkpoint()
	if _, err = auditlog.VerifyBytes(mixed.text(), auditlog.Proof{Keys: []*auditlog.Key{mixed.key}}); err != nil {
		t.Error(err)
	}
}

// TestTampering: each way to change an export is found, and it is said where.
func TestTampering(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(t *testing.T, lines []*auditlog.Line) []*auditlog.Line
		want   string
	}{
		"a body": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			*l[6].Record.Body = strings.Replace(*l[6].Record.Body, "lse_2", "lse_9", 1)
			return l
		}, `at number 5: the body of event "evt_000005" was changed`},
		"a body and its leaf": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			*l[6].Record.Body = strings.Replace(*l[6].Record.Body, "data", "date", 1)
			leaf := auditlog.LeafHash([]byte(*l[6].Record.Body))
			l[6].Record.Leaf = hex.EncodeToString(leaf[:])
			return l
		}, "at number 10: the checkpoint over the first 10 events has another root"},
		"a leaf without body": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[1].Record.Body, l[1].Record.Leaf = nil, strings.Repeat("00", 32)
			return l
		}, "at number 10: the checkpoint over the first 10 events has another root"},
		"a body taken away": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[6].Record.Body = nil
			return l
		}, `at number 5: the body of event "evt_000005" is missing, and those of older events are there`},
		"an event taken away": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return slices.Delete(l, 6, 7)
		}, "at number 5: the event is missing: the next one has number 6"},
		"an event taken away, the others renumbered": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l = slices.Delete(l, 6, 7)
			for _, line := range l[6:] {
				if line.Record != nil {
					line.Record.Seq--
				}
			}
			return l
		}, "at number 9: a checkpoint of 10 events stands here"},
		"the last event taken away": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return slices.Delete(l, 32, 34)
		}, "at number 29: the event is missing"},
		"two events swapped": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[4].Record, l[5].Record = l[5].Record, l[4].Record
			l[4].Record.Seq, l[5].Record.Seq = 3, 4
			return l
		}, "at number 10: the checkpoint over the first 10 events has another root"},
		"an event twice": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return slices.Insert(l, 6, l[5])
		}, "at number 5: an event of number 4 stands here"},
		"the id of another": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[3].Record.ID = "evt_x"
			return l
		}, `at number 2: event "evt_x" has the body of "evt_000002"`},
		"a checkpoint over other events": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[11].Checkpoint, l[22].Checkpoint = l[22].Checkpoint, l[11].Checkpoint
			return l
		}, "at number 10: a checkpoint of 20 events stands here"},
		"a checkpoint changed": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[11].Checkpoint = strings.Replace(l[11].Checkpoint, "\n10\n", "\n11\n", 1)
			return l
		}, "at number 10: a checkpoint: the checkpoint's signature is not of the key that it names"},
		"all checkpoints taken away": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return slices.DeleteFunc(l, func(l *auditlog.Line) bool { return l.Checkpoint != "" })
		}, "at number 30: no checkpoint in the export is signed by a given key"},
		"no end": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return l[:len(l)-1]
		}, "broken off behind number 29"},
		"something behind the end": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			return append(l, l[1])
		}, "something stands behind its end"},
		"another installation's": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line {
			l[0].Header.Origin = "daypass-audit/other"
			return l
		}, "they don't belong together"},
		"no header": {func(_ *testing.T, l []*auditlog.Line) []*auditlog.Line { return l[1:] }, "doesn't begin with a header"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := sample(t)
			text := encode(t, test.change(t, append(e.lines, &auditlog.Line{End: &auditlog.End{Size: 30}})))
			if report, err := auditlog.VerifyBytes(text, auditlog.Proof{Keys: []*auditlog.Key{e.key}}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v: %v, want %q", report, err, test.want)
			}
		})
	}
}

// TestForks: what only a checkpoint from elsewhere tells.
func TestForks(t *testing.T) {
	t.Parallel()
	e, kept := sample(t)
	forked := newExport(t)
	forked.signer, forked.key = e.signer, e.key // whoever has the key too
	for n := range 30 {
		forked.event(fmt.Sprintf("ses_%d", n%3), true)
	}
	forked.checkpoint()
	proof := auditlog.Proof{Keys: []*auditlog.Key{e.key}}
	if _, err := auditlog.VerifyBytes(forked.text(), proof); err != nil {
		t.Fatal(err)
	}
	proof.Against = []string{kept}
	if _, err := auditlog.VerifyBytes(forked.text(), proof); err == nil || !strings.Contains(err.Error(), "at number 20: the log was forked") {
		t.Errorf("a fork: %v", err)
	}
	short := newExport(t)
	short.signer, short.key = e.signer, e.key
	short.event("lse_0", true)
	short.checkpoint()
	if _, err := auditlog.VerifyBytes(short.text(), proof); err == nil || !strings.Contains(err.Error(), "at number 1: the log ends here") {
		t.Errorf("a log that was cut off: %v", err)
	}
	other, _ := newSigner(t)
	if _, err := auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key}, Against: []string{e.signed(other)}}); !errors.Is(err, auditlog.ErrUnknownKey) {
		t.Errorf("a checkpoint by somebody else: %v", err)
	}
	// One that somebody else signed, in the export, has to fit too, and vouches for nothing.
	e.lines[len(e.lines)-1].Checkpoint = e.signed(other)
	report, err := auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key}})
	if err != nil || report.Foreign != 1 || report.Signed != 20 || !report.SelfConsistent() {
		t.Errorf("%+v: %v", report, err)
	}
}

// TestGaps: a subject that lacks an event was cheated before there was a number to miss.
func TestGaps(t *testing.T) {
	t.Parallel()
	for name, counts := range map[string][]int{"one missing": {1, 3}, "the first missing": {2, 3}, "one twice": {1, 2, 2}, "the first twice": {1, 1}} {
		e := newExport(t)
		e.event("ses_1", true)
		for _, count := range counts {
			e.counted("lse_1", count, true)
		}
		e.checkpoint()
		_, err := auditlog.VerifyBytes(e.text(), auditlog.Proof{Keys: []*auditlog.Key{e.key}})
		if _, found := errors.AsType[*auditlog.Finding](err); !found || !strings.Contains(err.Error(), "count") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
