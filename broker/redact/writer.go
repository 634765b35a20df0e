package redact

import (
	"errors"
	"io"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// ErrClosed is the error of a Write after Close.
var ErrClosed = errors.New("masking writer is closed")

const (
	// ShownPrefix is how many bytes a beginning of a match has at most that
	// [Writer.Flush] passes on. Three characters in front of a mask help nobody to
	// guess the 160 bits behind it, nor the rest of a password that has few.
	ShownPrefix = 3
	// chunk bounds how much of one Write is worked on at a time, in bytes.
	chunk = 32 << 10
)

// Writer masks one stream. It is safe for concurrent use, though the bytes of
// concurrent writes then interleave at the granularity of a Write.
type Writer struct {
	m   *Masker
	dst io.Writer

	mu     sync.Mutex
	err    error // the first of dst's errors; nothing is written after it
	closed bool

	ready   bool    // the matchers are
	scanner scanner // the state of each matcher
	overlay overlay //
	run     *run    // nil without patterns

	held   []byte // raw bytes from position base on, as far as a matcher needs them
	base   int64  // a position counts bytes from the stream's beginning
	before byte   // the one before base, which is the beginning of a line as long as there is none
	live   int64  // bytes from this position on may become part of a match
	done   int64  // bytes before this position have been passed on or masked
	cover  []span // matches that reach beyond done
	masked bool   // the byte before done was masked
	out    []byte // what goes to dst next, where it isn't a part of what came

	timer  *time.Timer // nil until something was held back
	armed  bool
	writes uint64 // calls of Write, and
	seen   uint64 // those there had been when the timer was set
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
	if len(p) > 0 && !w.ready {
		w.prepare()
	}
	w.writes++
	taken := 0
	for taken < len(p) && w.err == nil {
		n := min(chunk, len(p)-taken)
		w.take(p[taken : taken+n])
		taken += n
	}
	if w.m.flushAfter > 0 && w.done < w.base+int64(len(w.held)) {
		w.arm()
	}
	return taken, w.err
}

// take looks at a chunk and passes on what it can.
func (w *Writer) take(p []byte) {
	t := window{text: p, base: w.base}
	fresh := len(w.held)
	if fresh > 0 {
		w.held = append(w.held, p...)
		t.text = w.held
	}
	w.live = w.scan(&t, fresh)
	w.release(t.text, w.live)
	gone := int(w.live - w.base)
	if gone > 0 && (fresh == 0 || gone >= len(w.held)-gone) {
		w.before = t.text[gone-1]
	}
	switch {
	case fresh == 0:
		w.held, w.base = append(w.held, p[gone:]...), w.live
	case gone >= len(w.held)-gone:
		// Bytes from live on stay even when they are masked: a token's checksum needs
		// them. Moving them only when they are the smaller part keeps that linear.
		w.held, w.base = w.held[:copy(w.held, w.held[gone:])], w.live
	}
}

// Use has another masker look at the stream from here on: secrets that come up while
// a stream runs can be masked in it. It takes a masker that knows all that the one
// before knew, or what that held back may be shown.
//
// What is held back is looked at again by the new masker, and nothing is passed on
// before more comes: a secret of either of them is masked that begins before the
// change and ends after it, as far as it hasn't been passed on. Of one that only the
// new masker knows, that is the part behind: let a stream use a masker before
// anything can print what it masks.
func (w *Writer) Use(m *Masker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	if w.m = m; !w.ready {
		return // it will be the first
	}
	w.prepare()
	t := window{text: w.held, base: w.base}
	w.live = w.scan(&t, 0)
}

// prepare gives the writer the matchers of its masker, at the beginning of what is
// held back.
func (w *Writer) prepare() {
	w.ready = true
	w.scanner, w.overlay, w.run = scanner{}, overlay{}, nil
	if values := w.m.values(); values != nil {
		w.scanner = scanner{values: values, found: w.found}
		w.scanner.rest(w.base)
		w.overlay = overlay{values: values, found: w.found}
	}
	if w.m.patterns != nil {
		w.run = newRun(w.m.patterns, w.found)
		w.run.at = w.base
		switch {
		case w.base == 0 || w.before == '\n':
		case w.before < utf8.RuneSelf:
			w.run.prev = rune(w.before)
		default:
			w.run.prev = utf8.RuneError // no letter of a word, nor the end of a line
		}
	}
}

// scan runs the matchers over a window, notes what they find, and gives the
// position from which bytes may still become part of a match.
func (w *Writer) scan(t *window, fresh int) int64 {
	live := t.base + int64(len(t.text))
	if w.scanner.values != nil {
		w.overlay.scan(&w.scanner, t, fresh)
		live = min(w.scanner.finish(t), w.overlay.finish(t))
	}
	if w.m.shape {
		live = min(live, scanShape(t, fresh, w.found))
	}
	if w.run != nil {
		w.run.scan(t.text[fresh:])
		live = min(live, w.run.live())
	}
	return live
}

// found notes a match.
func (w *Writer) found(start, end int64) {
	if n := len(w.cover); n > 0 && w.cover[n-1].start <= end && start <= w.cover[n-1].end {
		last := &w.cover[n-1]
		last.start, last.end = min(start, last.start), max(end, last.end)
		return
	}
	w.cover = append(w.cover, span{start, end})
}

// release passes on all bytes before limit, and beyond it those that are covered
// already, which no later byte can change. The text begins at base.
func (w *Writer) release(text []byte, limit int64) {
	if len(w.cover) == 0 {
		if w.done < limit {
			w.send(text[w.done-w.base : limit-w.base])
			w.done, w.masked = limit, false
		}
		return
	}
	w.join()
	spent := 0
	for {
		next := limit
		if spent < len(w.cover) {
			next = min(next, w.cover[spent].start)
		}
		if w.done < next {
			w.out = append(w.out, text[w.done-w.base:next-w.base]...)
			w.done, w.masked = next, false
		}
		if spent == len(w.cover) || w.cover[spent].start > w.done {
			break
		}
		if w.cover[spent].end > w.done {
			if !w.masked {
				w.out = append(w.out, w.m.mask...)
			}
			w.done, w.masked = w.cover[spent].end, true
		}
		spent++
	}
	w.cover = w.cover[:copy(w.cover, w.cover[spent:])]
	w.send(w.out)
	w.out = w.out[:0]
}

// join puts the matches in order; those that touch become one.
func (w *Writer) join() {
	slices.SortFunc(w.cover, func(a, b span) int { return int(a.start - b.start) })
	kept := w.cover[:1]
	for _, s := range w.cover[1:] {
		if last := &kept[len(kept)-1]; s.start <= last.end {
			last.end = max(last.end, s.end)
		} else {
			kept = append(kept, s)
		}
	}
	w.cover = kept
}

// send gives bytes to the writer beneath.
func (w *Writer) send(p []byte) {
	if len(p) == 0 || w.err != nil {
		return
	}
	n, err := w.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	w.err = err
}

// Flush is for when nothing may come for a while, as after a prompt: a beginning
// of a match that is held back is passed on if it has at most [ShownPrefix] bytes,
// line ends around it included. Should it become a match after all, the rest of it
// is masked. What is longer waits for more bytes or for Close, however long they
// take, or a good part of a secret would be shown.
//
// Flush then calls the Flush method of the writer beneath, if it has one that
// returns nothing or an error, and reports the error of an earlier Write.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.showPrefix()
	}
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

