package strictyaml

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// decoder fills Go values from nodes and collects what is wrong.
type decoder struct {
	file     string
	mistakes []Mistake
}

func (d *decoder) add(at *node, hint, format string, args ...any) {
	d.mistakes = append(d.mistakes, at.pos(d.file).Mistake(hint, format, args...))
}

// empty reports a value that isn't there.
func (d *decoder) empty(n *node) bool {
	if n.kind == nothing {
		d.add(n, "give it a value or leave the key out", "no value")
	}
	return n.kind == nothing || n.kind == unknown
}

// known reads a value into a field of one of the types that this package knows by
// name; false when it is of none of them.
func (d *decoder) known(n *node, into any, depth int) bool {
	switch into := into.(type) {
	case *Value:
		if v, ok := d.value(n, depth); ok {
			*into = v
		}
	case *map[string]Value:
		if n.kind != mappingOf {
			return false
		}
		*into = d.values(n, depth)
	case *string:
		d.text(n, into)
	case *Duration:
		d.duration(n, into)
	case *Time:
		d.time(n, into)
	case *Date:
		d.date(n, into)
	case Unmarshaler:
		before := len(d.mistakes)
		v, ok := d.value(n, depth)
		if !ok || len(d.mistakes) > before {
			return true
		}
		if hint, err := into.DecodeYAML(v); err != nil {
			d.add(n, hint, "%s", err)
		}
	default:
		return false
	}
	return true
}

func (d *decoder) decode(n *node, into reflect.Value, depth int) {
	if d.empty(n) {
		return
	}
	if depth > MaxDepth {
		d.add(n, "", "%s", tooDeep)
		return
	}
	if d.known(n, into.Addr().Interface(), depth) {
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.decode(n, into.Elem(), depth)
	case reflect.Struct:
		d.structure(n, into, depth)
	case reflect.Map:
		d.mapping(n, into, depth)
	case reflect.Slice:
		d.list(n, into, depth)
	case reflect.String:
		var text string
		d.text(n, &text)
		into.SetString(text)
	case reflect.Bool:
		if n.plain() && (n.text == "true" || n.text == "false") {
			into.SetBool(n.text == "true")
			return
		}
		d.add(n, "write true or false", "true or false is wanted here, this is %s", n.describe())
	case reflect.Int, reflect.Int64, reflect.Int32:
		d.integer(n, into)
	case reflect.Float64:
		if n.plain() && decimalFloat().MatchString(n.text) {
			if f, err := strconv.ParseFloat(n.text, 64); err == nil {
				into.SetFloat(f)
				return
			}
		}
		d.add(n, "", "a number is wanted here, this is %s", n.describe())
	default:
		panic(fmt.Sprintf("strictyaml: fields of type %s are not known", into.Type()))
	}
}

// layout is what a struct knows.
type layout struct {
	fields []field
	names  []string // of the fields
	places []int    // the fields of type Where
}

// field is one key that a struct knows.
type field struct {
	name     string
	index    int
	required bool
}

// layouts are the layouts of the types that were read so far, which are as many
// as the program has.
var layouts sync.Map //nolint:gochecknoglobals // a cache: a type has but one layout

func layoutOf(t reflect.Type) *layout {
	known, _ := layouts.Load(t)
	if l, ok := known.(*layout); ok {
		return l
	}
	l := &layout{}
	for i := range t.NumField() {
		if t.Field(i).Type == reflect.TypeFor[Where]() {
			l.places = append(l.places, i)
		}
		tag := t.Field(i).Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		l.fields = append(l.fields, field{name: name, index: i, required: option == "required"})
		l.names = append(l.names, name)
	}
	layouts.Store(t, l)
	return l
}

