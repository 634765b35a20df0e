package strictyaml_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

type inner struct {
	At   strictyaml.Where `yaml:"-"`
	Name string           `yaml:"name,required"`
	Port int              `yaml:"port"`
}

type outer struct {
	At     strictyaml.Where            `yaml:"-"`
	Title  string                      `yaml:"title,required"`
	On     bool                        `yaml:"enabled"`
	Ratio  float64                     `yaml:"ratio"`
	TTL    strictyaml.Duration         `yaml:"ttl"`
	List   []inner                     `yaml:"list"`
	Words  []string                    `yaml:"words"`
	One    *inner                      `yaml:"one"`
	Names  map[string]inner            `yaml:"names"`
	Claims map[string]strictyaml.Value `yaml:"claims"`
}

func TestDecode(t *testing.T) {
	var got outer
	mistakes := strictyaml.Decode("f.yaml", []byte(`---
title: "007"   # a comment
enabled: true
ratio: 0.5
ttl: 1h30m
list:
  - name: ä1
    port: 5432
  - {name: b}
words: [x, "yes"]
one:
  name: |-
    two
    lines
names: {k: {name: v}}
claims:
  s: "1"
  i: 1
  f: 1.5
  b: true
  l: [a, 2]
  m: {"n": o}
`), &got)
	for _, m := range mistakes {
		t.Error(m)
	}
	if got.Title != "007" || !got.On || got.Ratio != 0.5 || got.TTL.Std() != 90*time.Minute {
		t.Errorf("scalars: %+v", got)
	}
	if len(got.List) != 2 || got.List[0].Name != "ä1" || got.List[0].Port != 5432 || got.List[1].Name != "b" {
		t.Errorf("list: %+v", got.List)
	}
	if !reflect.DeepEqual(got.Words, []string{"x", "yes"}) || got.One.Name != "two\nlines" || got.Names["k"].Name != "v" {
		t.Errorf("words %q, one %q, names %+v", got.Words, got.One.Name, got.Names)
	}
	plain := map[string]any{}
	for name, v := range got.Claims {
		plain[name] = v.Plain()
	}
	want := map[string]any{"s": "1", "i": int64(1), "f": 1.5, "b": true, "l": []any{"a", int64(2)}, "m": map[string]any{"n": "o"}}
	if !reflect.DeepEqual(plain, want) {
		t.Errorf("claims are %#v, want %#v", plain, want)
	}
	if at := got.List[0].At.Of("port").String(); at != "f.yaml:8:11" {
		t.Errorf("port stands at %s, want f.yaml:8:11", at)
	}
	if at := got.List[0].At.Key("port").String(); at != "f.yaml:8:5" {
		t.Errorf("the key port stands at %s, want f.yaml:8:5", at)
	}
	if at := got.List[1].At.Key("absent").String(); at != "f.yaml:9:5" {
		t.Errorf("an absent key is said to stand at %s, want f.yaml:9:5", at)
	}
	if keys := got.At.Keys(); !reflect.DeepEqual(keys, []string{"title", "enabled", "ratio", "ttl", "list", "words", "one", "names", "claims"}) {
		t.Errorf("the keys are %q", keys)
	}
	if !got.At.Has("ttl") || got.At.Has("port") {
		t.Errorf("the keys %q: Has is wrong", got.At.Keys())
	}
	if at := got.Claims["l"].String(); at != "f.yaml:21:6" {
		t.Errorf("claims.l stands at %s, want f.yaml:21:6", at)
	}
	if at := got.List[1].At.Of("absent").String(); at != "f.yaml:9:5" {
		t.Errorf("an absent key is said to stand at %s, want f.yaml:9:5", at)
	}
}

