package log

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Proof is what an export is verified with: what its maker can't have changed.
type Proof struct {
	// Keys verify checkpoints, and come from elsewhere than the export. None: nothing
	// but the export's own word is checked.
	Keys []*Key
	// Against are the notes of checkpoints that were kept elsewhere.
	Against []string
}

// Report is what verifying an export found out.
type Report struct {
	Origin      string
	From, Size  int64 // numbers From up to, without, Size
	Root        Hash  // over the first Size events
	Dropped     int64 // events whose bodies the database has no longer
	DroppedTo   int64 // all of these have numbers up to, without, this
	Checkpoints int   // in the export; their roots fit
	Signed      int64 // the first so many events are covered by a checkpoint that one of the keys signed
	SignedBy    string
	Foreign     int // checkpoints in the export that none of the keys signed
	Compared    int // checkpoints kept elsewhere with which it is consistent
	Open        int // subjects that lack an event before one of the last two minutes: it may have its number behind the end
	TooOld      int // checkpoints kept elsewhere of fewer events than the export begins with
}

// SelfConsistent says that nothing in the export contradicts itself, and that no key
// from elsewhere vouches for all of it.
func (r *Report) SelfConsistent() bool { return r.Signed < r.Size || r.Signed == 0 }

// Finding is what is wrong with an export, and at which event.
type Finding struct {
	Seq  int64 // number of the event, or of events for a checkpoint
	Text string
}

// Error implements error.
func (f *Finding) Error() string { return fmt.Sprintf("at number %d: %s", f.Seq, f.Text) }

func finding(seq int64, format string, args ...any) error {
	return &Finding{Seq: seq, Text: fmt.Sprintf(format, args...)}
}

// Verify reads an export to its end and says whether it is whole, unchanged and
// consistent with the proof. The error is a [*Finding] where an event or a
// checkpoint is wrong, or [ErrExport] where the text is no export.
func Verify(export io.Reader, proof Proof) (*Report, error) {
	v := &verification{proof: proof, subjects: map[subject]*counts{}}
	if err := v.kept(); err != nil {
		return nil, err
	}
	r := NewReader(export)
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, v.brokenOff()
		}
		if err != nil {
			return nil, err
		}
		if v.tree == nil {
			if err := v.begin(line.Header); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case line.Record != nil:
			err = v.event(line.Record)
		case line.Checkpoint != "":
			err = v.checkpoint(line.Checkpoint)
		case line.End != nil:
			if err := v.end(line.End); err != nil {
				return nil, err
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%w: something stands behind its end", ErrExport)
			}
			return &v.report, nil
		default:
			err = fmt.Errorf("%w: a second header", ErrExport)
		}
		if err != nil {
			return nil, err
		}
	}
}

type verification struct {
	proof    Proof
	against  map[int64][]*Checkpoint // by their sizes
	tree     *Tree
	report   Report
	subjects map[subject]*counts
	// of the bodies that are absent, the last id; of those that are there, the first
	absent, present string
	absentAt        int64
	newest          time.Time // of the events
}

// kept reads the checkpoints from elsewhere. Their signatures are checked where a
// key is given; without one, that they were kept elsewhere has to do.
func (v *verification) kept() error {
	v.against = map[int64][]*Checkpoint{}
	for i, text := range v.proof.Against {
		c, _, err := Open(text, v.proof.Keys)
		switch {
		case errors.Is(err, ErrUnknownKey) && len(v.proof.Keys) == 0:
		case err != nil:
			return fmt.Errorf("checkpoint %d that the export is compared with: %w", i+1, err)
		}
		v.against[c.Size] = append(v.against[c.Size], c)
	}
	return nil
}

func (v *verification) begin(h *Header) error {
	switch {
	case h == nil:
		return fmt.Errorf("%w: it doesn't begin with a header", ErrExport)
	case h.Format != Format:
		return fmt.Errorf("%w: it is of another version, and this program reads %s", ErrExport, Format)
	case installationOf(h.Origin) == "":
		return fmt.Errorf("%w: its header names no log", ErrExport)
	}
	tree, err := h.Tree()
	if err != nil {
		return fmt.Errorf("%w: its header: %w", ErrExport, err)
	}
	for _, k := range v.proof.Keys {
		if k.Name != "" && k.Name != h.Origin {
			return fmt.Errorf("the export is of %s, the key of %s: they don't belong together", h.Origin, k.Name)
		}
	}
	for size, all := range v.against {
		for _, c := range all {
			if c.Origin != h.Origin {
				return fmt.Errorf("the export is of %s, the checkpoint of %s: they don't belong together", h.Origin, c.Origin)
			}
		}
		if size < h.From {
			v.report.TooOld += len(all)
		}
	}
	v.tree = tree
	v.report.Origin, v.report.From = h.Origin, h.From
	return v.compare()
}

