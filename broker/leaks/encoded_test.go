package leaks

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

func each(value string, format string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

func wrap(text string, width int, end string) string {
	var lines []string
	for ; len(text) > width; text = text[width:] {
		lines = append(lines, text[:width])
	}
	return strings.Join(append(lines, text), end)
}

func wide(text string, first, second int) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		pair := [2]byte{byte(u), byte(u >> 8)}
		b = append(b, pair[first], pair[second])
	}
	return string(b)
}

var std, web = base64.StdEncoding.EncodeToString, base64.RawURLEncoding.EncodeToString

// spellings are the forms in which a value is found, by name.
var spellings = map[string]struct {
	form  string
	write func(value string) string
}{
	"base64":                {"base64", func(v string) string { return std([]byte(v)) }},
	"base64, one before":    {"base64", func(v string) string { return std([]byte(">" + v)) }},
	"base64, two before":    {"base64", func(v string) string { return web([]byte("~?" + v + "??")) }},
	"base64 behind a path":  {"base64", func(v string) string { return "/x/" + web([]byte(v)) }},
	"base64, wrapped at 64": {"base64", func(v string) string { return wrap(std([]byte("user:somebody,password:"+v+" and more")), 64, "\n") }},
	"base64, wrapped at 76": {"base64", func(v string) string { return wrap(std([]byte(strings.Repeat("x", 40)+v)), 76, "\r\n") }},
	"base64, in YAML":       {"base64", func(v string) string { return wrap(std([]byte(strings.Repeat("x", 37)+v)), 64, "\n    ") }},
	"base64, in JSON":       {"base64", func(v string) string { return wrap(std([]byte(strings.Repeat("x", 37)+v)), 64, `\n`) }},
	"base64, lines with time": {"base64", func(v string) string {
		return wrap(std([]byte(strings.Repeat("x", 37)+v)), 76, "\n2026-11-27T07:36:00.1234567Z ")
	}},
	"base64 twice":       {"base64+base64", func(v string) string { return std([]byte(`{"auth":"` + std([]byte("user:"+v)) + `"}`)) }},
	"base64 three times": {"base64+base64+base64", func(v string) string { return web([]byte(web([]byte(web([]byte(v)))))) }},
	"PowerShell":         {"base64+utf-16", func(v string) string { return std([]byte(wide("echo "+v, 0, 1))) }},
	"hex":                {"hex", func(v string) string { return hex.EncodeToString([]byte(v)) }},
	"HEX":                {"hex", func(v string) string { return strings.ToUpper(hex.EncodeToString([]byte(v))) }},
	"hex, an odd place":  {"hex", func(v string) string { return "a" + hex.EncodeToString([]byte(v)) }},
	"xxd -p":             {"hex", func(v string) string { return wrap(hex.EncodeToString([]byte("0123456789"+v)), 60, "\n") }},
	"hex of base64":      {"hex+base64", func(v string) string { return hex.EncodeToString([]byte(std([]byte(v)))) }},
	"percent":            {"url", func(v string) string { return each(v, "%%%02X") }},
	"percent, lower":     {"url", func(v string) string { return each(v, "%%%02x") }},
	"percent, some":      {"url", func(v string) string { return v[:3] + each(v[3:5], "%%%02x") + v[5:] }},
	"percent, one":       {"url", func(v string) string { return v[:len(v)-1] + each(v[len(v)-1:], "%%%02x") }},
	"percent, twice":     {"url+url", func(v string) string { return url.QueryEscape(each(v, "%%%02X")) }},
	"base64 in a URL":    {"base64", func(v string) string { return url.QueryEscape(std([]byte("?>>?????" + v))) }},
	`\u`:                 {"backslash", func(v string) string { return each(v, `\u%04x`) }},
	`\u, one`:            {"backslash", func(v string) string { return each(v[:1], `\u%04X`) + v[1:] }},
	`\\u`:                {"backslash+backslash", func(v string) string { return each(v, `\\u%04x`) }},
	`\x`:                 {"backslash", func(v string) string { return each(v, `\x%02x`) }},
	"octal":              {"backslash", func(v string) string { return each(v, `\%03o`) }},
	"HTML":               {"html", func(v string) string { return each(v, "&#%d;") }},
	"HTML, hex":          {"html", func(v string) string { return each(v, "&#x%X;") }},
	"HTML, twice":        {"html+html", func(v string) string { return html.EscapeString(each(v, "&#%03d;")) }},
	"UTF-16LE":           {"utf-16", func(v string) string { return wide("\ufeff"+v+"\n", 0, 1) }},
	"UTF-16BE":           {"utf-16", func(v string) string { return wide("\ufeff"+v+"\n", 1, 0) }},
	"base64 in UTF-16":   {"utf-16+base64", func(v string) string { return wide(std([]byte(v)), 0, 1) }},
	"ANSI codes": {"ansi", func(v string) string {
		return "\x1b[32m" + v[:9] + "\x1b[01;31m\x1b[K" + v[9:20] + "\x1b[m" + v[20:] + "\x1b[0m"
	}},
	"ANSI in the prefix": {"ansi", func(v string) string { return v[:1] + "\x1b[1m" + v[1:] }},
	"base64, ANSI codes": {"ansi+base64", func(v string) string { b := std([]byte(v)); return b[:20] + "\x1b[1m" + b[20:] }},
}

