package lint

import (
	"strings"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// comment is one comment of a file, at the place of its #.
type comment struct {
	Line, Col int
	Text      string // without the # and the spaces around
}

// comments are the comments of a file, in their order. A # within a text is none.
func comments(data []byte) (list []comment) {
	defer func() {
		if recover() != nil { // the lexer is somebody else's, and reads what anybody wrote
			list = nil
		}
	}()
	for _, tk := range lexer.Tokenize(string(data)) {
		if tk.Type == token.CommentType {
			list = append(list, comment{Line: tk.Position.Line, Col: tk.Position.Column, Text: strings.TrimSpace(tk.Value)})
		}
	}
	return list
}
