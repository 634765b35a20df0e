package openapi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// schemas are those of all types that were asked for.
type schemas struct {
	comments map[string]string // of Type and Type.Field
	made     object
}

// of is the schema of a value's type: a reference for a struct.
func (s *schemas) of(v any) object { return s.ofType(reflect.TypeOf(v)) }

func (s *schemas) ofType(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[api.Code](), t == reflect.TypeFor[api.Reason]():
		return object{"type": "string"}
	case t == reflect.TypeFor[api.GrantRequest]():
		s.define(t)
		return object{"oneOf": []any{reference(t), object{"type": "string", "description": "Short for {\"name\": …}."}}}
	}
	switch t.Kind() { //nolint:exhaustive // what no wire type has is a panic
	case reflect.Pointer:
		return s.ofType(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		return object{"type": "array", "items": s.ofType(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.ofType(t.Elem())}
	case reflect.Interface:
		return object{}
	case reflect.Struct:
		s.define(t)
		return reference(t)
	}
	panic(fmt.Sprintf("no schema for %s", t)) // a wire type that nobody thought of: the test shows it
}

func reference(t reflect.Type) object { return object{"$ref": "#/components/schemas/" + t.Name()} }

// define makes the schema of a struct, once.
func (s *schemas) define(t reflect.Type) {
	if s.made[t.Name()] != nil {
		return
	}
	properties, required := object{}, []string{}
	schema := object{"type": "object", "properties": properties}
	s.made[t.Name()] = schema
	s.fields(t, properties, &required)
	if len(required) > 0 {
		schema["required"] = required
	}
	if text := s.comments[t.Name()]; text != "" {
		schema["description"] = text
	}
}

func (s *schemas) fields(t reflect.Type, properties object, required *[]string) {
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			s.fields(field.Type, properties, required)
			continue
		}
		property := s.ofType(field.Type)
		if text := s.comments[t.Name()+"."+field.Name]; text != "" {
			property["description"] = text // 3.1 allows it beside $ref
		}
		properties[name] = property
		if !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}

// readComments reads what stands above types and above or behind their fields.
func readComments(folder string) (map[string]string, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("reading the wire types in %s: no Go files (%w)", folder, os.ErrNotExist)
	}
	comments := map[string]string{}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("reading the wire types: %w", err)
		}
		for _, declaration := range file.Decls {
			if group, is := declaration.(*ast.GenDecl); is && group.Tok == token.TYPE {
				readType(group, comments)
			}
		}
	}
	return comments, nil
}

func readType(group *ast.GenDecl, comments map[string]string) {
	for _, spec := range group.Specs {
		named, _ := spec.(*ast.TypeSpec)
		comments[named.Name.Name] = oneLine(group.Doc)
		body, is := named.Type.(*ast.StructType)
		if !is {
			continue
		}
		for _, field := range body.Fields.List {
			text := strings.TrimSpace(oneLine(field.Doc) + " " + oneLine(field.Comment))
			for _, name := range field.Names {
				comments[named.Name.Name+"."+name.Name] = text
			}
		}
	}
}

func oneLine(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
