package isolated

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	maxLine = 512 // bytes of a line that are logged
	// maxLines are logged in one lineWindow; a module that prints at each call must
	// not fill the log.
	maxLines   = 50
	lineWindow = time.Minute
)

// output logs what the child's module prints, without the PIN: some print what
// they are called with. It is written to by one goroutine.
type output struct {
	logger *slog.Logger
	secret string
	now    func() time.Time

	mu    sync.Mutex
	line  []byte
	cut   bool // the line is longer than what was kept of it
	since time.Time
	lines int
}

// Write implements io.Writer. It never fails: the child would notice.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		// So much more that a secret that begins in the line is seen whole.
		room := maxLine + len(o.secret) - len(o.line)
		o.cut = o.cut || len(part) > room
		o.line = append(o.line, part[:min(len(part), room)]...)
		if ended {
			o.flush()
		}
		rest = after
	}
	return len(p), nil
}

// end logs what was printed without an end of line.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
}

// flush logs the line. o.mu is held.
func (o *output) flush() {
	text := string(o.line)
	if o.secret != "" {
		text = strings.ReplaceAll(text, o.secret, "[redacted]")
		if o.cut {
			text = text[:max(0, len(text)-len(o.secret))] // where it may begin
		}
	}
	text = strings.ToValidUTF8(text[:min(len(text), maxLine)], "?")
	cut := o.cut
	clear(o.line)
	o.line, o.cut = o.line[:0], false
	if strings.TrimSpace(text) == "" {
		return
	}
	now := o.now()
	if now.Sub(o.since) >= lineWindow {
		o.since, o.lines = now, 0
	}
	o.lines++
	switch {
	case o.lines < maxLines:
		o.logger.Warn("the PKCS#11 module's process printed", "line", text, "cut", cut)
	case o.lines == maxLines:
		o.logger.Log(context.Background(), slog.LevelWarn, "the PKCS#11 module's process prints too much: the rest of a minute is left out")
	}
}
