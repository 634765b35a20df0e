package strictyaml_test

import (
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// TestHostileFiles: whatever the file, the time to read it grows with its size and
// not with the square. It is held against the time of a file known to be read in one
// go, since the machine may be busy.
func TestHostileFiles(t *testing.T) {
	const size = 1 << 17
	fill := func(piece string) string { return strings.Repeat(piece, size/len(piece)) }
	begin := time.Now()
	strictyaml.Comments([]byte(fill("[]")))
	limit := 5*time.Second + 20*time.Since(begin)
	for name, text := range map[string]string{
		"brackets": fill("["), "braces": fill("{"), "pairs of brackets": fill("[]"), "dashes": fill("- "), "dashes in a list": "words:\n" + fill("- a\n"), "questions": fill("? "),
		"lines of questions": fill("? a\n"), "colons": "title: " + fill(":"), "colons and spaces": "title: " + fill(": "), "angles": "title: " + fill("<"), "angles in text": "title: a " + fill("<"),
		"merge keys": fill("<<: "), "anchors": fill("&a "), "aliases": fill("*a "), "tags": fill("!a "), "documents": fill("---\n"), "document ends": fill("...\n"), "bars": fill("|\n"),
		"a long text": "title: " + fill("a "), "a long text over lines": "title: a\n" + fill(" b\n"), "long quotes": `title: "` + fill("a ") + `"`, "escapes": `title: "` + fill(`\n`) + `"`, "rare escapes": `title: "` + fill(`\x41`) + `"`,
		"open quotes": `title: "` + fill("a "), "quotes": fill("''"), "a block": "title: |\n" + fill("  a\n"), "a block of blanks": "title: |\n  a\n" + fill("\n") + "  b\n", "blanks": fill("\n"), "spaces": "title: a" + fill(" "),
		"comments": fill("#\n") + "title: a\n", "comments behind a mistake": "title: a\n  b: c\n" + fill("# x\n"), "hashes": "title: a" + fill(" #"), "tabs": fill("\ta\n"), "controls": fill("\x01"),
		"a long list": "words: [" + fill("a, ") + "a]\n", "a list over lines": "words: [\n" + fill("a,\n") + "a]\n", "an open list": "words: [" + fill("a, "), "a list beyond ASCII": "words: [" + fill("ä, ") + "ä]\n",
		"keys": "title: a\n" + strings.Repeat("k: v\n", 5000), "keys the slow way": "title: 'a\n  b'\n" + strings.Repeat("k: v\n", 5000), "keys in braces": "claims: {" + strings.Repeat("a: b, ", 5000) + "c: d}\n",
	} {
		var into outer
		begin := time.Now()
		mistakes := strictyaml.Decode("f", []byte(text), &into)
		comments := strictyaml.Comments([]byte(text))
		if took := time.Since(begin); took > limit || len(mistakes) > strictyaml.MaxKeys || len(comments) > size {
			t.Errorf("%s: %d mistakes and %d comments after %s", name, len(mistakes), len(comments), took)
		}
	}
}
