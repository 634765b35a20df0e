package strictyaml

import (
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// Comment is one comment of a file, at the place of its #.
type Comment struct {
	Line, Col int
	Text      string // without the # and the spaces around
}

// Comments are the comments of a file, in their order. A # within a text is
// none. A file that can't be read has none either: [Decode] says what is wrong
// with it.
func Comments(data []byte) []Comment {
	s := &scan{}
	text, ok := s.bytes(data)
	if !ok || len(s.mistakes) > 0 {
		return nil
	}
	tokens, ok := s.tokens(text)
	if !ok {
		return nil
	}
	if _, ok := s.parse(tokens); !ok || len(s.mistakes) > 0 {
		return nil
	}
	var comments []Comment
	lines := strings.Split(text, "\n")
	for _, tk := range tokens {
		if tk.Type != token.CommentType || tk.Position.Line > len(lines) {
			continue
		}
		// The lexer is not always right about the column, but a comment ends with its line.
		before, found := strings.CutSuffix(lines[tk.Position.Line-1], "#"+tk.Value)
		if found {
			comments = append(comments, Comment{Line: tk.Position.Line, Col: utf8.RuneCountInString(before) + 1, Text: strings.TrimSpace(tk.Value)})
		}
	}
	return comments
}
