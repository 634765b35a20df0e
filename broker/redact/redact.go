// Package redact masks secrets in a stream of bytes: values that are known, in all
// the forms that encoders give them ([Forms]), tokens that the broker itself makes
// up, and patterns.
//
// A program of any kind can use it. Make one [Masker] of its secrets, and put it
// where text leaves:
//
//	m, err := redact.New(redact.Config{Values: secrets, Shape: true})
//	w := m.Writer(os.Stderr)            // an io.Writer; close it at the end
//	r := m.Reader(file)                 // an io.Reader
//	slog.New(m.Handler(slog.NewJSONHandler(os.Stderr, nil)))
//
// A stream arrives in pieces of any size, so a secret may be split at any byte.
// A [Writer] therefore holds back the bytes that could still become part of a
// match, and nothing else: what can no longer match is written at once, so a
// prompt or a progress bar mostly shows without a timer, and with
// [Config.FlushAfter] also where a secret begins as it ends. What comes out depends
// on the bytes alone, never on how they were split over calls of Write.
//
// Three matchers look at the stream:
//   - known values: a filter of blocks passes over what can be no value, at a few
//     bytes in each line, and an Aho–Corasick automaton for all forms of all values
//     decides about the rest. Line ends within a value are passed over, and so are
//     a terminal's escape sequences, by a second automaton that runs where there
//     are any;
//   - the broker's own tokens (package issuers): by shape, then by their checksum;
//   - patterns: the program that regexp/syntax compiles (RE2), run as an NFA
//     beside the stream.
//
// Each of them says two things: "these bytes are a match" and "from here on,
// bytes might still become one". Every byte that lies in some match is covered,
// whichever matcher found it and however matches overlap, and each run of
// covered bytes is replaced by one mask, the same for all secrets. All other bytes
// pass in order and unchanged.
//
// Time is linear in the length of the stream (for patterns, times their size).
// Memory is bounded by the longest value, [MaxBreak] between its bytes, 37 bytes for
// tokens, and [MaxMatch] for patterns.
package redact

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// DefaultMask stands where a secret stood.
	DefaultMask = "[daypass:redacted]"
	// MinValue is the length in bytes of the shortest value that can be masked.
	// Shorter ones stand in ordinary text by chance, and masks that appear there
	// would give the value away.
	MinValue = 8
	// MaxMatch bounds, in bytes, what is held back for a pattern. Of a longer
	// match the last MaxMatch bytes are masked.
	MaxMatch = 8 << 10
)

// What the errors of [New] wrap. They name the index of the value or pattern,
// never the value.
var (
	// ErrTooShort says that a value has less than [MinValue] bytes.
	ErrTooShort = errors.New("value too short to mask")
	// ErrCommon says that a value stands in ordinary text too often: see [Common].
	ErrCommon = errors.New("value too common to mask")
	// ErrPattern says that a pattern is not valid RE2 syntax.
	ErrPattern = errors.New("invalid pattern")
)

// Config says what to mask.
type Config struct {
	// Values are masked wherever one of their [Forms] stands, also when line ends or
	// a terminal's escape sequences interrupt it: at most [MaxBreak] bytes in a row,
	// and [MinPiece] bytes or more between two line ends. None when nil.
	Values []string
	// Patterns are regular expressions in RE2's syntax. A pattern matches within
	// one line, whose end is "\n"; ^, $, \A and \z stand for the ends of the line.
	// Everything that lies in any possible match is masked: greediness and
	// leftmost-first play no part. None when nil.
	Patterns []string
	// Shape masks tokens made by issuers.Generate whose checksum holds, known or not.
	Shape bool
	// FlushAfter is how long a Writer waits for more before it passes on the
	// beginning of a match that it holds back, if that has at most [ShownPrefix]
	// bytes. It may take twice as long. For ever when 0.
	FlushAfter time.Duration
	// Mask replaces each run of covered bytes; [DefaultMask] when empty.
	Mask string
}

// Masker knows what to mask. It doesn't change once made, and is safe for
// concurrent use: one serves any number of streams.
type Masker struct {
	mask       string
	values     *values // nil when there are none
	shape      bool
	patterns   *program // nil when there are none
	flushAfter time.Duration
}

// New prepares a masker. Errors wrap [ErrTooShort], [ErrCommon] or [ErrPattern].
func New(config Config) (*Masker, error) {
	m := &Masker{mask: cmp.Or(config.Mask, DefaultMask), shape: config.Shape, flushAfter: config.FlushAfter}
	for i, value := range config.Values {
		if len(value) < MinValue {
			return nil, fmt.Errorf("%w: value %d has less than %d bytes", ErrTooShort, i, MinValue)
		}
		if Common(value) {
			return nil, fmt.Errorf("%w: value %d", ErrCommon, i)
		}
	}
	m.values = newValues(config.Values)
	if len(config.Patterns) > 0 {
		p, err := compile(config.Patterns)
		if err != nil {
			return nil, err
		}
		m.patterns = p
	}
	return m, nil
}

// Writer gives a writer that masks what is written to it and passes the rest to
// w. Each stream needs one of its own; the caller closes it when the stream ends.
func (m *Masker) Writer(w io.Writer) *Writer {
	out := &Writer{m: m, dst: w}
	out.prepare()
	return out
}