func TestMistakes(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string // what each mistake contains, in order
	}{
		{"unknown key", "title: a\nenabeld: true\n", []string{"2:1: unknown key enabeld (hint: did you mean enabled?)"}},
		{"unknown key far off", "title: a\nzzzzzz: true\n", []string{"2:1: unknown key zzzzzz (hint: known are claims, enabled, list"}},
		{"missing", "ttl: 1m\n", []string{"1:1: the key title is missing"}},
		{"missing inside", "title: a\nlist: [{port: 1}]\n", []string{"2:8: the key name is missing"}},
		{"duplicate", "title: a\ntitle: b\n", []string{"2:1: the key title stands here twice, first in line 1"}},
		{"duplicate in other quotes", "title: a\n\"title\": b\n", []string{"2:1: the key title stands here twice"}},
		{"duplicate in a map", "title: a\nclaims: {a: x, a: y}\n", []string{"2:16: the key a stands here twice"}},
		{"number for text", "title: 007\n", []string{`1:8: a text is wanted here, this could be taken for a number (hint: quote it: "007")`}},
		{"bool for text", "title: true\n", []string{`a text is wanted here, this could be taken for a truth value`}},
		{"yes for text", "title: Yes\n", []string{`quote it: "Yes"`}},
		{"date for text", "title: 2026-12-01\n", []string{`a date (hint: quote it: "2026-12-01")`}},
		{"time for text", "title: 12:30\n", []string{`a number (hint: quote it: "12:30")`}},
		{"underscore number", "title: 1_000\n", []string{`quote it`}},
		{"yes in a value", "title: a\nclaims: {x: yes}\n", []string{`2:13: this could be taken for a truth value (hint: quote it: "yes")`}},
		{"octal in a value", "title: a\nclaims: {x: 014}\n", []string{`2:13: this could be taken for a number`}},
		{"True in a value", "title: a\nclaims: {x: True}\n", []string{`a truth value`}},
		{"nothing in a value", "title: a\nclaims: {x: , p: ~, q: null}\n", []string{"no value", "no value", "no value"}},
		{"on as a key", "title: a\nclaims: {on: x}\n", []string{`2:10: the key on could be taken for a truth value (hint: quote it: "on")`}},
		{"number as a key", "title: a\nclaims: {1: x}\n", []string{`could be taken for a number`}},
		{"text for bool", "title: a\nenabled: yes\n", []string{"2:10: true or false is wanted here"}},
		{"quoted bool", "title: a\nenabled: \"true\"\n", []string{"true or false is wanted here, this is a text"}},
		{"text for number", "title: a\nlist: [{name: x, port: \"1\"}]\n", []string{"a whole number is wanted here, this is a text"}},
		{"hex for number", "title: a\nlist: [{name: x, port: 0x10}]\n", []string{"a whole number is wanted here"}},
		{"huge number", "title: a\nlist: [{name: x, port: 99999999999999999999}]\n", []string{"is too large"}},
		{"number for duration", "title: a\nttl: 15\n", []string{"2:6: a duration is wanted here, this is a number (hint: write a number and s, m, h or d, such as 15m)"}},
		{"fraction of an hour", "title: a\nttl: 1.5h\n", []string{"a duration is wanted here"}},
		{"list for mapping", "title: a\none: [x]\n", []string{"a mapping is wanted here, this is a list"}},
		{"mapping for list", "title: a\nlist: {name: x}\n", []string{"a list is wanted here, this is a mapping"}},
		{"text for list", "title: a\nwords: x\n", []string{"a list is wanted here, this is a text (hint: put it in brackets"}},
		{"unquoted braces", "title: {x}\n", []string{"a text that begins with { stands in quotes"}},
		{"no value", "title:\n", []string{"no value (hint: give it a value or leave the key out)"}},
		{"an empty block of text", "title: |\n", []string{"1:8: no value"}},
		{"a block of blank lines", "title: |+\n\n  \none: {name: x}\n", []string{"1:8: no value"}},
		{"empty", "", []string{"the file is empty"}},
		{"only a comment", "# x\n", []string{"the file is empty"}},
		{"not a mapping", "just text\n", []string{"a mapping is wanted here, this is a text"}},
		{"two documents", "title: a\n---\ntitle: b\n", []string{"2:1: one file holds one document"}},
		{"document end", "title: a\n...\n", []string{"one file holds one document"}},
		{"a tight colon", "title: a\nclaims: {b:c, d:[e]}\n", []string{"2:11: a colon without a space behind it (hint: write key: value; a text with a colon stands in quotes)", "2:16: a colon"}},
		{"a tight colon in a list", "title: a\nclaims: {b: [c:d]}\n", []string{"2:15: a colon without a space behind it"}},
		{"a colon on a line of its own", "title #\n: 0A", []string{"2:1: a colon on another line than its key"}},
		{"the same in brackets", "title: a\nclaims: {b\n  : c}\n", []string{"2:10: map key definition includes an implicit line break"}},
		{"colons of which all readers think the same", "title: a\nclaims: {\"b\":c, d: e:f, g: [http://h], i:\n  j}\nwords: [k:l]\n", nil},
		{"anchor and alias", "title: &a b\none: *a\n", []string{"1:8: anchors are not accepted", "2:6: aliases are not accepted"}},
		{"merge", "title: a\none:\n  <<: {name: x}\n", []string{"3:3: merge keys are not accepted", "3:3: the key name is missing"}},
		{"tag", "title: !!str 1\n", []string{"1:8: tags are not accepted", "1:13: a text is wanted here"}},
		{"directive", "%YAML 1.2\n---\ntitle: a\n", []string{"1:1: directives are not accepted", "2:1: one file holds one document"}},
		{"complex key", "? title\n: a\n", []string{"keys marked with ? are not accepted", "the key title is missing"}},
		{"tabs", "title: a\t# x\n\tlist: []\n", []string{"1:9: a tab", "2:1: a tab"}},
		{"not UTF-8", "title: \xff\n", []string{"1:8: this is not UTF-8"}},
		{"turned around", "title: a\u202eb\n", []string{"1:9: the invisible character U+202E"}},
		{"byte order mark", "\ufefftitle: a\n", []string{"1:1: the invisible character U+FEFF"}},
		{"lone carriage return", "title: a\rb: c\n", []string{"the invisible character U+000D"}},
		{"syntax", "title: a\n  b: c\n", []string{"1:8: mapping value is not allowed in this context"}},
		{"trailing bracket", "title: [a]]\n", []string{"1:"}},
		{"several at once", "titel: a\nenabled: 1\nlist: [{}]\n", []string{"1:1: unknown key titel", "1:1: the key title is missing", "2:10: true or false", "3:8: the key name"}},
		{"deep brackets", "title: a\nclaims: {x: " + strings.Repeat("[", 100000) + "}\n", []string{"nested more than 32 deep"}},
		{"deep dashes", "title: a\nwords:\n" + strings.Repeat("- ", 100000) + "\n", []string{"nested more than 32 deep"}},
		{"deep blocks", deepBlocks(40), []string{"nested more than 32 deep"}},
		{"braces around a block", "one: {name: |\n  x\n  }\n", []string{"2:3: "}},
		{"many keys", "title: a\n" + strings.Repeat("k: v\n", strictyaml.MaxKeys), []string{"20001:2: more than 20000 keys in one file"}},
		{"many anchors", "title: " + strings.Repeat("&a ", 5000) + "\n", slices.Repeat([]string{"anchors are not accepted"}, 1001)},
		{"many tabs", "title: a\n" + strings.Repeat("\tb\n", 5000), slices.Repeat([]string{"a tab"}, 1001)},
		{"a row of angles", "title: " + strings.Repeat("<", 100_000) + "\n", []string{"it has a row of 256 <"}},
		{"many keys in another way", "title: 'a\n  b'\n" + strings.Repeat("k: v\n", strictyaml.MaxKeys), []string{"20002:2: more than 20000 keys in one file"}},
		{"large", "title: " + strings.Repeat("a", strictyaml.MaxSize), []string{"the file has 1048583 bytes, more than 1048576"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var into outer
			mistakes := strictyaml.Decode("f.yaml", []byte(tc.text), &into)
			if len(mistakes) != len(tc.want) {
				t.Fatalf("%d mistakes, want %d: %v", len(mistakes), len(tc.want), mistakes)
			}
			for i, m := range mistakes {
				if !strings.Contains(m.String(), tc.want[i]) {
					t.Errorf("mistake %d is %q, want %q in it", i, m, tc.want[i])
				}
			}
		})
	}
}

