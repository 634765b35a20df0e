package redact

import (
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/daypass/daypass/issuers"
)

// ErrClosed is the error of a Write after Close.
var ErrClosed = errors.New("masking writer is closed")

// chunk bounds how much of one Write is worked on at a time, in bytes.
const chunk = 32 << 10

// Writer masks one stream. It is safe for concurrent use, though the bytes of
// concurrent writes then interleave at the granularity of a Write.
type Writer struct {
	m   *Masker
	dst io.Writer

	mu     sync.Mutex
	err    error // the first of dst's errors; nothing is written after it
	closed bool

	node  int32  // the state of each matcher
	token uint64 //
	run   *run   // nil without patterns

	buf    []byte // raw bytes from position base on
	base   int64  // a position counts bytes from the stream's beginning
	done   int64  // bytes before this position have been passed on or masked
	cover  []span // matches that reach beyond done: disjoint, ascending
	masked bool   // the byte before done was masked
	out    []byte // what goes to dst next
}

// span is the bytes from start up to, without, end.
type span struct{ start, end int64 }

// Write takes bytes and passes on all that can no longer become part of a
// match, masked where there was one. It returns len(p), or the error of the
// writer beneath; that error then stays, as bytes may have been lost.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, ErrClosed
	}
	taken := 0
	for part := range slices.Chunk(p, chunk) {
		if w.err != nil {
			return taken, w.err
		}
		w.scan(part)
		w.release(w.live())
		taken += len(part)
	}
	return taken, w.err
}

// Flush lets go of nothing that Write holds back: Write has already passed on
// every byte that can't become part of a match, and a byte that can must wait
// for the next ones or for Close, however long they take, or part of a secret
// would be shown. Flush calls the Flush method of the writer beneath, if it has
// one that returns nothing or an error, and reports the error of an earlier Write.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	switch dst := w.dst.(type) {
	case interface{ Flush() error }:
		w.err = dst.Flush()
	case interface{ Flush() }:
		dst.Flush()
	}
	return w.err
}

// Close ends the stream: what was held back is no match any more and is passed
// on. It doesn't close the writer beneath. A second Close does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.err
	}
	w.closed = true
	if w.run != nil {
		w.run.end()
	}
	w.release(w.base + int64(len(w.buf)))
	w.buf, w.cover, w.out = nil, nil, nil
	return w.err
}

// scan runs the matchers over p and notes what they find.
func (w *Writer) scan(p []byte) {
	for i := 0; i < len(p); {
		if k := w.dull(p[i:]); k > 0 {
			w.buf = append(w.buf, p[i:i+k]...)
			i += k
			continue
		}
		b := p[i]
		i++
		w.buf = append(w.buf, b)
		end := w.base + int64(len(w.buf))
		w.node = w.m.values.step(w.node, b)
		if n := w.m.values.nodes[w.node].match; n > 0 {
			w.found(end-int64(n), end)
		}
		if w.m.shape {
			w.scanShape(b, end)
		}
		if w.run != nil {
			w.run.step(b)
		}
	}
}

func (w *Writer) scanShape(b byte, end int64) {
	w.token = stepShape(w.token, b)
	if w.token&shapeWhole == 0 {
		return
	}
	if _, ok := issuers.IsGenerated(string(w.buf[len(w.buf)-issuers.GeneratedLength:])); ok {
		w.found(end-issuers.GeneratedLength, end)
	}
}

// dull is how many bytes no matcher needs to see: while none is in a match, the
// ones that can't begin one.
func (w *Writer) dull(p []byte) int {
	if w.node != 0 || w.token != 0 || w.run != nil && !w.run.idle() {
		return 0
	}
	k := 0
	for k < len(p) && !w.m.starts[p[k]] {
		k++
	}
	if k > 0 && w.run != nil {
		w.run.skip(p[:k])
	}
	return k
}

// live is the position from which bytes may still become part of a match.
func (w *Writer) live() int64 {
	end := w.base + int64(len(w.buf))
	live := end - int64(w.m.values.nodes[w.node].live)
	if w.m.shape {
		live = min(live, end-int64(shapeLive(w.token)))
	}
	if w.run != nil {
		live = min(live, w.run.live())
	}
	return live
}

// found notes a match. Spans that touch become one.
func (w *Writer) found(start, end int64) {
	j := len(w.cover)
	for j > 0 && w.cover[j-1].start > end {
		j--
	}
	i := j
	for i > 0 && w.cover[i-1].end >= start {
		i--
		start, end = min(start, w.cover[i].start), max(end, w.cover[i].end)
	}
	w.cover = slices.Replace(w.cover, i, j, span{start, end})
}

// release passes on all bytes before limit, and beyond it those that are
// covered already, which no later byte can change.
func (w *Writer) release(limit int64) {
	spent := 0
	for {
		next := limit
		if spent < len(w.cover) {
			next = min(next, w.cover[spent].start)
		}
		if w.done < next {
			w.out = append(w.out, w.buf[w.done-w.base:next-w.base]...)
			w.done, w.masked = next, false
		}
		if spent == len(w.cover) || w.cover[spent].start > w.done {
			break
		}
		if !w.masked {
			w.out = append(w.out, w.m.mask...)
			w.masked = true
		}
		w.done = max(w.done, w.cover[spent].end)
		spent++
	}
	w.cover = w.cover[:copy(w.cover, w.cover[spent:])]
	// Bytes from limit on stay even when they are masked: a token's checksum needs
	// them. Moving them only when they are the smaller part keeps that linear.
	if gone := limit - w.base; gone >= int64(len(w.buf))-gone {
		w.buf = w.buf[:copy(w.buf, w.buf[gone:])]
		w.base = limit
	}
	w.send()
}

// send gives what is ready to the writer beneath.
func (w *Writer) send() {
	if len(w.out) > 0 && w.err == nil {
		n, err := w.dst.Write(w.out)
		if err == nil && n < len(w.out) {
			err = io.ErrShortWrite
		}
		w.err = err
	}
	w.out = w.out[:0]
}
