package redact

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
)

// TestAgainstOracle tries texts made of pieces of what is looked for, so that every
// kind of overlap comes up, interrupted and split in every way.
func TestAgainstOracle(t *testing.T) {
	patterns := []string{`ab+a`, `b[^a]{2,5}c`, `(?i)cab|bac`, `a.*?c`, `é+b`, `[^\x00-\x7f]`, `c\n?c`}
	tokens := []string{
		issuers.Generate('p').Reveal(), issuers.Generate('t').Reveal(), "dpa_",
		issuers.Generate('s').Reveal()[:20], "dp", "d",
	}
	breaks := []string{
		"\n", "\r\n", "\r", "\x1b[31m", "\x1b[0;1m", "\x1b(B\x1b[m", "\x1b", "\x1b[", "\x1b[\n", "\x1b7", "\x1b[\x1b[m", "\n\x1b[m\n", "\x1b\xff",
		strings.Repeat("\n", MaxBreak), strings.Repeat("\r\n", MaxBreak), "\x1b[" + strings.Repeat("1", MaxBreak) + "m",
	}
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringOfN(rapid.SampledFrom([]rune("aabbcé\n")), 0, 12, -1)
		value := rapid.StringMatching(`[abc\n]{8,12}|(ab|abc|a){8,9}|(ab){4,20}|[0-9"'& %/]{16,40}|[a-c\x1b\[m]{8,12}|\pL{8,30}`).Filter(func(s string) bool { return !Common(s) })
		config := Config{
			Values:   rapid.SliceOfN(value, 0, 3).Draw(t, "values"),
			Patterns: rapid.SliceOfNDistinct(rapid.SampledFrom(patterns), 0, 3, rapid.ID).Draw(t, "patterns"),
			Shape:    rapid.Bool().Draw(t, "shape"),
		}
		looked := needlesOf(config.Values)
		var text strings.Builder
		for range rapid.IntRange(0, 12).Draw(t, "parts") {
			switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
			case kind <= 3 && len(looked) > 0:
				v := rapid.SampledFrom(looked).Draw(t, "needle")
				from := rapid.IntRange(0, len(v)).Draw(t, "from")
				if kind <= 2 {
					from = 0
				}
				v = v[from:rapid.IntRange(from, len(v)).Draw(t, "to")]
				for kind == 1 && v != "" && rapid.IntRange(0, 3).Draw(t, "break") > 0 {
					n := rapid.IntRange(0, len(v)).Draw(t, "before")
					text.WriteString(v[:n] + rapid.SampledFrom(breaks).Draw(t, "what"))
					v = v[n:]
				}
				text.WriteString(v)
			case kind == 4:
				text.WriteString(rapid.SampledFrom(tokens).Draw(t, "token"))
			default:
				text.WriteString(letters.Draw(t, "letters"))
				text.WriteString(rapid.SampledFrom([]string{"", "", "\xff", "\xc3", "\xa9", "\x1b", "\x1b[1m", "\r\n"}).Draw(t, "noise"))
			}
		}
		want := oracle(config, text.String())
		m, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := m.Writer(&out)
		longest := rapid.SampledFrom([]int{1, 3, 30, 300}).Draw(t, "longest")
		for rest := text.String(); rest != ""; {
			n := rapid.IntRange(1, min(len(rest), longest)).Draw(t, "split")
			if _, err := io.WriteString(w, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			if !strings.HasPrefix(want, out.String()) {
				t.Fatalf("too early: got %q of %q", out.String(), want)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("text %q\ngot  %q\nwant %q", text.String(), out.String(), want)
		}
	})
}

// TestSecretsInALog tries what the filter of blocks is for: many secrets of random
// letters, in long lines that hold pieces of them, and whole ones with line ends
// within. A piece that only looks like a value must not hide one that began before.
func TestSecretsInALog(t *testing.T) {
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringOfN(rapid.SampledFrom([]rune(base62)), 40, 40, -1)
		config := Config{Values: rapid.SliceOfN(letters, 1, 12).Draw(t, "values")}
		looked := needlesOf(config.Values)
		var text strings.Builder
		for range rapid.IntRange(1, 25).Draw(t, "parts") {
			v := rapid.SampledFrom(looked).Draw(t, "needle")
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0: // a piece that the filter may take for a value
				from := rapid.IntRange(0, len(v)-1).Draw(t, "from")
				text.WriteString(v[from:min(len(v), from+rapid.IntRange(6, 30).Draw(t, "length"))])
			case 1:
				text.WriteString(v)
			case 2, 3: // line ends at one or two places
				for range rapid.IntRange(1, 2).Draw(t, "breaks") {
					n := rapid.IntRange(0, len(v)).Draw(t, "before")
					text.WriteString(v[:n] + rapid.SampledFrom([]string{"\n", "\r\n", "\x1b[m"}).Draw(t, "what"))
					v = v[n:]
				}
				text.WriteString(v)
			default:
				text.WriteString(rapid.StringOfN(rapid.SampledFrom([]rune(base62+"  =:/\n")), 0, 60, -1).Draw(t, "noise"))
			}
		}
		want := oracle(config, text.String())
		m, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := m.Writer(&out)
		longest := rapid.SampledFrom([]int{7, 100, 1000}).Draw(t, "longest")
		for rest := text.String(); rest != ""; {
			n := rapid.IntRange(1, min(len(rest), longest)).Draw(t, "split")
			if _, err := io.WriteString(w, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("text %q\ngot  %q\nwant %q", text.String(), out.String(), want)
		}
	})
}
