package strictyaml

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// decoder fills Go values from nodes and collects what is wrong.
type decoder struct {
	file     string
	mistakes []Mistake
}

func (d *decoder) pos(node ast.Node) Pos {
	switch n := node.(type) {
	case *ast.MappingNode: // its own token is the first colon
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return d.pos(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.pos(n.Key)
	}
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return Pos{File: d.file}
	}
	p := node.GetToken().Position
	return Pos{File: d.file, Line: p.Line, Col: p.Column}
}

func (d *decoder) add(node ast.Node, hint, format string, args ...any) {
	d.mistakes = append(d.mistakes, d.pos(node).Mistake(hint, format, args...))
}

// entries are the keys and values of a mapping; false when it isn't one.
func entries(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	default:
		return nil, false
	}
}

// bare is the node without what the scan has reported already: anchors and tags.
// It is nil for an alias, whose value is unknown.
func bare(node ast.Node) ast.Node {
	for range MaxDepth {
		switch n := node.(type) {
		case *ast.TagNode:
			node = n.Value
		case *ast.AnchorNode:
			node = n.Value
		case *ast.AliasNode:
			return nil
		default:
			return node
		}
	}
	return nil
}

// empty reports a value that isn't there.
func (d *decoder) empty(node ast.Node) bool {
	if node == nil {
		return true // reported by the scan
	}
	if node.Type() == ast.NullType {
		d.add(node, "give it a value or leave the key out", "no value")
		return true
	}
	return false
}

func (d *decoder) decode(node ast.Node, into reflect.Value, depth int) {
	node = bare(node)
	if d.empty(node) {
		return
	}
	if depth > MaxDepth {
		d.add(node, "", "%s", tooDeep)
		return
	}
	switch into.Addr().Interface().(type) {
	case *Value:
		if v, ok := d.value(node, depth); ok {
			into.Set(reflect.ValueOf(v))
		}
		return
	case *Duration:
		d.duration(node, into)
		return
	case *Time:
		d.time(node, into)
		return
	case *Date:
		d.date(node, into)
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.decode(node, into.Elem(), depth)
	case reflect.Struct:
		d.structure(node, into, depth)
	case reflect.Map:
		d.mapping(node, into, depth)
	case reflect.Slice:
		d.list(node, into, depth)
	case reflect.String:
		d.text(node, into)
	case reflect.Bool:
		if s, ok := leaf(node); ok && !s.quoted && (s.text == "true" || s.text == "false") {
			into.SetBool(s.text == "true")
			return
		}
		d.add(node, "write true or false", "true or false is wanted here, this is %s", kind(node))
	case reflect.Int, reflect.Int64, reflect.Int32:
		d.integer(node, into)
	case reflect.Float64:
		if s, ok := leaf(node); ok && !s.quoted && decimalFloat.MatchString(s.text) {
			if f, err := strconv.ParseFloat(s.text, 64); err == nil {
				into.SetFloat(f)
				return
			}
		}
		d.add(node, "", "a number is wanted here, this is %s", kind(node))
	default:
		panic(fmt.Sprintf("strictyaml: fields of type %s are not known", into.Type()))
	}
}

// field is one key that a struct knows.
type field struct {
	index    int
	required bool
}

func fields(t reflect.Type) (map[string]field, []string) {
	known, names := make(map[string]field), []string(nil)
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		known[name] = field{index: i, required: option == "required"}
		names = append(names, name)
	}
	return known, names
}

func (d *decoder) structure(node ast.Node, into reflect.Value, depth int) {
	pairs, ok := entries(node)
	known, names := fields(into.Type())
	if !ok {
		d.add(node, Suggest("", names), "a mapping is wanted here, this is %s", kind(node))
		return
	}
	where := Where{Pos: d.pos(node), keys: make(map[string]Pos, len(pairs))}
	d.each(pairs, func(key string, keyNode, value ast.Node) {
		where.keys[key] = d.pos(value)
		f, found := known[key]
		if !found {
			d.add(keyNode, Suggest(key, names), "unknown key %s", show(key))
			return
		}
		d.decode(value, into.Field(f.index), depth+1)
	})
	for _, name := range names {
		if known[name].required && !where.Has(name) {
			d.mistakes = append(d.mistakes, where.Mistake("", "the key %s is missing", name))
		}
	}
	for i := range into.NumField() {
		if into.Type().Field(i).Type == reflect.TypeFor[Where]() {
			into.Field(i).Set(reflect.ValueOf(where))
		}
	}
}

// each calls visit for every key of a mapping, but once.
func (d *decoder) each(pairs []*ast.MappingValueNode, visit func(key string, keyNode, value ast.Node)) {
	seen := make(map[string]Pos, len(pairs))
	for _, pair := range pairs {
		switch pair.Key.(type) {
		case *ast.MergeKeyNode, *ast.MappingKeyNode:
			continue // reported by the scan
		}
		keyNode := bare(pair.Key)
		if keyNode == nil {
			continue
		}
		s, ok := leaf(keyNode)
		if !ok || len(s.text) > 256 {
			d.add(pair.Key, "", "this can't be a key")
			continue
		}
		if !s.quoted {
			if what := surprise(s.text); what != "" {
				d.add(pair.Key, quote(s.text), "the key %s could be taken for %s", show(s.text), what)
				continue
			}
		}
		if first, found := seen[s.text]; found {
			d.add(pair.Key, "", "the key %s stands here twice, first in line %d", show(s.text), first.Line)
			continue
		}
		seen[s.text] = d.pos(pair.Key)
		visit(s.text, pair.Key, pair.Value)
	}
}

