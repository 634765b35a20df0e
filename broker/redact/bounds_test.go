package redact

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/daypass/daypass/issuers"
)

// Every way to split a short text, and every way to split a longer one into three.
func TestEverySplit(t *testing.T) {
	m, err := New(Config{Values: []string{"abcabcXYZ", "cXYZabcabc"}, Patterns: []string{`q.q`}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"abcabcabcXYZab", "abcab\ncXYZabcab", "abc\x1b[mabcXYZ", "ab\r\ncabcX\nYZ", "cXYZabcabcXYZ"} {
		want := maskWith(t, m, text)
		for cuts := range 1 << (len(text) - 1) {
			var pieces []string
			from := 0
			for i := 1; i < len(text); i++ {
				if cuts>>(i-1)&1 != 0 {
					pieces, from = append(pieces, text[from:i]), i
				}
			}
			if got := maskWith(t, m, append(pieces, text[from:])...); got != want {
				t.Fatalf("%q in pieces %q: got %q, want %q", text, pieces, got, want)
			}
		}
	}
	secret := "vR7qkP2mX9cT4bN8wL3sJ6hD1fG5zY0aQ"
	m, err = New(Config{Values: []string{secret, "hunter2\"hunter3"}, Shape: true, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	text := "x" + secret[:20] + "\r\n" + secret[20:] + " " + issuers.Generate('t').Reveal() + secret[:30] + " \x1b[1mhunt\x1b[0mer2\\\"hunter3" + secret[:9]
	want := "x* *" + secret[:30] + " \x1b[1m*"
	for i := range len(text) + 1 {
		for j := i; j <= len(text); j++ {
			if got := maskWith(t, m, text[:i], text[i:j], text[j:]); got != want {
				t.Fatalf("split at %d and %d: got %q, want %q", i, j, got, want)
			}
		}
	}
}

// hostile are texts that make matchers begin often, or go far for nothing.
func hostile(secret string) map[string]string {
	const size = 1 << 17
	again := func(s string) string { return strings.Repeat(s, size/len(s)+1) }
	return map[string]string{
		"all but the last byte":        again(secret[:len(secret)-1] + "!"),
		"the beginning":                again(secret[:min(len(secret), 41)]),
		"a block":                      again(secret[20:28]),
		"the last block looked at":     again(secret[30:40]),
		"the first bytes":              again(secret[:5]),
		"one byte":                     again(secret[:1]),
		"a byte a line":                again(secret[:1] + "\n"),
		"line ends":                    again("\n"),
		"sequences":                    again("\x1b[m"),
		"escapes":                      again("\x1b"),
		"bytes with sequences between": again(secret[:1] + "\x1b[m" + secret[1:2] + "\x1b[m"),
		"the secret with sequences":    again(strings.Join(strings.Split(secret[:len(secret)-1], ""), "\x1b[m")),
		"short writes of sequences":    again(secret[:3] + "\x1b[m\n\x1b[m" + secret[3:6]),
	}
}

// However hostile a text is, each byte of it goes through the automaton a bounded
// number of times.
func TestWorkIsLinear(t *testing.T) {
	random := "vR7qkP2mX9cT4bN8wL3sJ6hD1fG5zY0aQeU"
	for name, secret := range map[string]string{
		"random": random + random[:20], "two letters": strings.Repeat("ab", 5000), "almost one letter": strings.Repeat("a", 5000) + "b", "short": "hunter22" + strings.Repeat(" ", 33),
	} {
		m, err := New(Config{Values: []string{secret, secret[1:], secret[:len(secret)/2] + "-"}, Shape: true, Mask: "*"})
		if err != nil {
			t.Fatal(err)
		}
		for kind, text := range hostile(secret) {
			for _, size := range []int{7, 1 << 17} {
				w := m.Writer(io.Discard)
				for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
					if _, err := io.WriteString(w, rest[:min(size, len(rest))]); err != nil {
						t.Fatal(err)
					}
				}
				// A write begins anew with what it holds back: at most the bytes of two blocks.
				most := 12 * int64(len(text))
				if got := w.scanner.steps + w.overlay.steps; got > most {
					t.Errorf("%s secret, %s, writes of %d bytes: %.1f steps a byte", name, kind, size, float64(got)/float64(len(text)))
				}
			}
		}
	}
}

// A line without end, with secrets in it: what is kept doesn't grow.
func TestLongLine(t *testing.T) {
	secret := issuers.Generate('p').Reveal()
	m, err := New(Config{Values: []string{secret, "hunter2 hunter3"}, Patterns: []string{`key-[0-9]+`}, Shape: true, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat("no end to it; ", 1<<17)[:1<<20-200] + secret + " key-77 hunter2 hunter3 hun"
	var out bytes.Buffer
	w := m.Writer(&out)
	var got, masks int
	for range 64 {
		if _, err := io.WriteString(w, block); err != nil {
			t.Fatal(err)
		}
		got += out.Len()
		masks += strings.Count(out.String(), "*")
		out.Reset()
		if kept := cap(w.held) + cap(w.out) + 16*cap(w.cover) + 8*cap(w.scanner.at) + 8*cap(w.overlay.at); kept > 256<<10 {
			t.Fatalf("%d bytes are kept", kept)
		}
	}
	if masks != 3*64 || got < 64*(1<<20-300) {
		t.Errorf("%d masks in %d bytes, want 192", masks, got)
	}
}

func TestManySecrets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	secrets := make([]string, 10_000)
	for i := range secrets {
		secrets[i] = fmt.Sprintf("s%04d%08x", i, random.Uint32())
	}
	m, err := New(Config{Values: secrets, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	var text, want strings.Builder
	for i, secret := range secrets {
		form := secret
		if i%100 == 0 {
			all := Forms(secret)
			form = all[i/100%len(all)]
		}
		fmt.Fprintf(&text, "%d: %s %s.\n", i, form, secret[:11])
		fmt.Fprintf(&want, "%d: * %s.\n", i, secret[:11])
	}
	if got := maskWith(t, m, text.String()); got != want.String() {
		t.Errorf("got %d bytes, want %d", len(got), want.Len())
	}
}

// A masked line costs no memory either, once buffers have grown.
func TestNoAllocationPerLine(t *testing.T) {
	secret := issuers.Generate('p').Reveal()
	m, err := New(Config{Values: []string{secret}, Shape: true})
	if err != nil {
		t.Fatal(err)
	}
	w := m.Writer(io.Discard)
	plain := []byte("2026-11-27T09:14:03Z connecting with a password, which ends in d\n")
	masked := []byte("2026-11-27T09:14:03Z connecting with " + secret + " \x1b[1mnow\x1b[0m\n")
	if n := testing.AllocsPerRun(1000, func() { _, _ = w.Write(plain) }); n != 0 {
		t.Errorf("%v allocations for a line", n)
	}
	w = m.Writer(io.Discard)
	if n := testing.AllocsPerRun(1000, func() { _, _ = w.Write(masked) }); n > 4 { // the checksum's
		t.Errorf("%v allocations for a line with a secret", n)
	}
}

// A block that is taken for another's, in the first piece of a value that a line
// end interrupts, must not hide where the value began.
func TestAFalseBlockHidesNothing(t *testing.T) {
	secret := "rPgwabjvL8WfLjjWtjE8X6tThPLQkpfmM6fuh2KP"
	m, err := New(Config{Values: []string{secret}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	for before := range 100 {
		for cut := 1; cut < len(secret); cut++ {
			lead := strings.Repeat("-", before)
			if got := maskWith(t, m, lead+secret[:cut]+"\r\n", secret[cut:]+"\n"); got != lead+"*\n" {
				t.Fatalf("%d bytes before, cut at %d: got %q", before, cut, got)
			}
		}
	}
}

// TestTablesAreMadeByTheFirstByte: they have megabytes, and most commands print nothing.
func TestTablesAreMadeByTheFirstByte(t *testing.T) {
	value := strings.Repeat("aB3-", 500)
	stream := func(text string) float64 {
		return testing.AllocsPerRun(1, func() {
			m, err := New(Config{Values: []string{value}, Shape: true})
			if err != nil {
				t.Fatal(err)
			}
			if text = m.String(text); strings.Contains(text, value) {
				t.Error("the value is not masked")
			}
		})
	}
	if none, some := stream(""), stream("x "+value); none > 10 || some < 100 {
		t.Errorf("%.0f allocations for an empty stream, %.0f for one that holds something", none, some)
	}
}
