package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sort"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

var (
	errTruncated = errors.New("more secrets stand there than one answer of the broker lists: scan smaller parts")
	errAnswer    = errors.New("the broker's answer doesn't fit what it was sent")
)

// leaksCaller asks the broker.
type leaksCaller interface {
	Leaks(ctx context.Context, token string, r io.Reader, search client.LeakSearch) (*api.LeaksResponse, error)
}

// leakAsking asks about texts, with one token.
type leakAsking struct {
	client leaksCaller
	token  string
	search client.LeakSearch
}

func (a *leakAsking) leaks(ctx context.Context, text io.Reader) (*api.LeaksResponse, error) {
	return a.client.Leaks(ctx, a.token, text, a.search)
}

const (
	// batchSize is how much is sent at once. It is kept until the answer is there:
	// only by it can lines be told.
	batchSize = 32 << 20
	// overlap is how much of a text that doesn't end with a batch is sent again: the
	// longest value in its longest encoding.
	overlap = 64 << 10
)

// between stands between texts: what ends one and begins the next is nothing together.
const between = "\n\x00\n"

// wholeSearch sends all texts to the broker, one behind the other.
type wholeSearch struct {
	ask   *leakAsking
	scan  *scan
	size  int
	batch []byte
	parts []part
}

// part is a text's, in the batch from begin on.
type part struct {
	begin  int
	text   scanText
	offset int64 // in the text, of the part's first byte
	line   int   // of that byte
}

func newWholeSearch(ask *leakAsking, s *scan) *wholeSearch {
	return &wholeSearch{ask: ask, scan: s, size: batchSize}
}

func (w *wholeSearch) search(ctx context.Context, text scanText, r io.Reader) error {
	if cap(w.batch) < w.size {
		w.batch = make([]byte, 0, w.size)
	}
	w.parts = append(w.parts, part{len(w.batch), text, 0, 1})
	for {
		if len(w.batch) >= w.size-len(between) {
			if err := w.next(ctx); err != nil {
				return err
			}
		}
		n, err := r.Read(w.batch[len(w.batch) : w.size-len(between)])
		w.batch = w.batch[:len(w.batch)+n]
		if errors.Is(err, io.EOF) {
			w.batch = append(w.batch, between...)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// next sends the batch, and begins the next with the end of the text at hand.
func (w *wholeSearch) next(ctx context.Context) error {
	if err := w.end(ctx); err != nil {
		return err
	}
	last := w.parts[len(w.parts)-1]
	again := max(last.begin, len(w.batch)-overlap)
	cut := part{0, last.text, last.offset + int64(again-last.begin), last.line + bytes.Count(w.batch[last.begin:again], []byte{'\n'})}
	w.batch = w.batch[:copy(w.batch, w.batch[again:])]
	w.parts = append(w.parts[:0], cut)
	return nil
}

// end sends what there is.
func (w *wholeSearch) end(ctx context.Context) error {
	if len(w.batch) == 0 {
		return nil
	}
	answer, err := w.ask.leaks(ctx, bytes.NewReader(w.batch))
	if err != nil {
		return err
	}
	if answer.Bytes != int64(len(w.batch)) {
		return errAnswer
	}
	if answer.Truncated {
		w.scan.unread(w.parts[len(w.parts)-1].text.path, errTruncated)
	}
	for _, leak := range answer.Leaks {
		if leak.Offset < 0 || leak.Offset >= int64(len(w.batch)) {
			return errAnswer
		}
		at := int(leak.Offset)
		p := w.parts[sort.Search(len(w.parts), func(i int) bool { return w.parts[i].begin > at })-1]
		leak.Offset = p.offset + int64(at-p.begin)
		w.scan.leak(p.text, p.line+bytes.Count(w.batch[p.begin:at], []byte{'\n'}), leak)
	}
	return nil
}