func deepBlocks(depth int) string {
	var b strings.Builder
	b.WriteString("title: a\nclaims:\n")
	for i := range depth {
		b.WriteString(strings.Repeat(" ", i+1) + "k:\n")
	}
	b.WriteString(strings.Repeat(" ", depth+1) + "x\n")
	return b.String()
}

func TestCarriageReturns(t *testing.T) {
	var into outer
	if mistakes := strictyaml.Decode("f.yaml", []byte("title: a\r\nttl: 2d\r\n"), &into); len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if into.Title != "a" || into.TTL.Std() != 48*time.Hour {
		t.Errorf("read %q and %s", into.Title, into.TTL)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "90s": 90 * time.Second, "15m": 15 * time.Minute, "1h30m": 90 * time.Minute,
		"30d": 720 * time.Hour, "1d2h3m4s": 26*time.Hour + 3*time.Minute + 4*time.Second,
	} {
		if got, err := strictyaml.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %s and %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "15", "m", "-1m", "+1m", "1.5h", "1h1h", "1m1h", "1 m", "1M", "1ms", "99999999999s", "999999999d", "٣m"} {
		if got, err := strictyaml.ParseDuration(text); err == nil {
			t.Errorf("%q was accepted as %s", text, got)
		}
	}
}

func TestTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-11-23T10:00:00Z": "2026-11-23T10:00:00Z", `"2026-11-23T10:00:00.5+01:00"`: "2026-11-23T09:00:00.5Z",
		"2026-11-23": "", "2026-11-23T10:00:00": "", "2026-11-23 10:00:00Z": "", "2026-02-30T10:00:00Z": "", "12": "", "soon": "", "[]": "", "{}": "",
	} {
		var into struct {
			At strictyaml.Time `yaml:"at"`
		}
		mistakes := strictyaml.Decode("f.yaml", []byte("at: "+text+"\n"), &into)
		if want == "" {
			if len(mistakes) != 1 || mistakes[0].Col != 5 || mistakes[0].Hint == "" {
				t.Errorf("%s: read %s, mistakes %v", text, into.At.Std(), mistakes)
			}
			continue
		}
		if got := into.At.Std().UTC().Format(time.RFC3339Nano); len(mistakes) > 0 || got != want {
			t.Errorf("%s: read %s, mistakes %v", text, got, mistakes)
		}
	}
}

