package strictyaml

// nodeKind says what stands at one place of a file.
type nodeKind uint8

const (
	unknown   nodeKind = iota // what can't be told, and has been reported
	plainText                 // a scalar without quotes
	fixedText                 // a scalar in quotes or a block (| or >): certainly a text
	mappingOf
	listOf
	nothing // no value
	other
)

// node is one place of a file with all that stands below it.
type node struct {
	kind      nodeKind
	flow      bool // a list or mapping in brackets
	line, col int32
	text      string // of a scalar
	items     []node // of a list; of a mapping, each key and its value by turns
}

// leaf says whether the node is a scalar.
func (n *node) leaf() bool { return n.kind == plainText || n.kind == fixedText }

// plain says whether the node is a scalar without quotes.
func (n *node) plain() bool { return n.kind == plainText }

func (n *node) pos(file string) Pos { return Pos{File: file, Line: int(n.line), Col: int(n.col)} }

// describe names what stands in the file, for mistakes.
func (n *node) describe() string {
	switch n.kind {
	case mappingOf:
		return "a mapping"
	case listOf:
		return "a list"
	case fixedText:
		return "a text"
	case plainText:
		if what := surprise(n.text); what != "" {
			return what
		}
		return "a text"
	default:
		return "something else"
	}
}