// body is what is read of an event's.
type body struct {
	ID           string    `json:"id"`
	Installation string    `json:"installation"`
	Subject      string    `json:"subject"`
	Count        int       `json:"count"`
	At           time.Time `json:"at"`
}

func (v *verification) event(r *Record) error {
	n := v.tree.Size()
	switch {
	case r.Seq > n:
		return finding(n, "the event is missing: the next one has number %d", r.Seq)
	case r.Seq < n:
		return finding(n, "an event of number %d stands here", r.Seq)
	}
	leaf, err := parseHash(r.Leaf)
	if err != nil {
		return finding(n, "the leaf of event %q can't be read: %v", r.ID, err)
	}
	if err := v.body(n, r, leaf); err != nil {
		return err
	}
	v.tree.Append(leaf, nil)
	return v.compare()
}

func (v *verification) body(n int64, r *Record, leaf Hash) error {
	if r.Body == nil {
		v.report.Dropped++
		v.report.DroppedTo = n + 1
		if r.ID > v.absent {
			v.absent, v.absentAt = r.ID, n
		}
		return nil
	}
	if v.present == "" || r.ID < v.present {
		v.present = r.ID
	}
	if LeafHash([]byte(*r.Body)) != leaf {
		return finding(n, "the body of event %q was changed: its hash is not its leaf", r.ID)
	}
	var b body
	if err := json.Unmarshal([]byte(*r.Body), &b); err != nil {
		return finding(n, "the body of event %q is not readable", r.ID)
	}
	switch {
	case b.ID != r.ID:
		return finding(n, "event %q has the body of %q", r.ID, b.ID)
	case Origin(b.Installation) != v.report.Origin:
		return finding(n, "event %q is of another installation, %q", r.ID, b.Installation)
	case b.Count < 1 || b.Subject == "":
		return finding(n, "event %q has no place among those of its subject", r.ID)
	}
	return v.count(n, r.ID, &b)
}

// compare holds the tree against the checkpoints from elsewhere of its size.
func (v *verification) compare() error {
	for _, c := range v.against[v.tree.Size()] {
		if c.Size > 0 && c.Root != v.tree.Root() {
			return finding(c.Size, "the log was forked: the checkpoint that was kept elsewhere has another root over the first %d events", c.Size)
		}
		v.report.Compared++
	}
	return nil
}

// checkpoint checks one of the export's own.
func (v *verification) checkpoint(text string) error {
	n := v.tree.Size()
	c, key, err := Open(text, v.proof.Keys)
	switch {
	case errors.Is(err, ErrUnknownKey):
		v.report.Foreign++
	case err != nil:
		return finding(n, "a checkpoint: %v", err)
	}
	switch {
	case c.Origin != v.report.Origin:
		return finding(n, "a checkpoint is of another log, %s", c.Origin)
	case c.Size > n:
		return finding(n, "a checkpoint of %d events stands here: the event of this number is missing", c.Size)
	case c.Size < n:
		return finding(n, "a checkpoint of %d events stands here", c.Size)
	case c.Root != v.tree.Root():
		return finding(n, "the checkpoint over the first %d events has another root: an event up to here was changed, added or taken away, or the log was forked", n)
	}
	v.report.Checkpoints++
	if key != nil {
		v.report.Signed, v.report.SignedBy = n, key.ID()
	}
	return nil
}

func (v *verification) end(e *End) error {
	n := v.tree.Size()
	if e.Size != n {
		return finding(n, "the event is missing: the export says that it ends before number %d", e.Size)
	}
	for size := range v.against {
		if size > n {
			return finding(n, "the log ends here, and a checkpoint that was kept elsewhere covers %d events: either the export was made before it, or the log was cut off", size)
		}
	}
	if v.absent != "" && v.present != "" && v.absent > v.present {
		return finding(v.absentAt, "the body of event %q is missing, and those of older events are there: retention doesn't drop it so", v.absent)
	}
	if err := v.gaps(); err != nil {
		return err
	}
	if len(v.proof.Keys) > 0 && v.report.Signed == 0 && n > 0 {
		return finding(n, "no checkpoint in the export is signed by a given key")
	}
	v.report.Size, v.report.Root = n, v.tree.Root()
	return nil
}

func (v *verification) brokenOff() error {
	if v.tree == nil {
		return fmt.Errorf("%w: it is empty", ErrExport)
	}
	return fmt.Errorf("%w: it was broken off behind number %d", ErrExport, v.tree.Size()-1)
}

// VerifyBytes is [Verify] of a whole export in memory.
func VerifyBytes(export []byte, proof Proof) (*Report, error) {
	return Verify(bytes.NewReader(export), proof)
}
