// Package schema writes the JSON Schema of policy files, from which editors
// complete and check while somebody types. Its shape is that of the structs in
// package document; what a key is for stands in a table here.
package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// object is a schema, or a part of one.
type object = map[string]any

// JSON is the schema (draft 2020-12), with a line end.
func JSON() ([]byte, error) {
	root := structure(reflect.TypeFor[document.Policy]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Daypass policy"
	root["description"] = "Which jobs may have which grants"
	root["$defs"] = object{"claim": claim(), "alternative": alternative(), "value": value()}
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding schema: %w", err)
	}
	return append(data, '\n'), nil
}

// structure is the schema of a mapping with known keys.
func structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for field := range t.Fields() {
		tag := field.Tag.Get("yaml")
		if tag == "" || tag == "-" || field.Type == reflect.TypeFor[*strictyaml.Value]() {
			continue // a part of the format that this version refuses
		}
		name, option, _ := strings.Cut(tag, ",")
		if option == "required" {
			required = append(required, name)
		}
		property := of(field.Type)
		maps.Copy(property, about(t.Name()+"."+name))
		properties[name] = property
	}
	made := object{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	if t == reflect.TypeFor[document.Test]() {
		made["anyOf"] = []object{{"required": []string{"allow"}}, {"required": []string{"deny"}}}
	}
	return made
}

