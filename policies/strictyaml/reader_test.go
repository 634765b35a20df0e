package strictyaml

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// quick reads the text the quick way, and tells whether that way took it.
func quick(text string) (node, []Comment, bool) {
	r := reader{text: text, keep: true}
	root, ok := r.read()
	return root, r.comments, ok
}

// same reports where the quick way read something else than the slow way. The
// slow way takes the spaces at a line's end for part of a scalar when it counts
// columns, so places are compared without them.
func same(t *testing.T, text string) {
	t.Helper()
	root, comments, ok := quick(text)
	if !ok {
		return
	}
	trimmed := regexp.MustCompile(` +(\n|$)`).ReplaceAllString(text, "$1")
	for _, tc := range []struct {
		text     string
		compared func(node) node
	}{{text, placeless}, {trimmed, func(n node) node { return n }}} {
		s := &scan{file: "f"}
		want, ok := s.slow(tc.text)
		if !ok || len(s.mistakes) > 0 {
			t.Fatalf("%q was read the quick way, and refused by the slow one: %v", text, s.mistakes)
		}
		if got, want := tc.compared(root), tc.compared(want); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is\n%+v the quick way and\n%+v the slow way", text, got, want)
		}
		if want := lexed(s, tc.text); !reflect.DeepEqual(comments, want) {
			t.Fatalf("%q has the comments\n%+v the quick way and\n%+v the slow way", text, comments, want)
		}
	}
}

// placeless is a tree without lines and columns.
func placeless(n node) node {
	n.line, n.col = 0, 0
	n.items = slices.Clone(n.items)
	for i := range n.items {
		n.items[i] = placeless(n.items[i])
	}
	return n
}

func TestReaderTakesWhatPoliciesAreMadeOf(t *testing.T) {
	for _, text := range []string{
		"---\na: b\n", "# c\n\n---   # d\na: b\n", "a: b", "a:\n  b:\n    - c\n    - d: e\n      f: g\n  h: i\n", "a:\n- b\n- - c\n  - d\n-\n  - e\ng: h # i\n",
		"a: 'it''s'\nb: \"x\\\"\\\\\\n\\t\\/\"\n\"c d\": 'e'\n", "a: {b: c, \"d\": [e, {f: g}], h: [], i: {}}\n", "a: {b: http://x/y:z, c: d:e}\nf: [g:h]\n",
		"a: |\n  b  c\n  # d\nb: >-\n    e\n    f: g\n\n# h\nc: |-\n x\n", "- a: |\n    b\n  c: d\n- e\n", "ä: b\n", "a: äöü # ß\nb: [ä, \"ö\", ü]\n",
		"a: b c, d && e | f > g {h} [i] \"j\" 'k' % @ ` ! * & ? - x\n", "a: -1\nb: .5\nc: 0x1\nd: 2026-12-01\ne: 12:30\nf: yes\n", "a: b   # c\n  # d\n# e\n",
	} {
		if _, _, ok := quick(text); !ok && !strings.HasPrefix(text, "ä") {
			t.Errorf("%q goes the slow way", text)
		}
		same(t, text)
	}
	for _, pattern := range []string{"../examples/*.yaml", "../testdata/bad/*.y*ml", "../../*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &scan{}
			text, _ := s.bytes(data)
			if _, _, ok := quick(text); !ok && !strings.Contains(file, "bad") {
				t.Errorf("%s goes the slow way", file)
			}
			same(t, text)
		}
	}
}

