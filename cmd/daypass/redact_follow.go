package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/redact"
)

const (
	// tailPause is how often a file that had no more is looked at again.
	tailPause = 200 * time.Millisecond
	// patience is how long a broker may take to tell its rules before people are
	// told what is waited for.
	patience = 5 * time.Second
)

// followRules has rules follow the broker's, and returns once it has the first.
func (p *program) followRules(ctx context.Context, f *following, rules *ruleWriter) error {
	first, ended := make(chan struct{}), make(chan error, 1)
	known := false
	go func() {
		ended <- f.client.WatchRedactionRules(ctx, f.token, func(list api.RuleList) error {
			masker, err := maskerOf(list)
			switch {
			case err != nil && !known:
				return err
			case err != nil:
				p.say("warning: the broker's new rules can't be used: %v; masking goes on by the last ones", err)
				return nil
			}
			rules.set(masker)
			if !known {
				known = true
				close(first)
			}
			return nil
		})
	}()
	waiting := time.NewTimer(patience)
	defer waiting.Stop()
	for {
		select {
		case <-first:
			go func() {
				if err := <-ended; ctx.Err() == nil {
					p.say("warning: the broker tells no rules any more: %v; masking goes on by the last ones", err)
				}
			}()
			return nil
		case err := <-ended:
			if ctx.Err() != nil {
				return errors.New("interrupted before the broker had told its rules")
			}
			return err
		case <-waiting.C:
			p.say("waiting for the broker's rules: nothing is passed on before they are known")
		}
	}
}

func maskerOf(list api.RuleList) (*redact.Masker, error) {
	config := redact.Config{FlushAfter: showAfter}
	for _, rule := range list.Rules {
		if rule.Pattern != "" {
			config.Patterns = append(config.Patterns, rule.Pattern)
		}
	}
	masker, err := redact.New(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to mask by the broker's rules: %w", err)
	}
	return masker, nil
}

// ruleWriter masks by patterns that change under way. They change at the end of a
// line, where no pattern can be in the middle of a match.
type ruleWriter struct {
	dst io.Writer

	mu     sync.Mutex
	now    *redact.Writer // nil before the first
	next   *redact.Masker // nil when there is no other
	inLine bool           // what was written last ended no line
}

func (w *ruleWriter) set(next *redact.Masker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next = next; w.now == nil {
		w.now, w.next = next.Writer(w.dst), nil
	}
}

// Write implements io.Writer.
func (w *ruleWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := 0
	if w.next != nil {
		if w.inLine {
			taken = bytes.IndexByte(p, '\n') + 1
		}
		if taken > 0 {
			if n, err := w.now.Write(p[:taken]); err != nil {
				return n, err
			}
		}
		if taken > 0 || !w.inLine {
			if err := w.now.Close(); err != nil {
				return taken, err
			}
			w.now, w.next, w.inLine = w.next.Writer(w.dst), nil, false
		}
	}
	if taken == len(p) {
		return taken, nil
	}
	w.inLine = p[len(p)-1] != '\n'
	n, err := w.now.Write(p[taken:])
	return taken + n, err
}

// Close ends the stream, as that of redact.Writer does.
func (w *ruleWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now == nil {
		return nil
	}
	return w.now.Close()
}

// tail reads a file that grows, and goes on with the one that takes its place. It
// ends with its context.
type tail struct {
	ctx     context.Context //nolint:containedctx // a reader has no argument for it
	path    string
	every   time.Duration
	fromEnd bool // of the file that is there first

	file    *os.File
	leaving bool // another one is there; whoever wrote to this one may not know yet
}

// Read implements io.Reader.
func (t *tail) Read(p []byte) (int, error) {
	for {
		if t.file == nil {
			if err := t.open(); err != nil {
				return 0, err
			}
		}
		if t.file != nil {
			n, err := t.file.Read(p)
			t.leaving = t.leaving && n == 0
			if n > 0 || err != nil && !errors.Is(err, io.EOF) {
				return n, err
			}
			other, err := t.other()
			if err != nil {
				return 0, err
			}
			if other {
				continue
			}
		}
		select {
		case <-time.After(t.every):
		case <-t.ctx.Done():
			return 0, io.EOF
		}
	}
}

// open opens what is at the path; nothing may be there for a while.
func (t *tail) open() error {
	f, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.fromEnd = false // whatever comes is new
		return nil
	}
	if err == nil && t.fromEnd {
		_, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return fmt.Errorf("following the log: %w", err)
	}
	t.file, t.fromEnd = f, false
	return nil
}

// other says that there is more to read: the file was cut, or another one is at the
// path and nothing more will come in this one.
func (t *tail) other() (bool, error) {
	mine, err := t.file.Stat()
	if err != nil {
		return false, fmt.Errorf("following the log: %w", err)
	}
	at, err := t.file.Seek(0, io.SeekCurrent)
	if err == nil && mine.Size() < at {
		_, err = t.file.Seek(0, io.SeekStart)
		return true, err
	}
	if more := mine.Size() > at; more || !t.replaced(mine) {
		return more, nil
	}
	if !t.leaving {
		t.leaving = true
		return false, nil
	}
	_ = t.file.Close()
	t.file, t.leaving = nil, false
	return true, nil
}

// replaced says that another file is at the path. While nothing is there, whoever
// wrote may still write to this one.
func (t *tail) replaced(mine fs.FileInfo) bool {
	there, err := os.Stat(t.path)
	return err == nil && !os.SameFile(mine, there)
}
