package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/strictyaml"
)

const prefix = "DAYPASSD_"

// environment applies the variables DAYPASSD_….
func (l *loader) environment() {
	known := make(map[string]setting)
	settings(reflect.ValueOf(l.config).Elem(), "", known)
	names := slices.Collect(maps.Keys(known))
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		s, ok := known[name]
		if !ok {
			l.mistakes = append(l.mistakes, strictyaml.Mistake{File: "$" + name, Text: "no such setting", Hint: unknownHint(name, names)})
			continue
		}
		if want := s.put(l.env[name]); want != "" {
			l.mistakes = append(l.mistakes, strictyaml.Mistake{File: "$" + name, Text: want + " is wanted here"})
			continue
		}
		l.set[s.path] = true
	}
}

func unknownHint(name string, names []string) string {
	if strings.HasPrefix(name, prefix+"SERVICE_") || strings.HasPrefix(name, prefix+"PORT") {
		return "Kubernetes sets it for a service called daypassd: write enableServiceLinks: false in the pod"
	}
	lower := make([]string, len(names))
	for i, n := range names {
		lower[i] = strings.ToLower(n)
	}
	hint := strictyaml.Suggest(name, lower)
	if !strings.HasPrefix(hint, "did you mean") {
		return "settings of lists and of mappings by name can't be set this way"
	}
	return "did you mean " + strings.ToUpper(strings.TrimPrefix(hint, "did you mean "))
}

// setting is one scalar of the configuration.
type setting struct {
	path  string // database.url_file
	value reflect.Value
}

// settings collects the scalars that are not part of a list or a mapping by name.
func settings(v reflect.Value, path string, into map[string]setting) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		field, below := v.Field(i), name
		if path != "" {
			below = path + "." + name
		}
		switch field.Kind() {
		case reflect.Struct:
			settings(field, below, into)
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
			into[prefix+strings.ToUpper(strings.ReplaceAll(below, ".", "__"))] = setting{below, field}
		default:
		}
	}
}

// put sets the value and returns what is wanted where the text is something else.
func (s setting) put(text string) string {
	switch s.value.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return "true or false"
		}
		s.value.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return "a whole number"
		}
		s.value.SetInt(int64(n))
	case reflect.Int64:
		d, err := strictyaml.ParseDuration(text)
		if err != nil {
			return "a duration such as 15m"
		}
		s.value.SetInt(int64(d))
	default:
		if strings.ContainsAny(text, "\x00\r\n") {
			return "a text of one line"
		}
		s.value.SetString(text)
	}
	return ""
}
