package redact

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/daypass/daypass/issuers"
)

// mask writes the pieces to a new writer and closes it.
func mask(t testing.TB, config Config, pieces ...string) string {
	t.Helper()
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return maskWith(t, m, pieces...)
}

func maskWith(t testing.TB, m *Masker, pieces ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := m.Writer(&out)
	for _, piece := range pieces {
		if n, err := io.WriteString(w, piece); err != nil || n != len(piece) {
			t.Fatalf("Write = %d, %v; want %d", n, err, len(piece))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestMask(t *testing.T) {
	token := issuers.Generate(issuers.Password).Reveal()
	other := issuers.Generate(issuers.APIToken).Reveal()
	forged := token[:len(token)-1] + string('0'+(token[len(token)-1]+1)%10)
	pem := "-----BEGIN PRIVATE KEY-----\r\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0w\r\nshort\r\n-----END KEY-----\r\n"
	for _, test := range []struct {
		name   string
		config Config
		pieces []string
		want   string
	}{
		{"nothing to mask", Config{}, []string{"plain ", "text"}, "plain text"},
		{"no bytes", Config{Values: []string{"password1"}}, []string{"", ""}, ""},
		{"one value", Config{Values: []string{"password1"}}, []string{"a password1 b"}, "a * b"},
		{"split after a live prefix that restarts", Config{Values: []string{"abcabcXYZ"}}, []string{"abcab", "cXYZ."}, "*."},
		{"restart in the middle", Config{Values: []string{"abcabcXYZ"}}, []string{"abcabcab", "cXYZ."}, "abc*."},
		{"a prefix at the end is no match", Config{Values: []string{"password1"}}, []string{"my passwor"}, "my passwor"},
		{"overlapping values", Config{Values: []string{"aaaabbbb", "bbbbcccc"}}, []string{"xaaaabb", "bbccccx"}, "x*x"},
		{"a value within a value", Config{Values: []string{"0123456789abcdef", "456789ab"}}, []string{"0123456789abcdef 0123456789abcdeX"}, "* 0123*cdeX"},
		{"adjoining values make one mask", Config{Values: []string{"password1"}}, []string{"password1", "password1"}, "*"},
		{"a mask that stood already when its match grows", Config{Values: []string{"abcdefgh", "efghijklmn"}}, []string{"abcdefgh", "ijklmn!"}, "*!"},
		{"lines of a value", Config{Values: []string{pem}}, []string{" 1: -----BEGIN PRIVATE KEY-----\n 2: MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0w\n 3: short\n"}, " 1: *\n 2: *\n 3: short\n"},
		{"a whole value of several lines", Config{Values: []string{pem}}, []string{pem[:30], pem[30:], "."}, "*\r\n*\r\n."},
		{"a value of short lines", Config{Values: []string{"abcd\nefgh\nijkl"}}, []string{"abcd\nefgh\r\nijkl."}, "*."},
		{"bytes that are no text", Config{Values: []string{"\x00\xff\xfe\x80\x00\x01\x02\x03"}}, []string{"\xff\x00\xff\xfe\x80", "\x00\x01\x02\x03\xff"}, "\xff*\xff"},
		{"token by shape", Config{Shape: true}, []string{"t=" + token[:20], token[20:] + "\n"}, "t=*\n"},
		{"token with a wrong checksum", Config{Shape: true}, []string{forged}, forged},
		{"token after a false start", Config{Shape: true}, []string{"dpdp_dpp_dp" + token}, "dpdp_dpp_dp*"},
		{"tokens that adjoin", Config{Shape: true}, []string{token + other}, "*"},
		{"token over a value that covers its beginning", Config{Shape: true, Values: []string{"secret: dp"}}, []string{"secret: dp", token[2:]}, "*"},
		{"no shape unless asked", Config{}, []string{token}, token},
		{"pattern", Config{Patterns: []string{`key-[0-9]{4}`}}, []string{"a key-12", "34 b key-12x"}, "a * b key-12x"},
		{"pattern covers the longest match", Config{Patterns: []string{`[0-9]{4,}?`}}, []string{"a 1234", "5678 b"}, "a * b"},
		{"pattern ends with the line", Config{Patterns: []string{`pw=.*`}}, []string{"pw=a", "b\nc"}, "*\nc"},
		{"pattern doesn't cross lines", Config{Patterns: []string{`a\s+b`}}, []string{"a \nb a \tb"}, "a \nb *"},
		{"anchors are the line's", Config{Patterns: []string{`^id:\w+$`}}, []string{"id:a\nxid:b\nid:c d\nid", ":e"}, "*\nxid:b\nid:c d\n*"},
		{"word boundaries", Config{Patterns: []string{`\bkey\b`}}, []string{"key monkey key", "s key", "\nkey"}, "* monkey keys *\n*"},
		{"not at a boundary", Config{Patterns: []string{`\Bkey`}}, []string{"key monk", "ey"}, "key mon*"},
		{"runes split over writes", Config{Patterns: []string{`gehéim.`}}, []string{"geh\xc3", "\xa9im\xe2\x82", "\xac!"}, "*!"},
		{"a rune that is never finished", Config{Patterns: []string{`x.`}}, []string{"a\xe2\x82", "\n\xe2", "x\xe2\x82"}, "a\xe2\x82\n\xe2*\x82"},
		{"flags stay with their pattern", Config{Patterns: []string{`(?i)abc`, `xyz`}}, []string{"ABC XYZ xyz"}, "* XYZ *"},
		{"a pattern that can be empty", Config{Patterns: []string{`z*`}}, []string{"azzb"}, "a*b"},
		{"pattern and value overlap", Config{Values: []string{"hunter22"}, Patterns: []string{`pw=\w{4}`}}, []string{"pw=hun", "ter22 ok"}, "* ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.Mask = "*"
			if got := mask(t, test.config, test.pieces...); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			bytewise := strings.Split(strings.Join(test.pieces, ""), "")
			if got := mask(t, test.config, bytewise...); got != test.want {
				t.Errorf("rune by rune: got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// What can't become part of a match must show at once; what can must not.
func TestNothingIsHeldBackLongerThanNeeded(t *testing.T) {
	m, err := New(Config{
		Values:   []string{"password1", "abcdefghijkl", "efgh1234"},
		Patterns: []string{`key-[0-9]{4}`}, Shape: true, Mask: "*",
	})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := m.Writer(&out)
	for _, step := range []struct{ write, want string }{
		{"Name: ", "Name: "},
		{"50% [pass", "50% ["},
		{"!", "pass!"},
		{"password", ""},
		{"1", "*"}, // a whole match shows as its mask without waiting
		{"abcdefgh123", "abcd"},
		{"5", "efgh1235"},
		{"dpt_0123", ""},
		{"-", "dpt_0123-"},
		{"key-123", ""},
		{"x", "key-123x"},
		{"key-1234", "*"},
	} {
		out.Reset()
		if _, err := io.WriteString(w, step.write); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != step.want {
			t.Errorf("after writing %q: got %q, want %q", step.write, out.String(), step.want)
		}
	}
}

func TestLongMatches(t *testing.T) {
	config := Config{Patterns: []string{`A.*B`}, Mask: "*"}
	body := strings.Repeat("x", 3*MaxMatch)
	want := "A" + body[:2*MaxMatch+1] + "*!"
	for _, size := range []int{1, 2, 3, 5, 4096, 1 << 20} {
		var pieces []string
		for text := "A" + body + "B!"; text != ""; {
			n := min(size, len(text))
			pieces, text = append(pieces, text[:n]), text[n:]
		}
		if got := mask(t, config, pieces...); got != want {
			t.Errorf("pieces of %d bytes: got %d bytes, want %d: all but the last MaxMatch of a match", size, len(got), len(want))
		}
	}
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	w := m.Writer(io.Discard)
	for range 100 {
		if _, err := io.WriteString(w, "A"+body); err != nil {
			t.Fatal(err)
		}
	}
	if held := len(w.held); held > 2*(MaxMatch+8) {
		t.Errorf("%d bytes are held back, want about MaxMatch", held)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		config Config
		want   error
		text   string
	}{
		{"short value", Config{Values: []string{"long enough", "hunter2"}}, ErrTooShort, "value 1 has"},
		{"empty value", Config{Values: []string{""}}, ErrTooShort, "value 0 has"},
		{"bad pattern", Config{Patterns: []string{"ok", "hunter2("}}, ErrPattern, "pattern 1"},
		{"pattern that closes another's group", Config{Patterns: []string{"hunter2)|("}}, ErrPattern, "pattern 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := New(test.config)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v naming %q", err, test.want, test.text)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error gives the value away: %v", err)
			}
		})
	}
}

func TestErrorsOfTheWriterBeneath(t *testing.T) {
	m, err := New(Config{Values: []string{"password1"}})
	if err != nil {
		t.Fatal(err)
	}
	w := m.Writer(failing{})
	if _, err := io.WriteString(w, "a"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write: got %v, want the error of the writer beneath", err)
	}
	if err := w.Flush(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Flush: got %v, want the same error again", err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close: got %v, want the same error again", err)
	}
	if _, err := w.Write(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: got %v, want ErrClosed", err)
	}
	w = m.Writer(short{})
	if _, err := io.WriteString(w, "abc"); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v, want ErrShortWrite", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

// FuzzSplit checks that what comes out does not depend on how the text was
// split, assertions included, and that no value gets through.
func FuzzSplit(f *testing.F) {
	f.Add("abcabcXYZ", `\bab+\b`, "abcab", "cXYZ")
	f.Add("aaaaaaaa", `^a*$|b\B`, "aaaaaaa", "aaaab\nab")
	f.Add("password1", `(?i)pass|é.`, "p\xc3", "\xa9\xffassword1")
	f.Fuzz(func(t *testing.T, value, pattern, first, second string) {
		m, err := New(Config{Values: []string{value}, Patterns: []string{pattern}, Shape: true, Mask: "*"})
		if err != nil {
			return
		}
		text := first + second
		want := maskWith(t, m, text)
		if got := maskWith(t, m, first, second); got != want {
			t.Errorf("in two writes: got %q, in one: %q", got, want)
		}
		single := make([]string, len(text))
		for i := range len(text) {
			single[i] = text[i : i+1]
		}
		if got := maskWith(t, m, single...); got != want {
			t.Errorf("byte by byte: got %q, in one: %q", got, want)
		}
		if !strings.ContainsAny(value, "*\r\n") && strings.Contains(want, value) {
			t.Errorf("%q got through: %q", value, want)
		}
	})
}

func TestWriterIsSafeForConcurrentUse(t *testing.T) {
	m, err := New(Config{Values: []string{"password1"}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := m.Writer(&out)
	done := make(chan error)
	for range 4 {
		go func() {
			var err error
			for range 1000 {
				_, werr := io.WriteString(w, "password1\n")
				err = errors.Join(err, werr, w.Flush())
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("*\n", 4000); out.String() != want {
		t.Errorf("got %d bytes, want %d", out.Len(), len(want))
	}
}

func BenchmarkWrite(b *testing.B) {
	text := strings.Repeat("2026-11-23T10:00:00Z step 12/40: compiling package example.com/payments/deploy ... ok\n", 400)
	for name, config := range map[string]Config{
		"values":   {Values: []string{"Xpassword1", "dpp_0123456789"}, Shape: true},
		"patterns": {Values: []string{"Xpassword1"}, Shape: true, Patterns: []string{issuers.GeneratedPattern, `eyJ[\w-]+\.[\w-]+\.[\w-]+`}},
	} {
		b.Run(name, func(b *testing.B) {
			m, err := New(config)
			if err != nil {
				b.Fatal(err)
			}
			w := m.Writer(io.Discard)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := io.WriteString(w, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
