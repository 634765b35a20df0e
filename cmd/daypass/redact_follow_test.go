package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

func patterns(t interface{ Fatal(args ...any) }, list ...string) *redact.Masker {
	m, err := redact.New(redact.Config{Patterns: list})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Rules that change under way hold from the next line on, wherever writes are split,
// and no other byte is lost or moved.
func TestRulesChangeAtALineEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([abx]{0,4}\n?){0,12}`).Draw(t, "text")
		splits := rapid.SliceOfN(rapid.IntRange(1, 5), 1, 20).Draw(t, "splits")
		change := rapid.IntRange(0, 20).Draw(t, "change after writes")
		var out bytes.Buffer
		w := &ruleWriter{dst: &out}
		w.set(patterns(t, "a+"))
		at, from := 0, 0 // from: where the other rules begin
		for i := 0; at < len(text); i++ {
			if i == change {
				w.set(patterns(t, "b+"))
				if from = at; at > 0 && text[at-1] != '\n' {
					from = len(text)
					if end := strings.IndexByte(text[at:], '\n'); end >= 0 {
						from = at + end + 1
					}
				}
			}
			n := min(splits[i%len(splits)], len(text)-at)
			if got, err := w.Write([]byte(text[at : at+n])); err != nil || got != n {
				t.Fatalf("wrote %d of %d: %v", got, n, err)
			}
			if at += n; i < change {
				from = at
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		want := masked(text[:from], "a") + masked(text[from:], "b")
		if out.String() != want {
			t.Fatalf("got %q, want %q", out.String(), want)
		}
	})
}

func masked(text, secret string) string {
	var b strings.Builder
	for i := range len(text) {
		switch {
		case text[i:i+1] != secret:
			b.WriteByte(text[i])
		case i == 0 || text[i-1:i] != secret:
			b.WriteString(redact.DefaultMask)
		}
	}
	return b.String()
}

// A file is followed over rotation, also where its writer learns of it late, and over truncation.
func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(t.Context())
	in := &tail{ctx: ctx, path: path, every: 20 * time.Millisecond}
	var got lockedBuffer
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(&got, in)
		ended <- err
	}()
	write := func(f *os.File, text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); got.String() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("read %q, want %q", got.String(), want)
			}
		}
	}
	create := func(path string) *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	first := create(path) // it wasn't there when it was first looked for, perhaps
	write(first, "one ")
	expect("one ")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(first, "two ") // while nothing is at the path
	expect("one two ")
	write(first, "three ")
	second := create(path)
	write(second, "four ")
	expect("one two three four ")
	if err := second.Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(second, "5 ")
	expect("one two three four 5 ")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	write(second, "after the end")
	fresh := &tail{ctx: t.Context(), path: path, every: time.Millisecond, fromEnd: true}
	go func() { _, _ = second.WriteString("!") }()
	buf := make([]byte, 100)
	if n, err := fresh.Read(buf); err != nil || strings.HasPrefix(string(buf[:n]), "5 ") {
		t.Errorf("from the end: %q, %v", buf[:n], err)
	}
}

// rulesServer tells rules as a broker does, and can be cut off.
type rulesServer struct {
	mu    sync.Mutex
	asked int
	rules chan []api.Rule // each ends the connection before it
}

func (s *rulesServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	select {
	case rules := <-s.rules:
		_ = json.NewEncoder(w).Encode(api.RuleChange{Type: api.RulesAll, Rules: rules})
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // the broker is gone at once
	case <-r.Context().Done():
	}
}

// A log goes on while the broker is away, by the last rules, and by others when it is back.
func TestFollowOutlivesTheBroker(t *testing.T) {
	s := &rulesServer{rules: make(chan []api.Rule)}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	defer server.Close()
	c, err := client.New(client.Config{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	in, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, said lockedBuffer
	p := &program{stdin: in, stdout: &out, stderr: &said}
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		ended <- p.followLog(ctx, &redaction{follow: true}, "", &following{masker: patterns(t, "known-[0-9]+"), client: c, token: adminToken})
	}()
	line := func(text, want string) {
		t.Helper()
		before := out.String()
		if _, err := log.WriteString(text + "\n"); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); out.String() != before+want+"\n"; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("shown %q, want %q and a line with %q", out.String(), before, want)
			}
		}
	}
	if _, err := log.WriteString("one-1\n"); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "" {
		t.Errorf("before the rules were known: %q", got)
	}
	s.rules <- []api.Rule{{ID: "1", Pattern: "one-[0-9]+"}}
	for deadline := time.Now().Add(time.Minute); out.String() != redact.DefaultMask+"\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("shown %q", out.String())
		}
	}
	line("one-2 two-2 known-2", redact.DefaultMask+" two-2 "+redact.DefaultMask) // the broker is away
	s.rules <- []api.Rule{{ID: "2", Pattern: "two-[0-9]+"}}
	s.rules <- []api.Rule{{ID: "2", Pattern: "two-[0-9]+"}} // by now the first have been heard
	line("one-3 two-3", "one-3 "+redact.DefaultMask)
	_ = log.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(said.String(), "warning") {
		t.Errorf("said: %s", said.String())
	}
}