// showPrefix passes on what is held back, if it is short.
func (w *Writer) showPrefix() {
	length := 0
	for _, b := range w.held[w.live-w.base:] {
		if !lineEnd(b) {
			length++
		}
	}
	if length <= ShownPrefix {
		w.release(w.held, w.base+int64(len(w.held)))
	}
}

// arm sets the timer, unless it is set.
func (w *Writer) arm() {
	if w.armed {
		return
	}
	w.armed, w.seen = true, w.writes
	if w.timer == nil {
		w.timer = time.AfterFunc(w.m.flushAfter, w.late)
		return
	}
	w.timer.Reset(w.m.flushAfter)
}

// late is called by the timer.
func (w *Writer) late() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	switch {
	case w.closed || w.done >= w.base+int64(len(w.held)):
	case w.seen != w.writes: // what is held back now may have come a moment ago
		w.arm()
	default:
		w.showPrefix()
	}
}

// Close ends the stream. What was held back is no match any more and is passed on,
// but for the first [MinValue] bytes or more of a value: a stream that was cut off
// within one. It doesn't close the writer beneath. A second Close does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.err
	}
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.scanner.deep {
		w.foundPart(&w.scanner.cursor)
	}
	if w.overlay.on {
		w.foundPart(&w.overlay.cursor)
	}
	if w.run != nil {
		w.run.end()
	}
	w.release(w.held, w.base+int64(len(w.held)))
	w.held, w.cover, w.out = nil, nil, nil
	return w.err
}

// foundPart notes the beginning of a value with which a stream ends.
func (w *Writer) foundPart(c *cursor) {
	if t := w.scanner.trie; c.node != 0 && t.depth[c.node] >= MinValue {
		w.found(c.start(t), c.at[len(c.at)-1]+1)
	}
}