func (d *decoder) structure(n *node, into reflect.Value, depth int) {
	l := layoutOf(into.Type())
	if n.kind != mappingOf {
		d.add(n, Suggest("", l.names), "a mapping is wanted here, this is %s", n.describe())
		return
	}
	where := Where{Pos: n.pos(d.file), keys: make([]keyPlace, 0, len(n.items)/2)}
	d.each(n, func(key, value *node) {
		k := keyPlace{name: key.text, line: key.line, col: key.col}
		k.value.line, k.value.col = value.line, value.col
		where.keys = append(where.keys, k)
		i := slices.Index(l.names, key.text)
		if i < 0 {
			d.add(key, Suggest(key.text, l.names), "unknown key %s", show(key.text))
			return
		}
		d.decode(value, into.Field(l.fields[i].index), depth+1)
	})
	for _, f := range l.fields {
		if f.required && !where.Has(f.name) {
			d.mistakes = append(d.mistakes, where.Mistake("", "the key %s is missing", f.name))
		}
	}
	for _, i := range l.places {
		if at, ok := reflect.TypeAssert[*Where](into.Field(i).Addr()); ok {
			*at = where
		}
	}
}

// each calls visit for every key of a mapping, but once.
func (d *decoder) each(n *node, visit func(key, value *node)) {
	var seen keySet
	for i := 0; i < len(n.items); i += 2 {
		key := &n.items[i]
		if !key.leaf() || len(key.text) > 256 {
			d.add(key, "", "this can't be a key")
			continue
		}
		if key.plain() {
			if what := surprise(key.text); what != "" {
				d.add(key, quote(key.text), "the key %s could be taken for %s", show(key.text), what)
				continue
			}
		}
		if first := seen.add(key); first != nil {
			d.add(key, "", "the key %s stands here twice, first in line %d", show(key.text), first.line)
			continue
		}
		visit(key, &n.items[i+1])
	}
}

// keySet are the keys of a mapping so far. It makes a map only of many.
type keySet struct {
	few   [16]*node
	count int
	many  map[string]*node
}

// add returns the key of the same text that was added before, or nil.
func (s *keySet) add(key *node) *node {
	for _, k := range s.few[:s.count] {
		if k.text == key.text {
			return k
		}
	}
	if s.count < len(s.few) {
		s.few[s.count] = key
		s.count++
		return nil
	}
	if first, found := s.many[key.text]; found {
		return first
	}
	if s.many == nil {
		s.many = make(map[string]*node)
	}
	s.many[key.text] = key
	return nil
}

func (d *decoder) mapping(n *node, into reflect.Value, depth int) {
	if n.kind != mappingOf {
		d.add(n, "", "a mapping is wanted here, this is %s", n.describe())
		return
	}
	into.Set(reflect.MakeMapWithSize(into.Type(), len(n.items)/2))
	d.each(n, func(key, value *node) {
		item := reflect.New(into.Type().Elem()).Elem()
		d.decode(value, item, depth+1)
		into.SetMapIndex(reflect.ValueOf(key.text).Convert(into.Type().Key()), item)
	})
}

func (d *decoder) list(n *node, into reflect.Value, depth int) {
	if n.kind != listOf {
		d.add(n, "put it in brackets: […]", "a list is wanted here, this is %s", n.describe())
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(n.items), len(n.items)))
	for i := range n.items {
		d.decode(&n.items[i], into.Index(i), depth+1)
	}
}

// value reads anything.
func (d *decoder) value(n *node, depth int) (Value, bool) {
	if d.empty(n) {
		return Value{}, false
	}
	if depth > MaxDepth {
		d.add(n, "", "%s", tooDeep)
		return Value{}, false
	}
	v, ok := Value{Pos: n.pos(d.file)}, true
	switch n.kind {
	case mappingOf:
		v.Raw = d.values(n, depth)
	case listOf:
		items := make([]Value, 0, len(n.items))
		for i := range n.items {
			if read, ok := d.value(&n.items[i], depth+1); ok {
				items = append(items, read)
			}
		}
		v.Raw = items
	case fixedText:
		v.Raw = n.text
	case plainText:
		v.Raw, ok = d.plain(n)
	default:
		d.add(n, "", "this can't be a value")
		ok = false
	}
	return v, ok
}

// values reads a mapping of anything.
func (d *decoder) values(n *node, depth int) map[string]Value {
	mapping := make(map[string]Value, len(n.items)/2)
	d.each(n, func(key, item *node) {
		if v, ok := d.value(item, depth+1); ok {
			mapping[key.text] = v
		}
	})
	return mapping
}
