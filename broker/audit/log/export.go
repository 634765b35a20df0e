package log

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// An export is JSON lines. The first is a Header, the last an End; between them
// stand the events by their numbers, and each checkpoint behind the last event
// that it covers.

// Format of an export that this package writes and reads.
const Format = "daypass-audit-export/1"

// MaxLine bounds a line of an export, in bytes.
const MaxLine = 4 << 20

// Header begins an export.
type Header struct {
	Format string `json:"format"`
	Origin string `json:"origin"`
	From   int64  `json:"from"` // number of the first event
	// Subtrees are the hashes, in hex, of the events before From: see [Tree.Hashes].
	Subtrees []string `json:"subtrees,omitempty"`
}

// Record is one event of an export.
type Record struct {
	Seq  int64  `json:"seq"` // its number in the log, from 0
	ID   string `json:"id"`
	Leaf string `json:"leaf"` // hex
	// Body is what was written; absent where it was dropped from the database, by
	// retention or by somebody.
	Body  *string `json:"body,omitempty"`
	MAC   string  `json:"mac,omitempty"` // hex, by a key that only brokers have; with Body
	KeyID string  `json:"key_id,omitempty"`
}

// End is the last line: an export without it was broken off.
type End struct {
	Size int64 `json:"end"` // number of the last event, and one
}

// Line is one line of an export: exactly one field is set.
type Line struct {
	Header     *Header
	Record     *Record
	Checkpoint string // a signed note
	End        *End
}

// Tree is the one that the events before an export make.
func (h *Header) Tree() (*Tree, error) {
	hashes := make([]Hash, len(h.Subtrees))
	for i, text := range h.Subtrees {
		hash, err := parseHash(text)
		if err != nil {
			return nil, err
		}
		hashes[i] = hash
	}
	return NewTree(h.From, hashes)
}

// NewHeader begins an export behind the events of a tree.
func NewHeader(origin string, before *Tree) *Header {
	h := &Header{Format: Format, Origin: origin, From: before.Size()}
	for _, hash := range before.Hashes() {
		h.Subtrees = append(h.Subtrees, hex.EncodeToString(hash[:]))
	}
	return h
}

func parseHash(text string) (hash Hash, err error) {
	if len(text) != hex.EncodedLen(len(hash)) {
		return hash, errors.New("a hash has 64 hex digits")
	}
	_, err = hex.Decode(hash[:], []byte(text))
	return hash, err
}

// Encode is the line with its line feed.
func (l *Line) Encode() ([]byte, error) {
	var v any
	switch {
	case l.Header != nil:
		v = l.Header
	case l.Record != nil:
		v = l.Record
	case l.End != nil:
		v = l.End
	default:
		v = struct {
			Checkpoint string `json:"checkpoint"`
		}{l.Checkpoint}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding a line of an export: %w", err)
	}
	return out.Bytes(), nil
}

// ErrExport says that a text is no export, or was broken off.
var ErrExport = errors.New("not a whole export of an audit log")

// Reader reads an export line by line.
type Reader struct {
	scanner *bufio.Scanner
	line    int
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), MaxLine)
	return &Reader{scanner: s}
}

// Next is the next line; io.EOF at the end of the text, which is no End.
func (r *Reader) Next() (*Line, error) {
	r.line++
	if !r.scanner.Scan() {
		if err := r.scanner.Err(); err != nil {
			return nil, fmt.Errorf("reading line %d of the export: %w", r.line, err)
		}
		return nil, io.EOF
	}
	l, err := decodeLine(r.scanner.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", ErrExport, r.line, err)
	}
	return l, nil
}

// decodeLine tells the kinds of lines apart by a member that the others don't have.
func decodeLine(text []byte) (*Line, error) {
	var all struct {
		Header
		Record

		Seq        *int64  `json:"seq"`
		Checkpoint *string `json:"checkpoint"`
		Size       *int64  `json:"end"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&all); err != nil {
		return nil, errors.New("it is not the JSON that an export has") // json's error may quote a value
	}
	if decoder.InputOffset() != int64(len(bytes.TrimRight(text, " \t\r"))) {
		return nil, errors.New("something stands behind its JSON")
	}
	kinds := 0
	l := &Line{}
	if all.Format != "" {
		kinds++
		header := all.Header
		l.Header = &header
	}
	if all.Seq != nil {
		kinds++
		record := all.Record
		record.Seq = *all.Seq
		l.Record = &record
	}
	if all.Checkpoint != nil && *all.Checkpoint != "" {
		kinds++
		l.Checkpoint = *all.Checkpoint
	}
	if all.Size != nil {
		kinds++
		l.End = &End{Size: *all.Size}
	}
	if kinds != 1 {
		return nil, errors.New("it is neither header, event, checkpoint nor end")
	}
	return l, nil
}
