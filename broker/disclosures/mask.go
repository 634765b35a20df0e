package disclosures

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"

	"github.com/daypass/daypass/broker/leaks"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/redact"
)

const (
	// piece is how much of a stream is looked at for values at a time.
	piece = 64 << 10
	// reach is how far a value may go on, as it is written: what is held back of a
	// stream whose bytes keep coming.
	reach = 16 << 10
	// maxVerdicts is how many candidates of a stream are remembered.
	maxVerdicts = 4096
)

// Mask is one stream that is masked: what is written to it comes out at the other
// end, with masks in place of secrets. The broker's own tokens are found by their
// checksums and other values by their anchors, in all encodings; then come the patterns.
//
// While bytes keep coming, the last of them are held back as far as a value could
// go on. Flush is for when none come: it lets go of all but the word that the stream
// ends with, which may be the beginning of a value. What is issued while a stream
// runs is masked in it; of patterns it has those that there were when it began. Not
// safe for concurrent use.
type Mask struct {
	service *Service
	ctx     context.Context //nolint:containedctx // of one stream: a Writer has no place for it
	anchors *leaks.Anchors
	own     map[[32]byte]bool // fingerprints of a session's values; nil: everybody's count
	buf     []byte
	inner   *redact.Writer
	end     func()
	done    map[[32]byte]bool // candidates that were looked up
}

// Mask begins a stream. The caller closes it.
func (s *Service) Mask(ctx context.Context, scope Scope, to io.Writer) (_ *Mask, err error) {
	end, err := s.begin(&scope)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	m := &Mask{service: s, ctx: ctx, end: sync.OnceFunc(end), done: map[[32]byte]bool{}}
	var rules []leases.Rule
	if scope.Session != nil {
		if m.anchors, m.own, err = s.own(ctx, scope.Session); err == nil {
			rules, err = s.config.Store.RulesOf(ctx, scope.Session.TokenHash)
		}
	} else {
		if m.anchors, err = s.known.get(ctx); err == nil {
			rules, err = s.config.Store.Rules(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	masker, err := s.maskers.of(rules)
	if err != nil {
		return nil, err
	}
	m.inner = masker.Writer(to)
	return m, nil
}

// Write takes bytes and passes on what no value can reach any more.
func (m *Mask) Write(p []byte) (int, error) {
	m.buf = append(m.buf, p...)
	for len(m.buf) >= piece+reach {
		if err := m.release(len(m.buf) - reach); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Flush passes on what waits, but for the word at the end.
func (m *Mask) Flush() error {
	word := bytes.LastIndexFunc(m.buf, func(r rune) bool { return r <= ' ' }) + 1
	if err := m.release(word); err != nil {
		return err
	}
	return m.inner.Flush()
}

// Close passes on the rest.
func (m *Mask) Close() error {
	defer m.end()
	if err := m.release(len(m.buf)); err != nil {
		return err
	}
	return m.inner.Close()
}

// Abandon ends a stream that isn't passed on to its end.
func (m *Mask) Abandon() { m.end() }

// release passes on the first bytes of what waits, masked where a value begins
// among them, wherever it ends.
func (m *Mask) release(upTo int) error {
	if upTo <= 0 {
		return nil
	}
	spans, err := m.find()
	if err != nil {
		return err
	}
	at := 0
	for _, span := range spans {
		if span.from >= upTo {
			break
		}
		if span.from > at {
			if _, err := m.inner.Write(m.buf[at:span.from]); err != nil {
				return err
			}
		}
		if span.to > at {
			if err := m.mask(); err != nil {
				return err
			}
		}
		at = max(at, span.to)
	}
	if at < upTo {
		if _, err := m.inner.Write(m.buf[at:upTo]); err != nil {
			return err
		}
		at = upTo
	}
	m.buf = m.buf[:copy(m.buf, m.buf[at:])]
	return nil
}

func (m *Mask) mask() error {
	_, err := io.WriteString(m.inner, redact.DefaultMask)
	return err
}

type span struct{ from, to int }

// find finds the values in what waits, in order.
func (m *Mask) find() ([]span, error) {
	if m.own == nil {
		ctx, cancel := withTimeout(m.ctx)
		defer cancel()
		anchors, err := m.service.known.get(ctx) // with what was issued meanwhile
		if err != nil {
			return nil, err
		}
		m.anchors = anchors
	}
	var spans []span
	stream := leaks.New(leaks.Config{Tokens: true, Anchors: m.anchors, Encoded: true}).Stream(func(h leaks.Hit) (err error) {
		is := h.Token != 0 // whose checksum holds
		if !is {
			is, err = m.verify(h.Value)
		}
		if is {
			spans = append(spans, span{int(h.Offset), int(h.Offset) + h.Length})
		}
		return err
	})
	if _, err := stream.Write(m.buf); err != nil {
		return nil, err
	}
	return spans, stream.Close()
}

// verify says whether a candidate is a value that is to be masked.
func (m *Mask) verify(value []byte) (bool, error) {
	sum := m.service.config.Prints.Sum(value)
	if m.own != nil {
		return m.own[sum], nil
	}
	if is, known := m.done[sum]; known {
		return is, nil
	}
	ctx, cancel := withTimeout(m.ctx)
	defer cancel()
	found, err := m.service.config.Store.FindPrints(ctx, [][32]byte{sum}, nil)
	if err != nil {
		return false, err
	}
	if len(m.done) >= maxVerdicts {
		clear(m.done)
	}
	m.done[sum] = len(found) > 0
	return len(found) > 0, nil
}

// maskers remembers the last masker for everybody's logs: its patterns take a while
// to compile.
type maskers struct {
	mu     sync.Mutex
	key    string
	masker *redact.Masker
}

func (m *maskers) of(rules []leases.Rule) (*redact.Masker, error) {
	patterns := make([]string, 0, len(rules))
	seen := map[string]bool{}
	for i := range rules {
		if p := rules[i].Pattern; !seen[p] {
			seen[p] = true
			patterns = append(patterns, p)
		}
	}
	key := strings.Join(patterns, "\x00")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.masker != nil && m.key == key {
		return m.masker, nil
	}
	masker, err := redact.New(redact.Config{Patterns: patterns, Shape: true})
	if err != nil {
		return nil, err
	}
	m.key, m.masker = key, masker
	return masker, nil
}