// onlyTokens are forms in which tokens are found and other values not.
var onlyTokens = map[string]func(value string) string{
	"a terminal's line end":    func(v string) string { return v[:11] + "\n" + v[11:] },
	"two of them":              func(v string) string { return v[:9] + "\r\n" + v[9:29] + "\r\n" + v[29:] },
	"in the prefix":            func(v string) string { return v[:1] + "\n" + v[1:] },
	"in the prefix, elsewhere": func(v string) string { return v[:2] + "\r\n" + v[2:] },
	"before the underscore":    func(v string) string { return v[:3] + "\n" + v[3:] },
	"behind it":                func(v string) string { return v[:4] + "\n" + v[4:] },
}

func TestEveryFormIsFound(t *testing.T) {
	value, a := jwt(9)
	secret := token('p')
	f := New(Config{Tokens: true, Encoded: true, Anchors: anchorsOf(t, a)})
	alone := New(Config{Tokens: true, Encoded: true})
	plain := New(Config{Tokens: true, Anchors: f.config.Anchors})
	check := func(name string, f *Finder, text, form, value string) {
		t.Helper()
		got := slices.DeleteFunc(find(t, f, []byte(text), whole), func(h told) bool { return h.token == 0 && h.value != value })
		if len(got) != 1 || got[0].form != form || got[0].value != value {
			t.Errorf("%s: got %v, want %q in %q", name, got, form, text)
		}
	}
	for name, spelling := range spellings {
		for _, around := range [][2]string{{"", ""}, {"log: \"", "\" more\n"}, {"a=", "=="}} {
			text := around[0] + spelling.write(secret) + around[1]
			check(name, f, text, spelling.form, secret)
			check(name+", tokens alone", alone, text, spelling.form, secret)
			check(name+", another value", f, around[0]+spelling.write(value)+around[1], spelling.form, value)
			if got := find(t, plain, []byte(text), whole); len(got) != 0 {
				t.Errorf("%s, not asked for: %v", name, got)
			}
		}
	}
	for name, write := range onlyTokens {
		check(name, f, "x"+write(secret)+"\n", "wrapped", secret)
	}
}

