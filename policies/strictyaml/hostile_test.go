package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/daypass/daypass/policies/strictyaml"
)

// TestHostileFiles: shapes at which parsers take the square of their size, recurse
// without bound, or report each byte. All of them are read, or refused, and soon:
// what takes the square of this size outlasts the test's own limit.
func TestHostileFiles(t *testing.T) {
	const size = 1 << 16
	fill := func(piece string) string { return strings.Repeat(piece, size/len(piece)) }
	for name, text := range map[string]string{
		"brackets": fill("["), "braces": fill("{"), "pairs of brackets": fill("[]"), "dashes": fill("- "), "dashes in a list": "words:\n" + fill("- a\n"), "questions": fill("? "),
		"lines of questions": fill("? a\n"), "colons": "title: " + fill(":"), "colons and spaces": "title: " + fill(": "), "angles": "title: " + fill("<"), "angles in text": "title: a " + fill("<"),
		"merge keys": fill("<<: "), "anchors": fill("&a "), "aliases": fill("*a "), "tags": fill("!a "), "documents": fill("---\n"), "document ends": fill("...\n"), "bars": fill("|\n"),
		"a long text": "title: " + fill("a "), "a long text over lines": "title: a\n" + fill(" b\n"), "long quotes": `title: "` + fill("a ") + `"`, "escapes": `title: "` + fill(`\n`) + `"`, "rare escapes": `title: "` + fill(`\x41`) + `"`,
		"open quotes": `title: "` + fill("a "), "quotes": fill("''"), "a block": "title: |\n" + fill("  a\n"), "a block of blanks": "title: |\n  a\n" + fill("\n") + "  b\n", "blanks": fill("\n"), "spaces": "title: a" + fill(" "),
		"comments": fill("#\n") + "title: a\n", "comments behind a mistake": "title: a\n  b: c\n" + fill("# x\n"), "hashes": "title: a" + fill(" #"), "tabs": fill("\ta\n"), "controls": fill("\x01"),
		"a long list": "words: [" + fill("a, ") + "a]\n", "a list over lines": "words: [\n" + fill("a,\n") + "a]\n", "an open list": "words: [" + fill("a, "), "a list beyond ASCII": "words: [" + fill("ä, ") + "ä]\n",
		"keys": "title: a\n" + strings.Repeat("k: v\n", 5000), "keys behind lines of text": "title: 'a\n  b'\n" + strings.Repeat("k: v\n", 5000), "keys in braces": "claims: {" + strings.Repeat("a: b, ", 5000) + "c: d}\n",
	} {
		var into outer
		mistakes := strictyaml.Decode("f", []byte(text), &into)
		comments := strictyaml.Comments([]byte(text))
		if len(mistakes) > strictyaml.MaxKeys || len(comments) > size {
			t.Errorf("%s: %d mistakes and %d comments", name, len(mistakes), len(comments))
		}
	}
}
