// Package strictyaml reads YAML into Go structs and reports every mistake of a
// file at once, each with its line, its column and a hint.
//
// It reads less than YAML on purpose. Whoever reviews a file must see what the
// program will see, so everything that makes two readers disagree is refused:
// anchors, aliases, merge keys, tags, directives, several documents, duplicate
// keys, tabs, invisible characters, keys without a value, and words whose type
// depends on the reader (yes, on, 012, 12:30, 2026-12-01). A number never turns
// into a string, nor a string into a number: where a string is wanted, 123 is a
// mistake and "123" is not.
//
// Structs say what may stand in a file:
//
//	type Job struct {
//		At     strictyaml.Where          `yaml:"-"`             // where this mapping stands
//		Name   string                    `yaml:"name,required"`
//		TTL    strictyaml.Duration       `yaml:"ttl"`
//		Claims map[string]strictyaml.Value `yaml:"claims"`      // anything, with positions
//	}
//
// Fields may be strings, bools, integers, floats, [Duration], [Time], [Date], [Value],
// types that read themselves ([Unmarshaler]), structs, pointers to one of these,
// slices of them, and maps of them by string. A field without a `yaml` tag is left
// alone, unless it is of type [Where].
package strictyaml

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// The limits of one file.
const (
	MaxSize  = 1 << 20 // bytes
	MaxDepth = 32      // mappings and lists within one another
	MaxKeys  = 20_000  // keys, since the parser's time grows with their square
)

// enough mistakes of characters and tokens: a file with more is not looked at any
// further, since the parser takes long over some of them.
const enough = 1000

// Pos is a place in a file. Line and Col count from 1, Col in characters.
type Pos struct {
	File      string
	Line, Col int
}

// String is file:line:col.
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Mistake is a mistake at this place. The hint may be empty.
func (p Pos) Mistake(hint, format string, args ...any) Mistake {
	return Mistake{File: p.File, Line: p.Line, Col: p.Col, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Where is the place of a mapping and of the values in it. A struct field of
// this type is filled with the place of the mapping that the struct was read
// from, so that what turns out wrong later can still be pointed at.
type Where struct {
	Pos
	keys []keyPlace
}

// keyPlace is one key of a mapping, with its place and that of its value.
type keyPlace struct {
	name      string
	line, col int32
	value     struct{ line, col int32 }
}

// find is the place of a key; nil when it isn't there.
func (w Where) find(key string) *keyPlace {
	for i := range w.keys {
		if w.keys[i].name == key {
			return &w.keys[i]
		}
	}
	return nil
}

// Has says whether the key stands in the file.
func (w Where) Has(key string) bool { return w.find(key) != nil }

// Of is the place of a key's value, or that of the mapping where the key is absent.
func (w Where) Of(key string) Pos {
	if k := w.find(key); k != nil {
		return Pos{File: w.File, Line: int(k.value.line), Col: int(k.value.col)}
	}
	return w.Pos
}

// Key is the place of a key itself, or that of the mapping where it is absent.
func (w Where) Key(key string) Pos {
	if k := w.find(key); k != nil {
		return Pos{File: w.File, Line: int(k.line), Col: int(k.col)}
	}
	return w.Pos
}

// Keys are the keys of the mapping, in the order of the file.
func (w Where) Keys() []string {
	names := make([]string, len(w.keys))
	for i, k := range w.keys {
		names[i] = k.name
	}
	return names
}

// Value is whatever stands at one place of a file: a string, int64, float64,
// bool, []Value or map[string]Value.
type Value struct {
	Pos
	Raw any
}

// Plain is the value without its places: []any and map[string]any for lists and mappings.
func (v Value) Plain() any {
	switch raw := v.Raw.(type) {
	case []Value:
		list := make([]any, len(raw))
		for i, item := range raw {
			list[i] = item.Plain()
		}
		return list
	case map[string]Value:
		mapping := make(map[string]any, len(raw))
		for key, item := range raw {
			mapping[key] = item.Plain()
		}
		return mapping
	default:
		return raw
	}
}

// Mistake is one thing that is wrong in a file.
type Mistake struct {
	File      string
	Line, Col int    // from 1; 0 when the file as a whole is meant
	Text      string // what is wrong
	Hint      string // what to do about it; may be empty
}

// String is file:line:col: text (hint: …).
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", m.Line, m.Col)
	}
	fmt.Fprintf(&b, ": %s", m.Text)
	if m.Hint != "" {
		fmt.Fprintf(&b, " (hint: %s)", m.Hint)
	}
	return b.String()
}

// Sort puts mistakes in the order of files, lines and columns, and drops repetitions.
func Sort(mistakes []Mistake) []Mistake {
	slices.SortStableFunc(mistakes, func(a, b Mistake) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.Compact(mistakes)
}

// Decode reads data into the struct that into points to and returns everything
// that is wrong, in the order of the file; none means that into is complete.
// The file's name is used in mistakes only. Decode panics when into is not a
// pointer to a struct or holds a field of a type that it doesn't know: that is
// a mistake in the program, not in the file.
func Decode(filename string, data []byte, into any) []Mistake {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strictyaml: Decode wants a pointer to a struct, not %T", into))
	}
	s := &scan{file: filename}
	text, ok := s.bytes(data)
	if !ok {
		return Sort(s.mistakes)
	}
	root, ok := s.tree(text)
	if !ok {
		return Sort(s.mistakes)
	}
	d := &decoder{file: filename, mistakes: s.mistakes}
	d.decode(&root, target.Elem(), 1)
	return Sort(d.mistakes)
}