// exact says where forms stand that begin and end with the value.
func TestPlaces(t *testing.T) {
	secret := token('s')
	f := New(Config{Tokens: true, Encoded: true})
	for name, margins := range map[string][2]int{
		"base64": {0, 2}, "hex": {0, 0}, "percent": {0, 0}, `\u`: {0, 0}, `\\u`: {0, 0}, "HTML": {0, 0}, "UTF-16LE": {2, 3}, "UTF-16BE": {3, 2}, "percent, some": {0, 0},
		"ANSI in the prefix": {0, 0}, "base64, two before": {2, 3}, "percent, twice": {0, 0},
	} {
		text := spellings[name].write(secret)
		got := find(t, f, []byte("  "+text+"  "), whole)
		if len(got) != 1 || got[0].offset != 2+margins[0] || got[0].length != len(text)-margins[0]-margins[1] {
			t.Errorf("%s: got %v, want it %d bytes from the begin and %d from the end of the %d from 2 on", name, got, margins[0], margins[1], len(text))
		}
	}
}

// TestBlocksDoNotMatter: what is found doesn't depend on where blocks and writes end.
func TestBlocksDoNotMatter(t *testing.T) {
	names := make([]string, 0, len(spellings))
	for name := range spellings {
		names = append(names, name)
	}
	slices.Sort(names)
	value, a := jwt(3)
	set := anchorsOf(t, a)
	rapid.Check(t, func(t *rapid.T) {
		config := Config{Tokens: true, Encoded: true}
		if rapid.Bool().Draw(t, "anchors") {
			config.Anchors = set
		}
		var text []byte
		for range rapid.IntRange(1, 6).Draw(t, "pieces") {
			secret := token('s')
			if rapid.Bool().Draw(t, "value") {
				secret = value
			}
			text = append(text, spellings[rapid.SampledFrom(names).Draw(t, "form")].write(secret)...)
			text = append(text, rapid.SampledFrom([]string{" ", "\n", "\x00\x00", "%", "\\", "some text, and more of it\n", "\x1b[0m "}).Draw(t, "between")...)
		}
		want := find(t, New(config), text, whole)
		f := New(config)
		f.block = rapid.IntRange(1, 3000).Draw(t, "block")
		got := find(t, f, text, func() int { return rapid.IntRange(1, 4000).Draw(t, "piece") })
		if !slices.Equal(got, want) {
			t.Fatalf("in blocks of %d: got %v, want %v, in %q", f.block, got, want, text)
		}
	})
}

// TestAcrossABlock puts every form over the seam of two blocks.
func TestAcrossABlock(t *testing.T) {
	value, a := jwt(3)
	f := New(Config{Tokens: true, Encoded: true, Anchors: anchorsOf(t, a)})
	for name, spelling := range spellings {
		for _, secret := range []string{token('v'), value} {
			form := spelling.write(secret)
			text := slices.Repeat([]byte("."), block-rand.IntN(len(form)))
			text[len(text)-1] = ' '
			got := find(t, f, append(append(text, form...), " ."...), whole)
			got = slices.DeleteFunc(got, func(h told) bool { return h.value != secret })
			if len(got) != 1 || got[0].form != spelling.form {
				t.Errorf("%s: got %v", name, got)
			}
		}
	}
}

func FuzzFinder(f *testing.F) {
	for _, spelling := range spellings {
		f.Add([]byte(spelling.write("dps_0123456789ABCDEFGHIJKLMNOPQ2Fu1vz")), uint16(7))
	}
	value := strings.Repeat("0123456789abcdef", 3)
	set := NewAnchors()
	if err := set.Add(anchor(value, 20, 1)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, n uint16) {
		config := Config{Tokens: true, Encoded: true, Anchors: set}
		cut := New(config)
		cut.block = int(n)%1000 + 1
		got := find(t, cut, text, func() int { return int(n) % 77 })
		if len(text) < 4<<10 { // all of it stands around any block
			if want := find(t, New(config), text, whole); !slices.Equal(got, want) {
				t.Errorf("in blocks of %d: got %v, want %v", cut.block, got, want)
			}
		}
		for _, hit := range got {
			if hit.offset < 0 || hit.length < 8 || hit.offset+hit.length > len(text) {
				t.Errorf("%v stands outside the text", hit)
			}
		}
	})
}
