package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// scan looks at the bytes and tokens of a file before the parser sees them: it
// finds what this package refuses wherever it stands, and keeps input away from
// the parser on which it would recurse without bound.
type scan struct {
	file     string
	mistakes []Mistake
}

type place struct {
	scan      *scan
	line, col int
}

func (s *scan) at(tk *token.Token) place {
	if tk == nil || tk.Position == nil {
		return place{scan: s}
	}
	return place{scan: s, line: tk.Position.Line, col: tk.Position.Column}
}

func (p place) add(text, hint string) {
	p.scan.mistakes = append(p.scan.mistakes, Mistake{File: p.scan.file, Line: p.line, Col: p.col, Text: text, Hint: hint})
}

// bytes checks size and characters. It returns the text with \n line ends and
// spaces for tabs, and false when nothing more can be said about the file.
func (s *scan) bytes(data []byte) ([]byte, bool) {
	if len(data) > MaxSize {
		place{scan: s}.add(fmt.Sprintf("the file has %d bytes, more than %d", len(data), MaxSize), "split it")
		return nil, false
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	line, col, tabLine, readable := 1, 1, 0, true
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		here := place{scan: s, line: line, col: col}
		switch {
		case r == utf8.RuneError && size == 1:
			here.add("this is not UTF-8", "save the file as UTF-8")
			return nil, false
		case r == '\t' && tabLine != line:
			tabLine = line
			here.add("a tab", `use spaces; within double quotes write \t`)
		case r != '\n' && r != '\t' && invisible(r):
			readable = false
			here.add(fmt.Sprintf("the invisible character U+%04X", r), `take it out; within double quotes write it as an escape, such as \u200e`)
		}
		rest = rest[size:]
		col++
		if r == '\n' {
			line, col = line+1, 1
		}
	}
	return bytes.ReplaceAll(data, []byte("\t"), []byte(" ")), readable
}

// invisible says whether a reader of the file would not see the character, or
// would see it as the end of a line: control and format characters (which turn
// the direction of text around), and the separators of lines.
func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' || r == '\u00a0'
}

// refused are the tokens of YAML's features that this package does without.
var refused = map[token.Type][2]string{ //nolint:gochecknoglobals // a constant table
	token.AnchorType:      {"anchors are not accepted", "write the value out"},
	token.AliasType:       {"aliases are not accepted", "write the value out; a text that begins with * stands in quotes"},
	token.MergeKeyType:    {"merge keys are not accepted", "write the keys out"},
	token.TagType:         {"tags are not accepted", "quote what is a text; a text that begins with ! stands in quotes"},
	token.DirectiveType:   {"directives are not accepted", "take the line out"},
	token.DocumentEndType: {"one file holds one document", "take the line out"},
	token.MappingKeyType:  {"keys marked with ? are not accepted", "write key: value"},
}

// perLine is how many times a list or mapping may begin on one line outside of
// brackets (`- - - a`): the parser recurses for each.
const perLine = MaxDepth

// tokens reads and checks the tokens. It returns false when the parser should not be asked.
func (s *scan) tokens(text []byte) (read token.Tokens, ok bool) {
	defer func() {
		if r := recover(); r != nil { // see parse
			place{scan: s}.add("this is not YAML that can be read", "simplify the file until it can")
			read, ok = nil, false
		}
	}()
	read = lexer.Tokenize(string(text))
	depth, line, entries, keys, begun := 0, 0, 0, 0, false
	for _, tk := range read {
		if why, found := refused[tk.Type]; found {
			s.at(tk).add(why[0], why[1])
		}
		if tk.Position.Line != line {
			line, entries = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.DocumentHeaderType:
			if begun {
				s.at(tk).add("one file holds one document", "put what follows into a file of its own")
			}
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingValueType:
			if depth == 0 {
				entries++
			}
		default:
		}
		if tk.Type == token.MappingValueType {
			keys++
		}
		if keys > MaxKeys {
			s.at(tk).add(fmt.Sprintf("more than %d keys in one file", MaxKeys), "split it")
			return nil, false
		}
		begun = begun || tk.Type != token.CommentType
		if depth > MaxDepth || entries > perLine {
			s.at(tk).add(tooDeep, "")
			return nil, false
		}
	}
	return read, true
}

var tooDeep = fmt.Sprintf("nested more than %d deep", MaxDepth) //nolint:gochecknoglobals // a constant text

// syntax records an error of the parser, unless it may only follow from what was
// found before.
func (s *scan) syntax(err error) {
	if len(s.mistakes) > 0 {
		return
	}
	var positioned interface {
		GetMessage() string
		GetToken() *token.Token
	}
	if errors.As(err, &positioned) {
		s.at(positioned.GetToken()).add(positioned.GetMessage(), "look at the indentation, the colons and the quotes here and in the line above")
		return
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	place{scan: s}.add(text, "")
}