// TestReaderLeavesToTheSlowWay: what is refused, or read in more than one way, is
// none of the quick reader's business.
func TestReaderLeavesToTheSlowWay(t *testing.T) {
	for _, text := range []string{
		"", "# a\n", "a", "[a]", "a: &b c\n", "a: *b\n", "a: !b c\n", "<<: a\n", "a: <<\n", "%A 1\n---\na: b\n", "a: b\n---\n", "a: b\n...\n", "a: b\n---\nc: d\n", "? a\n: b\n",
		"a:\n", "a: ~\n", "a: null\nb: c\n", "null: a\n", "a: [b, , c]\n", "a: [b,]\n", "a: {b}\n", "a: {b: }\n", "a: [b: c]\n", "a: {b: [c:d]}\n", "a: {b:c}\n", "a: b: c\n", "a: b:\n",
		"a: b\n c\n", "a:\n  b\n", "a: 'b\n  c'\n", "a: \"b\\x41\"\n", "a: \"b\" c\n", "a: 'b'c\n", "a: [b] c\n", "a: [b\n]\n", "a: {b: c}}\n", "a: [b}\n", "a: @b\n", "a: `b`\n", "a: - b\n",
		"a: |+\n  b\n", "a: |2\n  b\n", "a: |\n  b", "a: |\n  b\n   c\n", "a: |\n\n  b\n", "a: |\n  b\n\n  c\n", "a: |\nb: c\n", "a: |\n  b\n   \nc: d\n", "a: >\n  b \n  c\n", "a:\n    b: c\n  d: e\n", "  a: b\nc: d\n",
		"- a\nb: c\n", "a: b\n- c\n", "a:\n  - b\n c: d\n", "a: #b\n", "a: [#b\n]\n", "a:b: c\n", "a : b\n", strings.Repeat("- ", MaxDepth+1) + "a\n", "a: " + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + "\n",
	} {
		if root, _, ok := quick(text); ok {
			t.Errorf("%q was read as %+v", text, root)
		}
	}
}

// TestReaderOnLines tries all files of a few lines each.
func TestReaderOnLines(t *testing.T) {
	lines := []string{
		"a: |", "b: >-", "c:", "d: e", "- f", "- g: |-", "-", "  h: i", "  j", "  - k: l", "    m", "    n: o # p", "", "  ", "# q", "  # r", "   s", "---",
	}
	read := 0
	var try func(text string, depth int)
	try = func(text string, depth int) {
		if _, _, ok := quick(text); ok {
			read++
			same(t, text)
		}
		if depth == 0 {
			return
		}
		for _, line := range lines {
			try(text+line+"\n", depth-1)
		}
	}
	try("", linesTried)
	if read < 1000 {
		t.Errorf("%d files were read the quick way, which compares little", read)
	}
}

const linesTried = 4

func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"---\na: b\n", "a:\n  b:\n    - c\n    - d: e\n      f: g\n  h: i\n", "a:\n- b\n- - c\n  - d\n-\n  - e\ng: h # i\n", "a: 'it''s'\nb: \"x\\\"\\\\\\n\\t\\/\"\n\"c d\": 'e'\n",
		"a: {b: c, \"d\": [e, {f: g}], h: [], i: {}}\n", "a: {b: http://x/y:z, c: d:e}\nf: [g:h]\n", "a: |\n  b  c\n  # d\nb: >-\n    e\n    f: g\n\n# h\nc: |-\n x\n", "- a: |\n    b\n  c: d\n- e\n",
		"a: äöü # ß\nb: [ä, \"ö\", ü]\n", "a: b c, d && e | f > g {h} [i] \"j\" 'k' % @ ` ! * & ? - x\n", "a: -1\nb: .5\nc: 0x1\nd: 2026-12-01\n", "a: b   # c\n  # d\n# e\n", "a: |\n  b\n\n  # c\n", "a:\n  b: >\n    c\n    d\n\n\n  # e\n# f\ng: h\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := &scan{}
		read, ok := s.bytes([]byte(text))
		if !ok || len(s.mistakes) > 0 {
			return
		}
		same(t, read)
		same(t, compose(text))
	})
}

// compose makes a text of pieces, one for each byte of the seed, which finds more
// of YAML's corners than bytes do.
func compose(seed string) string {
	pieces := []string{
		"a", "b: ", "c:", "- ", "\n", "\n ", "\n  ", "\n    ", "\n- ", "\n  - ", "\nd: ", "\n  e: ", "\n    f: ", "[", "]", "{", "}", ", ", ",", "'g'", "\"h\"", "'i''j'", "\"k\\n\"", "# l", " # m", "|\n", ">-\n",
		"|-\n", " ", "  ", "1", "-2", "x:y", "http://z", "ä", "\n---\n", "\n\n", "null", "&n ", "*o", "!", "<<: ", "?", "? ", ":", "- -", "'", "\"", "`", "@", "%", "...", "\n# p", "\n  # q", "true", "\\", ".5", ".", "-",
	}
	var b strings.Builder
	for i := 0; i < len(seed) && i < 64; i++ {
		b.WriteString(pieces[int(seed[i])%len(pieces)])
	}
	return b.String()
}
