package strictyaml

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// scan looks at the bytes and tokens of a file before a parser sees them: it
// finds what this package refuses wherever it stands, and keeps input away from
// the parser on which it would recurse without bound.
type scan struct {
	file     string
	mistakes []Mistake
	apart    *token.Token // the first colon that stands on another line than its key
}

type place struct {
	scan      *scan
	line, col int
}

func (p place) add(text, hint string) {
	p.scan.mistakes = append(p.scan.mistakes, Mistake{File: p.scan.file, Line: p.line, Col: p.col, Text: text, Hint: hint})
}

// bytes checks size and characters. It returns the text with \n line ends and
// spaces for tabs, and false when nothing more can be said about the file.
func (s *scan) bytes(data []byte) (string, bool) {
	if len(data) > MaxSize {
		place{scan: s}.add(fmt.Sprintf("the file has %d bytes, more than %d", len(data), MaxSize), "split it")
		return "", false
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	if ordinary(text) {
		return text, true
	}
	line, col, tabLine, readable := 1, 1, 0, true
	for rest := text; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		here := place{scan: s, line: line, col: col}
		switch {
		case r == utf8.RuneError && size == 1:
			here.add("this is not UTF-8", "save the file as UTF-8")
			return "", false
		case r == '\t' && tabLine != line:
			tabLine = line
			here.add("a tab", `use spaces; within double quotes write \t`)
		case r != '\n' && r != '\t' && invisible(r):
			readable = false
			here.add(fmt.Sprintf("the invisible character U+%04X", r), `take it out; within double quotes write it as an escape, such as \u200e`)
		}
		if len(s.mistakes) > enough {
			return "", false
		}
		rest = rest[size:]
		col++
		if r == '\n' {
			line, col = line+1, 1
		}
	}
	return strings.ReplaceAll(text, "\t", " "), readable
}

// ordinary says whether the text is made of visible ASCII, spaces and line ends.
func ordinary(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < ' ' || c > '~') && c != '\n' {
			return false
		}
	}
	return true
}

// invisible says whether a reader of the file would not see the character, or
// would see it as the end of a line: control and format characters (which turn
// the direction of text around), and the separators of lines.
func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' || r == '\u00a0'
}
