package strictyaml_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/daypass/daypass/policies/strictyaml"
)

func seeds() []string {
	return []string{
		"title: a\nlist: [{name: b, port: 1}]\nclaims: {x: [1, true, \"y\"]}\n", "title: |\n  x\n", "a: &b *c\n", "? x\n: y\n",
		"title: 'a\n\n  b'\n", "- - -\n", "{{{", "title: >-\n\n x\n  y\nttl: 1m", "%Y\n---\n...\n", "title: \"\\u202e\"\n", "!!x", "a: b: c", "\"", "'", "#", "-\n-", "[a, , b]", "a:\n- b\n c",
		"title: a # b\n# c\nwords: [x,   # d\n  'y # z'] # e\n", "title: | # a\n  b # c\n # d\n", "# a\n---\ntitle: a\n", "title: \"a # b\n  # c\" # d\n", "title: >\n  # a\n\n# b\nttl: 1m #\n",
	}
}

// lines are the lines of a file, as its positions count them.
func lines(data []byte) []string {
	return strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
}

func FuzzDecode(f *testing.F) {
	for _, seed := range seeds() {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second outer
		mistakes := strictyaml.Decode("f", data, &first)
		again := strictyaml.Decode("f", data, &second)
		if !reflect.DeepEqual(mistakes, again) || !reflect.DeepEqual(first, second) {
			t.Fatal("two readings differ")
		}
		text := lines(data)
		for _, m := range mistakes {
			if m.File != "f" || m.Text == "" || m.Line < 0 || m.Line > len(text) || m.Col < 0 {
				t.Fatalf("the mistake %+v points nowhere in %d lines", m, len(text))
			}
			// A value that isn't there would stand behind the colon and a space.
			if m.Line > 0 && m.Col > utf8.RuneCountInString(text[m.Line-1])+2 {
				t.Fatalf("the mistake %+v points behind the line %q", m, text[m.Line-1])
			}
		}
		if len(mistakes) > 0 {
			return
		}
		if first.Title == "" && !strings.Contains(string(data), "title") {
			t.Fatal("a required key was not there and nobody said so")
		}
		if !bytes.HasSuffix(data, []byte("\n")) {
			return
		}
		var third outer
		if mistakes := strictyaml.Decode("f", append(slices.Clone(data), "# a comment\n"...), &third); len(mistakes) > 0 || !reflect.DeepEqual(first, third) {
			t.Fatalf("with a comment at its end the file is %+v with mistakes %v, without %+v", third, mistakes, first)
		}
	})
}

func TestComments(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []strictyaml.Comment
	}{
		{"every place", "# a\ntitle: b   #  c \n  # d\nlist:\n  - name: e#f # g\n#\n", []strictyaml.Comment{{1, 1, "a"}, {2, 12, "c"}, {3, 3, "d"}, {5, 15, "g"}, {6, 1, ""}}},
		{"texts", "title: 'a # b'\nwords: [\"c # d\", e#f] # g\none: {name: \"h \\\" # i\"}\n", []strictyaml.Comment{{2, 23, "g"}}},
		{"blocks", "title: |\n  a # b\n  # c\n# d\none:\n  name: >-\n    # e\n  # f\n", []strictyaml.Comment{{4, 1, "d"}, {8, 3, "f"}}},
		{"beyond ASCII", "title: äöü # ß\n", []strictyaml.Comment{{1, 12, "ß"}}},
		{"line ends", "title: a # b\r\n# c\r\n", []strictyaml.Comment{{1, 10, "b"}, {2, 1, "c"}}},
		{"brackets over lines", "words: [a, # b\n  'c # d', # e\n  f]\n", []strictyaml.Comment{{1, 12, "b"}, {2, 12, "e"}}},
		{"quotes over lines", "title: \"a\n  # b\" # c\n", []strictyaml.Comment{{2, 8, "c"}}},
		{"plain text over lines", "title: a\n  b#c\n  d # e\n", []strictyaml.Comment{{3, 5, "e"}}},
		{"behind a block's bar", "title: | # a\n  b # c\n", []strictyaml.Comment{{1, 10, "a"}}},
		{"lines apart", "title: |\n  a\n\n  # b\n\n# c\n", []strictyaml.Comment{{6, 1, "c"}}},
		{"unreadable", "title: [ # a\n", nil},
		{"a tab", "title: a\t# b\n", nil},
		{"refused", "title: &a b # c\n", nil},
		{"nothing but", "# a\n", nil},
	} {
		if got := strictyaml.Comments([]byte(tc.text)); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: the comments are %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func FuzzComments(f *testing.F) {
	for _, seed := range seeds() {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		comments := strictyaml.Comments(data)
		text := lines(data)
		for _, c := range comments {
			if c.Line < 1 || c.Line > len(text) || c.Col < 1 {
				t.Fatalf("the comment %+v stands nowhere", c)
			}
			line := []rune(text[c.Line-1])
			if c.Col > len(line) || line[c.Col-1] != '#' || strings.TrimSpace(string(line[c.Col:])) != c.Text {
				t.Fatalf("the comment %+v doesn't stand in the line %q", c, string(line))
			}
			text[c.Line-1] = strings.TrimRight(string(line[:c.Col-1]), " ")
		}
		if len(comments) == 0 {
			return
		}
		var with, without outer
		before := strictyaml.Decode("f", data, &with)
		after := strictyaml.Decode("f", []byte(strings.Join(text, "\n")), &without)
		if len(before) == 0 && (len(after) > 0 || !reflect.DeepEqual(with, without)) {
			t.Fatalf("with its comments the file is %+v, without %+v and %v", with, without, after)
		}
	})
}
