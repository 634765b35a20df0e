package policies

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/daypass/daypass/policies/condition"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// FuzzMatch: whatever a policy asks of a claim, and whatever the token holds, the
// claim matches by type and value or not at all, and what is absent never does.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{`"1"`, `"1"`},
		{`1`, `1.0`},
		{`true`, `"true"`},
		{`[a, {glob: b*}, 3]`, `"bc"`},
		{`{regex: 'a|b'}`, `"a-evil"`},
		{`{contains: x}`, `["y", "x"]`},
		{`{contains: 1}`, `[1.0, null]`},
		{`{a: {b: [c, d]}}`, `{"a": {"b": "d"}}`},
		{`{a: x}`, `null`},
		{`"a"`, `["a"]`},
		{`9007199254740993`, `9007199254740992`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, want, got string) {
		text := "policy: p\nowner: o\nenvironment: test\njobs:\n- name: j\n  provider: oidc\n  claims:\n    x: " + want + "\ngrants: [{name: g, issuer: db}]\n"
		set, err := loadText(t, text)
		if err != nil {
			return
		}
		decoder := json.NewDecoder(strings.NewReader(got))
		decoder.UseNumber()
		var value any
		if decoder.Decode(&value) != nil {
			return
		}
		file, _ := document.Read("f0.yaml", []byte(text))
		if len(file.Policy.Jobs) != 1 || len(file.Policy.Jobs[0].Claims) != 1 { // the text has entries of its own
			return
		}
		decide := func(claims map[string]any) bool {
			_, err := set.Decide(Identity{Provider: "oidc", Claims: claims}, Request{Grant: "p/g"}, noon)
			var denial *Denial
			if err != nil && !errors.As(err, &denial) {
				t.Fatal(err)
			}
			return err == nil
		}
		if decide(nil) || decide(map[string]any{"y": value, "X": value}) {
			t.Fatal("an absent claim matches")
		}
		allowed := decide(map[string]any{"x": value})
		if expected := holdsAgainst(file.Policy.Jobs[0].Claims["x"], value); allowed != expected {
			t.Fatalf("%s against %s: %t, want %t", want, got, allowed, expected)
		}
	})
}

// holdsAgainst is the format's own words, read slowly.
func holdsAgainst(want strictyaml.Value, got any) bool {
	got = condition.Canonical(got)
	switch raw := want.Raw.(type) {
	case []strictyaml.Value:
		return slices.ContainsFunc(raw, func(v strictyaml.Value) bool { return holdsAgainst(v, got) })
	case map[string]strictyaml.Value:
		for _, kind := range []string{"glob", "regex"} {
			if operand, ok := raw[kind]; ok {
				text, isText := got.(string)
				if kind == "glob" {
					return isText && len(text) <= 1024 && naiveGlob(operand.Raw.(string), text)
				}
				return isText && len(text) <= 1024 && naiveMatch(matching{operand.Raw.(string)}, text)
			}
		}
		if operand, ok := raw["contains"]; ok {
			list, isList := got.([]any)
			return isList && slices.ContainsFunc(list, func(item any) bool { return condition.Canonical(item) == operand.Raw })
		}
		fields, isObject := got.(map[string]any)
		for name, field := range raw {
			if !isObject || !holdsAgainst(field, fields[name]) {
				return false
			}
		}
		return true
	default:
		switch got.(type) {
		case string, int64, bool:
			return got == raw
		default:
			return false
		}
	}
}
