// Package format lays policy files out in one way: keys in the order of the
// documentation, two spaces for each level, one blank line between sections.
//
// It moves lines about and leaves what stands in them alone: texts, flow style and
// comments stay as they are written. What comes out is read again, and must mean
// the same, hold the same comments, and be laid out already; otherwise the file is
// refused, not changed.
package format

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// ErrUnsafe is the error of a file that can't be laid out without a doubt that it
// still means the same.
var ErrUnsafe = errors.New("the file can't be laid out safely (hint: write it more simply: block style, one value a line)")

// Mistakes is the error of a file that isn't a policy's YAML.
type Mistakes []strictyaml.Mistake

// Error lists all mistakes, one a line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].String()
	}
	return strings.Join(lines, "\n")
}

// Format lays a policy file out. The error is of type [Mistakes], or wraps [ErrUnsafe].
func Format(name string, data []byte) ([]byte, error) {
	before, mistakes := document.Read(name, data)
	if len(mistakes) > 0 {
		return nil, Mistakes(mistakes)
	}
	laid, err := layOut(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrUnsafe, err)
	}
	after, mistakes := document.Read(name, laid)
	if len(mistakes) > 0 || !reflect.DeepEqual(meaning(reflect.ValueOf(before.Policy)), meaning(reflect.ValueOf(after.Policy))) {
		return nil, fmt.Errorf("%s: %w: it would not mean the same", name, ErrUnsafe)
	}
	if !slices.Equal(comments(data), comments(laid)) {
		return nil, fmt.Errorf("%s: %w: a comment would be lost", name, ErrUnsafe)
	}
	if again, err := layOut(laid); err != nil || !bytes.Equal(again, laid) {
		return nil, fmt.Errorf("%s: %w: it would not stay as it is laid out", name, ErrUnsafe)
	}
	return laid, nil
}

// comments are the texts of all comments, in the order of the alphabet.
func comments(data []byte) []string {
	var texts []string
	for _, c := range strictyaml.Comments(data) {
		texts = append(texts, c.Text)
	}
	slices.Sort(texts)
	return texts
}

// meaning is what was read, without its places, and with the keys that are there.
func meaning(v reflect.Value) any {
	switch value := v.Interface().(type) {
	case strictyaml.Value:
		return value.Plain()
	case *strictyaml.Value:
		if value == nil {
			return nil
		}
		return value.Plain()
	case strictyaml.Time:
		return value.Std().UTC()
	case strictyaml.Date:
		return value.Std().UTC()
	}
	switch v.Kind() {
	case reflect.Struct:
		fields := map[string]any{}
		at, _ := reflect.TypeAssert[strictyaml.Where](v.FieldByName("At"))
		for name, i := range keysOf(v.Type()) {
			if at.Has(name) {
				fields[name] = meaning(v.Field(i))
			}
		}
		return fields
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = meaning(v.Index(i))
		}
		return list
	case reflect.Map:
		fields := map[string]any{}
		for _, key := range v.MapKeys() {
			fields[key.String()] = meaning(v.MapIndex(key))
		}
		return fields
	default:
		return v.Interface()
	}
}

// keysOf are the keys of a struct of the document, each with its field.
func keysOf(t reflect.Type) map[string]int {
	keys := map[string]int{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			keys[name] = i
		}
	}
	return keys
}

// layOut does it.
func layOut(data []byte) ([]byte, error) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	p := &parser{lines: strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")}
	header := p.header()
	root, err := p.block(0)
	if err != nil {
		return nil, err
	}
	if p.next < len(p.lines) {
		return nil, fmt.Errorf("line %d is not understood", p.next+1)
	}
	arrange(root, reflect.TypeFor[document.Policy](), true)
	w := &writer{}
	w.lines = append(w.lines, header...)
	w.block(root, 0)
	return []byte(strings.TrimRight(strings.Join(w.lines, "\n"), "\n") + "\n"), nil
}

// arrange puts the keys of known mappings into the order of the structs that
// they are read into. t is nil where the keys are anybody's.
func arrange(b *block, t reflect.Type, top bool) {
	of := func(*entry) reflect.Type { return nil }
	switch {
	case t != nil && t.Kind() == reflect.Slice && b.list:
		of = func(*entry) reflect.Type { return t.Elem() }
	case t != nil && t.Kind() == reflect.Struct && !b.list:
		keys := keysOf(t)
		slices.SortStableFunc(b.entries, func(x, y *entry) int { return keys[x.name] - keys[y.name] })
		of = func(e *entry) reflect.Type {
			if i, known := keys[e.name]; known {
				return t.Field(i).Type
			}
			return nil
		}
	}
	for _, e := range b.entries {
		if e.child != nil {
			arrange(e.child, of(e), false)
		}
		if top && slices.Contains([]string{"jobs", "grants", "exceptions", "tests"}, e.name) {
			e.blank = true
		}
	}
	b.entries[0].blank = false
}
