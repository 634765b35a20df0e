package strictyaml

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// tree reads a file, and says what is wrong with one that isn't YAML. It returns
// false when nothing can be decoded.
func (s *scan) tree(text string) (node, bool) {
	tokens, ok := s.tokens(text)
	if !ok {
		return node{}, false
	}
	return s.parse(tokens)
}

func (s *scan) at(tk *token.Token) place {
	if tk == nil || tk.Position == nil {
		return place{scan: s}
	}
	return place{scan: s, line: tk.Position.Line, col: tk.Position.Column}
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

// angles are a row for each of whose bytes the lexer looks at the whole row.
var angles = strings.Repeat("<", 256) //nolint:gochecknoglobals // a constant text

// tokens reads and checks the tokens. It returns false when the parser should not be asked.
func (s *scan) tokens(text string) (read token.Tokens, ok bool) {
	defer func() {
		if r := recover(); r != nil { // see parse
			place{scan: s}.add("this is not YAML that can be read", "simplify the file until it can")
			read, ok = nil, false
		}
	}()
	if strings.Contains(text, angles) {
		place{scan: s}.add("this is not YAML that can be read: it has a row of "+strconv.Itoa(len(angles))+" <", "take them out")
		return nil, false
	}
	read = lexer.Tokenize(text)
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
			if s.apart == nil && apart(tk) {
				s.apart = tk
			}
			if depth > 0 && tight(tk) {
				s.at(tk).add("a colon without a space behind it", "write key: value; a text with a colon stands in quotes")
			}
		}
		if len(s.mistakes) > enough {
			return nil, false
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

// apart says whether a colon stands on another line than what precedes it, a
// comment included: some readers take that for a key, and others for none.
func apart(colon *token.Token) bool {
	return colon.Prev == nil || colon.Prev.Type == token.CommentType || colon.Prev.Position.Line != colon.Position.Line
}

// tight says whether the colon in brackets follows a plain scalar and precedes
// something without a space between, as in {a:b}: the lexer takes it for the end
// of a key, and other readers for a part of the text.
func tight(colon *token.Token) bool {
	before, behind := colon.Prev, colon.Next
	if before == nil || behind == nil || before.Type == token.SingleQuoteType || before.Type == token.DoubleQuoteType {
		return false
	}
	switch behind.Type {
	case token.CollectEntryType, token.MappingEndType, token.SequenceEndType:
		return false // no value, which is a mistake of its own
	default:
		return !strings.HasPrefix(behind.Origin, " ") && !strings.HasPrefix(behind.Origin, "\n")
	}
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

// parse reads the only document of the file. It returns false after a mistake.
func (s *scan) parse(tokens token.Tokens) (root node, ok bool) {
	defer func() {
		// The parser is somebody else's and reads what anybody wrote: a bug of
		// its own must not take the program down.
		if r := recover(); r != nil {
			s.mistakes = append(s.mistakes, Mistake{File: s.file, Text: "this is not YAML that can be read", Hint: "simplify the file until it can"})
			root, ok = node{}, false
		}
	}()
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		s.syntax(err)
		return node{}, false
	}
	if s.apart != nil && len(s.mistakes) == 0 { // the parser took it
		s.at(s.apart).add("a colon on another line than its key", "write key: value on one line")
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.DirectiveType || doc.Body.Type() == ast.CommentType {
			continue
		}
		bodies = append(bodies, doc.Body)
	}
	if len(bodies) == 0 {
		s.mistakes = append(s.mistakes, Mistake{File: s.file, Text: "the file is empty"})
		return node{}, false
	}
	if len(bodies) > 1 && len(s.mistakes) == 0 {
		s.at(bodies[1].GetToken()).add("one file holds one document", "put this document into a file of its own")
	}
	return convert(bodies[0]), true
}

// standsAt is where a node stands.
func standsAt(n ast.Node) (line, col int32) {
	switch n := n.(type) {
	case *ast.MappingNode: // its own token is the first colon
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return standsAt(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return standsAt(n.Key)
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0, 0
	}
	p := n.GetToken().Position
	return int32(p.Line), int32(p.Column) //nolint:gosec // files are small: MaxSize
}

// bare is the node without what has been reported already: anchors and tags. It
// is nil for an alias, whose value is unknown.
func bare(n ast.Node) ast.Node {
	for range MaxDepth {
		switch inner := n.(type) {
		case *ast.TagNode:
			n = inner.Value
		case *ast.AnchorNode:
			n = inner.Value
		case *ast.AliasNode:
			return nil
		default:
			return n
		}
	}
	return nil
}

// convert makes our tree of the parser's. It recurses as deep as the parser did.
func convert(from ast.Node) node {
	inner := bare(from)
	if inner == nil {
		line, col := standsAt(from)
		return node{kind: unknown, line: line, col: col}
	}
	to := node{kind: other}
	to.line, to.col = standsAt(inner)
	switch n := inner.(type) {
	case *ast.MappingNode:
		to.kind, to.flow, to.items = mappingOf, n.IsFlowStyle, pairs(n.Values)
	case *ast.MappingValueNode:
		to.kind, to.items = mappingOf, pairs([]*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		to.kind, to.flow = listOf, n.IsFlowStyle
		for _, item := range n.Values {
			to.items = append(to.items, convert(item))
		}
	case *ast.StringNode:
		to.kind, to.text = plainText, n.Value
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			to.kind = fixedText
		}
	case *ast.LiteralNode:
		to.kind, to.text = fixedText, n.Value.Value
		if strings.TrimSpace(to.text) == "" { // readers differ over blocks in which nothing is to be seen
			to.kind = nothing
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		to.kind, to.text = plainText, inner.GetToken().Value
	case *ast.NullNode:
		to.kind = nothing
	}
	return to
}

// pairs are the keys and values of a mapping, but for keys that have been reported.
func pairs(from []*ast.MappingValueNode) []node {
	var items []node
	for _, pair := range from {
		switch pair.Key.(type) {
		case *ast.MergeKeyNode, *ast.MappingKeyNode:
			continue
		}
		key := convert(pair.Key)
		if key.kind == unknown {
			continue
		}
		key.line, key.col = standsAt(pair.Key)
		items = append(items, key, convert(pair.Value))
	}
	return items
}