// of is the schema of a field.
func of(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[strictyaml.Duration]():
		return object{"type": "string", "pattern": durationPattern}
	case reflect.TypeFor[strictyaml.Time]():
		return object{"type": "string", "pattern": timePattern}
	case reflect.TypeFor[strictyaml.Date]():
		return object{"type": "string", "pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}($|T)`}
	case reflect.TypeFor[strictyaml.Value]():
		return object{"$ref": "#/$defs/value"}
	}
	switch t.Kind() {
	case reflect.Struct:
		return structure(t)
	case reflect.Slice:
		return object{"type": "array", "items": of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": of(t.Elem())}
	case reflect.Int:
		return object{"type": "integer"}
	case reflect.String:
		return object{"type": "string"}
	default:
		panic(fmt.Sprintf("schema: fields of type %s are not known", t)) // a struct of the document's has changed
	}
}

const (
	namePattern     = `^[a-z0-9][a-z0-9-]{0,62}$`
	durationPattern = `^([0-9]+d([0-9]+h)?([0-9]+m)?([0-9]+s)?|[0-9]+h([0-9]+m)?([0-9]+s)?|[0-9]+m([0-9]+s)?|[0-9]+s)$`
	timePattern     = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`
)

// about is what a key is for, and what of its values the type doesn't say.
func about(key string) object {
	name := func(text string) object { return object{"description": text, "pattern": namePattern} }
	named := func(text string) object {
		return object{"description": text, "items": object{"type": "string", "pattern": namePattern}, "minItems": 1, "uniqueItems": true}
	}
	text := func(text string) object { return object{"description": text, "minLength": 1, "maxLength": 1024} }
	list := func(text string) object { return object{"description": text, "minItems": 1} }
	claims := func(text string) object {
		return object{"description": text, "additionalProperties": object{"$ref": "#/$defs/claim"}, "minProperties": 1}
	}
	provider := object{
		"description": "The provider's name in the server's configuration. Types are " + strings.Join(catalogue.Types(), ", ") + ".",
		"minLength":   1, "examples": catalogue.Types(),
	}
	condition := object{
		"description": "A CEL expression over claims and request (time, ip, grant, ttl) that must hold besides. A claim that it names and the token lacks denies.",
		"minLength":   1, "maxLength": 4096,
	}
	limit := func(text string) object { return object{"description": text, "minimum": 1, "maximum": 1_000_000} }
	return map[string]object{
		"Policy.policy":      name("The policy's name: jobs ask for POLICY/GRANT"),
		"Policy.owner":       text("Who answers for it: an address or a team"),
		"Policy.description": {"description": "What it is for", "maxLength": 1024},
		"Policy.environment": {"description": "development, test, staging, production, or one of the server's own", "minLength": 1, "examples": []string{"development", "test", "staging", "production"}},
		"Policy.session":     {"description": "broad: a session token of any grant may ask for those of this policy", "enum": []string{"narrow", "broad"}},
		"Policy.jobs":        list("Which jobs this file speaks of"),
		"Policy.grants":      list("What those jobs may have"),
		"Policy.exceptions":  list("Other jobs, until a day, on the record"),
		"Policy.tests":       list("Run whenever the policy is loaded; one that fails keeps the whole set from loading"),

		"Job.name":      name("What grants, denials and leases call it"),
		"Job.provider":  provider,
		"Job.claims":    claims("What the job's token must say: every line must hold, a list means any of"),
		"Job.condition": condition,

		"Grant.name":               name("Jobs ask for POLICY/NAME"),
		"Grant.jobs":               named("Which jobs may have it; required as soon as there is more than one"),
		"Grant.issuer":             {"description": "What mints it, by its name in the server's configuration", "minLength": 1},
		"Grant.role":               {"description": "One of the issuer's roles, whose used_by names this policy", "minLength": 1},
		"Grant.ttl":                {"description": "How long it lives, such as 15m; or: " + document.UntilTokenExpires, "anyOf": []object{{"pattern": durationPattern}, {"const": document.UntilTokenExpires}}, "examples": []string{"15m", document.UntilTokenExpires}},
		"Grant.max_ttl":            {"description": "How long it can live with all renewals; without it there are none", "examples": []string{"1h"}},
		"Grant.max_active":         limit("How many may be issuing or active at once, over all jobs and brokers"),
		"Grant.max_active_per_job": limit("The same for each job"),
		"Grant.redact":             list("What must not appear in the job's log"),
		"Grant.env":                {"description": "Value name to environment variable, instead of the role's own", "additionalProperties": object{"type": "string", "pattern": `^[A-Z][A-Z0-9_]*$`, "maxLength": 128}},
		"Grant.with":               {"description": "The issuer's own parameters; {{ claims.NAME }} sets a claim in"},
		"Redact.pattern":           {"description": "An RE2 regular expression that matches at least one character", "minLength": 1, "maxLength": 256},

		"Exception.grant":        name("Which grant of this policy"),
		"Exception.jobs":         list("Which jobs have it too"),
		"Exception.owner":        text("Who answers for it"),
		"Exception.reason":       text("Why, and where that is on record"),
		"Exception.until":        {"description": "The day on which it ends, at 00:00 UTC: 2026-12-01"},
		"ExceptionJob.provider":  provider,
		"ExceptionJob.claims":    claims("What the job's token must say"),
		"ExceptionJob.condition": condition,

		"Test.name":        text("What is tested, in words"),
		"Test.at":          {"description": "When the job asks, such as 2026-11-23T10:00:00Z; needed where the verdict depends on the time"},
		"Test.ip":          {"description": "From which address"},
		"Test.ttl":         {"description": "What ttl it asks for"},
		"Test.job":         {"description": "Who asks: a token as its provider might have made it"},
		"Test.allow":       named("Grants of this policy that it must get"),
		"Test.deny":        named("Grants of this policy that it must not get"),
		"TestJob.provider": provider,
		"TestJob.claims":   {"description": "What the token says"},
	}[key]
}

// scalar is a value that a claim can be compared with.
func scalar() object { return object{"type": []string{"string", "integer", "boolean"}} }

// alternative is one way in which a claim can match.
func alternative() object {
	one := func(key, description string, operand object) object {
		operand["description"] = description
		return object{"type": "object", "properties": object{key: operand}, "required": []string{key}, "additionalProperties": false}
	}
	text := func() object { return object{"type": "string", "minLength": 1, "maxLength": 256} }
	full := func() object { return object{"type": "string", "minLength": 1, "maxLength": 1024} }
	return object{
		"description": "A value (compared by type and value), a pattern, an element of a list, or a name with its id",
		"anyOf": []object{
			scalar(),
			one("glob", "* is any characters but /, ** any characters, everything else itself", text()),
			one("regex", "An RE2 regular expression for the whole of the text", text()),
			one("contains", "The claim is a list that has this element", scalar()),
			{
				"type": "object", "properties": object{"name": full(), "id": full()}, "required": []string{"id", "name"}, "additionalProperties": false,
				"description": "The name and the id of the same thing: both must be the token's",
			},
		},
	}
}

// claim is what may stand for a claim in a job entry.
func claim() object {
	words := []string{"contains", "glob", "id", "name", "regex"} // those that make a mapping an alternative
	return object{
		"anyOf": []object{
			{"$ref": "#/$defs/alternative"},
			{"type": "array", "minItems": 1, "items": object{"$ref": "#/$defs/alternative"}, "description": "Any of these"},
			{
				"type": "object", "minProperties": 1, "description": "Fields of a claim that is an object",
				"propertyNames":        object{"not": object{"enum": words}},
				"additionalProperties": object{"$ref": "#/$defs/claim"},
			},
		},
	}
}

// value is anything but nothing.
func value() object {
	ref := object{"$ref": "#/$defs/value"}
	return object{"anyOf": []object{
		{"type": []string{"string", "number", "boolean"}},
		{"type": "array", "items": ref},
		{"type": "object", "additionalProperties": ref},
	}}
}