func (d *decoder) mapping(node ast.Node, into reflect.Value, depth int) {
	pairs, ok := entries(node)
	if !ok {
		d.add(node, "", "a mapping is wanted here, this is %s", kind(node))
		return
	}
	into.Set(reflect.MakeMapWithSize(into.Type(), len(pairs)))
	d.each(pairs, func(key string, _, value ast.Node) {
		item := reflect.New(into.Type().Elem()).Elem()
		d.decode(value, item, depth+1)
		if v, isValue := reflect.TypeAssert[Value](item); isValue && v.Line == 0 {
			return // a mistake: nothing was read
		}
		into.SetMapIndex(reflect.ValueOf(key).Convert(into.Type().Key()), item)
	})
}

func (d *decoder) list(node ast.Node, into reflect.Value, depth int) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		d.add(node, "put it in brackets: […]", "a list is wanted here, this is %s", kind(node))
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(list.Values), len(list.Values)))
	for i, item := range list.Values {
		d.decode(item, into.Index(i), depth+1)
	}
}

func (d *decoder) text(node ast.Node, into reflect.Value) {
	s, ok := leaf(node)
	if !ok {
		hint := ""
		if m, isMap := node.(*ast.MappingNode); isMap && m.IsFlowStyle {
			hint = "a text that begins with { stands in quotes"
		}
		d.add(node, hint, "a text is wanted here, this is %s", kind(node))
		return
	}
	if !s.quoted {
		if what := surprise(s.text); what != "" {
			d.add(node, quote(s.text), "a text is wanted here, this could be taken for %s", what)
			return
		}
	}
	into.SetString(s.text)
}

func (d *decoder) integer(node ast.Node, into reflect.Value) {
	s, ok := leaf(node)
	if !ok || s.quoted || !decimalInt.MatchString(s.text) {
		d.add(node, "write it in decimal digits, without quotes", "a whole number is wanted here, this is %s", kind(node))
		return
	}
	n, err := strconv.ParseInt(s.text, 10, into.Type().Bits())
	if err != nil {
		d.add(node, "", "the number %s is too large", s.text)
		return
	}
	into.SetInt(n)
}

func (d *decoder) duration(node ast.Node, into reflect.Value) {
	s, ok := leaf(node)
	if !ok {
		d.add(node, durationHint, "a duration is wanted here, this is %s", kind(node))
		return
	}
	length, err := ParseDuration(s.text)
	if err != nil {
		d.add(node, durationHint, "a duration is wanted here, this is %s", kind(node))
		return
	}
	into.SetInt(int64(length))
}

func (d *decoder) time(node ast.Node, into reflect.Value) {
	if s, ok := leaf(node); ok {
		if moment, err := time.Parse(time.RFC3339, s.text); err == nil {
			into.Set(reflect.ValueOf(Time(moment)))
			return
		}
	}
	d.add(node, timeHint, "a time is wanted here, this is %s", kind(node))
}

func (d *decoder) date(node ast.Node, into reflect.Value) {
	if s, ok := leaf(node); ok {
		for _, form := range []string{time.DateOnly, time.RFC3339} {
			if moment, err := time.Parse(form, s.text); err == nil {
				into.Set(reflect.ValueOf(Date(moment)))
				return
			}
		}
	}
	d.add(node, dateHint, "a day is wanted here, this is %s", kind(node))
}

// value reads anything.
func (d *decoder) value(node ast.Node, depth int) (Value, bool) {
	node = bare(node)
	if d.empty(node) {
		return Value{}, false
	}
	if depth > MaxDepth {
		d.add(node, "", "%s", tooDeep)
		return Value{}, false
	}
	v := Value{Pos: d.pos(node)}
	if pairs, ok := entries(node); ok {
		mapping := make(map[string]Value, len(pairs))
		d.each(pairs, func(key string, _, item ast.Node) {
			if read, ok := d.value(item, depth+1); ok {
				mapping[key] = read
			}
		})
		v.Raw = mapping
		return v, true
	}
	if list, ok := node.(*ast.SequenceNode); ok {
		items := make([]Value, 0, len(list.Values))
		for _, item := range list.Values {
			if read, ok := d.value(item, depth+1); ok {
				items = append(items, read)
			}
		}
		v.Raw = items
		return v, true
	}
	s, ok := leaf(node)
	if !ok {
		d.add(node, "", "this can't be a value")
		return v, false
	}
	v.Raw, ok = d.plain(node, s)
	return v, ok
}

// plain gives a scalar its type, when all readers of YAML agree on it.
func (d *decoder) plain(node ast.Node, s scalar) (any, bool) {
	if s.quoted {
		return s.text, true
	}
	if s.text == "true" || s.text == "false" {
		return s.text == "true", true
	}
	if decimalInt.MatchString(s.text) {
		n, err := strconv.ParseInt(s.text, 10, 64)
		if err != nil {
			d.add(node, quote(s.text), "the number %s is too large", s.text)
		}
		return n, err == nil
	}
	if decimalFloat.MatchString(s.text) {
		f, err := strconv.ParseFloat(s.text, 64)
		return f, err == nil
	}
	if what := surprise(s.text); what != "" {
		d.add(node, quote(s.text), "this could be taken for %s", what)
		return nil, false
	}
	return s.text, true
}

// show is a key as mistakes quote it: short, and of visible characters.
func show(key string) string {
	if len(key) > 40 {
		key = strings.ToValidUTF8(key[:40], "") + "…"
	}
	if strings.ContainsFunc(key, func(r rune) bool { return invisible(r) || r == ' ' }) || key == "" {
		return strconv.Quote(key)
	}
	return key
}
