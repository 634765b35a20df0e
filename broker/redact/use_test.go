package redact

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
)

// TestUseAgainstOracle changes the masker at any place of a text: what the first one
// knows is masked wherever it stands, across the change too, and what the second one
// adds from the change on.
func TestUseAgainstOracle(t *testing.T) {
	patterns := []string{`ab+a`, `b[^a]{2,5}c`, `é+b`, `[^\x00-\x7f]`}
	breaks := []string{"\n", "\r\n", "\x1b[31m", "\x1b", "\x1b[", "\x1b[\x1b[m"}
	token := issuers.Generate('p').Reveal()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[abc\n]{8,12}|(ab|abc|a){8,9}|[0-9"'& %/]{16,40}|[a-c\x1b\[m]{8,12}`).Filter(func(s string) bool { return !Common(s) })
		before := Config{
			Values:   rapid.SliceOfN(value, 0, 2).Draw(t, "values"),
			Patterns: rapid.SliceOfNDistinct(rapid.SampledFrom(patterns), 0, 2, rapid.ID).Draw(t, "patterns"),
			Shape:    rapid.Bool().Draw(t, "shape"),
		}
		after := Config{
			Values:   append(rapid.SliceOfN(value, 1, 2).Draw(t, "new values"), before.Values...),
			Patterns: append(rapid.SliceOfN(rapid.SampledFrom(patterns), 0, 1).Draw(t, "new patterns"), before.Patterns...),
			Shape:    before.Shape,
		}
		looked := needlesOf(after.Values)
		part := func() string {
			switch kind := rapid.IntRange(0, 4).Draw(t, "kind"); kind {
			case 0, 1, 2:
				v := rapid.SampledFrom(looked).Draw(t, "needle")
				if kind == 0 {
					v = v[:rapid.IntRange(0, len(v)).Draw(t, "to")]
				}
				if n := rapid.IntRange(0, len(v)).Draw(t, "before"); kind == 1 {
					v = v[:n] + rapid.SampledFrom(breaks).Draw(t, "what") + v[n:]
				}
				return v
			case 3:
				return token[:rapid.IntRange(0, len(token)).Draw(t, "of the token")]
			default:
				return rapid.StringOfN(rapid.SampledFrom([]rune("aabbcé\n d")), 0, 12, -1).Draw(t, "letters")
			}
		}
		var joined strings.Builder
		for range rapid.IntRange(1, 8).Draw(t, "parts") {
			joined.WriteString(part())
		}
		text := joined.String()
		change := rapid.IntRange(0, len(text)).Draw(t, "change")

		var out bytes.Buffer
		w := newMasker(t, before).Writer(&out)
		write := func(rest string) {
			for rest != "" {
				n := rapid.IntRange(1, min(len(rest), 30)).Draw(t, "split")
				if _, err := io.WriteString(w, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
		}
		write(text[:change])
		shown, base, done := out.Len(), int(w.base), int(w.done)
		w.Use(newMasker(t, after))
		if out.Len() != shown {
			t.Fatalf("the change passed on %q", out.String()[shown:])
		}
		write(text[change:])
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}

		// Exactly what the first had found, and what the second finds in what was held back and behind it.
		covered := covers(before, text[:change], false)
		covered = append(covered, make([]bool, len(text)-change)...)
		for i, c := range covers(after, text[base:], true) {
			covered[base+i] = covered[base+i] || c && base+i >= done // what has been passed on has been
		}
		if want := masked(text, covered); out.String() != want {
			t.Fatalf("text %q, changed at %d, held from %d, passed on up to %d\ngot  %q\nwant %q", text, change, base, done, out.String(), want)
		}
		// That is no less than is promised.
		whole := covers(after, text, true)
		for i, old := range covers(before, text, true) {
			if old && !covered[i] {
				t.Fatalf("text %q, changed at %d: byte %d of an old secret is shown: %q", text, change, i, out.String())
			}
		}
		if strings.Contains(text[max(0, change-10):change], "\x1b") {
			return // what follows may be of an escape sequence, which can't be told from the part behind the change
		}
		for i, c := range covers(after, text[change:], true) {
			if c && whole[change+i] && !covered[change+i] {
				t.Fatalf("text %q, changed at %d: byte %d of a new secret is shown: %q", text, change, change+i, out.String())
			}
		}
	})
}

func newMasker(t interface{ Fatal(...any) }, config Config) *Masker {
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Where a change of masker comes says nothing of where a line or a word begins.
func TestUseKeepsTheContextOfPatterns(t *testing.T) {
	first := newMasker(t, Config{})
	second := newMasker(t, Config{Patterns: []string{`^secret`, `\bword\b`}, Mask: "*"})
	for before, want := range map[string]string{
		"":                  "* * xword",
		"in a line, ":       "in a line, secret * xword",
		"a line ends.\n":    "a line ends.\n* * xword",
		"in a word":         "in a wordsecret * xword",
		"behind a letter é": "behind a letter ésecret * xword",
	} {
		var out bytes.Buffer
		w := first.Writer(&out)
		_, _ = io.WriteString(w, before)
		w.Use(second)
		_, _ = io.WriteString(w, "secret word xword")
		if err := w.Close(); err != nil || out.String() != want {
			t.Errorf("%q: got %q, want %q (%v)", before, out.String(), want, err)
		}
	}
	var out bytes.Buffer
	w := first.Writer(&out)
	_, _ = io.WriteString(w, "x")
	w.Use(second)
	_, _ = io.WriteString(w, "word ")
	if err := w.Close(); err != nil || out.String() != "xword " {
		t.Errorf("a word that began before the change: %q, %v", out.String(), err)
	}
}

// A stream that has ended has no use for another masker.
func TestUseAfterClose(t *testing.T) {
	var out bytes.Buffer
	w := newMasker(t, Config{}).Writer(&out)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Use(newMasker(t, Config{Values: []string{"password1"}}))
	if _, err := io.WriteString(w, "password1"); err != ErrClosed || out.Len() > 0 { //nolint:errorlint // the very error
		t.Errorf("got %v and %q", err, out.String())
	}
}