func TestDate(t *testing.T) {
	for text, want := range map[string]string{
		"2026-12-01": "2026-12-01T00:00:00Z", `"2026-12-01"`: "2026-12-01T00:00:00Z", "2026-12-01T10:00:00+01:00": "2026-12-01T09:00:00Z",
		"2026-12-1": "", "2026-02-30": "", "01.12.2026": "", "2026-12": "", "soon": "", "[]": "", "{}": "", "20261201": "",
	} {
		var into struct {
			Until strictyaml.Date `yaml:"until"`
		}
		mistakes := strictyaml.Decode("f.yaml", []byte("until: "+text+"\n"), &into)
		if want == "" {
			if len(mistakes) != 1 || mistakes[0].Col != 8 || mistakes[0].Hint != "write a day: 2026-12-01" {
				t.Errorf("%s: read %s, mistakes %v", text, into.Until.Std(), mistakes)
			}
			continue
		}
		if got := into.Until.Std().UTC().Format(time.RFC3339); len(mistakes) > 0 || got != want {
			t.Errorf("%s: read %s, mistakes %v", text, got, mistakes)
		}
	}
}

// length reads a duration, or the word forever.
type length struct {
	std     time.Duration
	forever bool
	at      strictyaml.Pos
}

func (l *length) DecodeYAML(v strictyaml.Value) (string, error) {
	l.at = v.Pos
	if v.Raw == "forever" {
		l.forever = true
		return "", nil
	}
	text, ok := v.Raw.(string)
	if !ok {
		return "write 15m, or forever", errors.New("a length is wanted here")
	}
	var err error
	l.std, err = strictyaml.ParseDuration(text)
	return "", err
}

func TestUnmarshaler(t *testing.T) {
	type lengths struct {
		TTL  length            `yaml:"ttl"`
		Max  *length           `yaml:"max"`
		List []length          `yaml:"list"`
		Map  map[string]length `yaml:"map"`
	}
	var got lengths
	mistakes := strictyaml.Decode("f", []byte("ttl: forever\nmax: 1h\nlist: [1m, forever]\nmap: {a: 2m}\n"), &got)
	if len(mistakes) > 0 || !got.TTL.forever || got.Max.std != time.Hour || got.List[0].std != time.Minute || !got.List[1].forever || got.Map["a"].std != 2*time.Minute {
		t.Errorf("read %+v, mistakes %v", got, mistakes)
	}
	if at := got.List[1].at.String(); at != "f:3:12" {
		t.Errorf("the method was told of the place %s, want f:3:12", at)
	}
	mistakes = strictyaml.Decode("f", []byte("ttl: 5\nmax: soon\nlist: [yes, ~]\nmap: {a: [on]}\n"), &lengths{})
	want := []string{
		"f:1:6: a length is wanted here (hint: write 15m, or forever)", `f:2:6: "soon" is not a duration`, "f:3:8: this could be taken for a truth value",
		"f:3:13: no value", "f:4:11: this could be taken for a truth value",
	}
	if len(mistakes) != len(want) {
		t.Fatalf("mistakes %v, want %q", mistakes, want)
	}
	for i, m := range mistakes {
		if !strings.Contains(m.String(), want[i]) {
			t.Errorf("mistake %d is %q, want %q in it", i, m, want[i])
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"issuer", "audience", "ttl", "max_ttl"}
	for word, want := range map[string]string{
		"isuser": "did you mean issuer?", "Issuer": "did you mean issuer?", "maxttl": "did you mean max_ttl?",
		"tll": "did you mean ttl?", "zzz": "known are audience, issuer, max_ttl, ttl",
	} {
		if got := strictyaml.Suggest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
