package openapi_test

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api/openapi"
)

var update = flag.Bool("update", false, "write openapi.json anew")

const page = "openapi.json"

// TestDocument: openapi.json is what the code says.
func TestDocument(t *testing.T) {
	made, err := openapi.Document("..")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != string(made) {
		t.Error("openapi.json is not what the code says\nhint: go test ./broker/api/openapi -run TestDocument -update")
	}
}

// TestReferences: what the document refers to is in it, what it names is named
// once, and every parameter in a path is described.
func TestReferences(t *testing.T) {
	made, err := openapi.Document("..")
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(made, &document); err != nil {
		t.Fatal(err)
	}
	found := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, is := v["$ref"].(string); is {
				found++
				at := any(document)
				for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					at, _ = at.(map[string]any)[part]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(document)
	if found < 50 {
		t.Errorf("only %d references", found)
	}
	seen := map[string]bool{}
	for _, o := range openapi.Operations() {
		key := o.Method + " " + o.Path
		if seen[o.ID] || seen[key] || o.Summary == "" {
			t.Errorf("%s: %s stands twice, or has no summary", key, o.ID)
		}
		seen[o.ID], seen[key] = true, true
	}
	for _, line := range []string{
		`"description": "\"10m\"; never exceeds the policy's"`, `"description": "names in Values that must not be shown"`, `"oneOf"`, `"format": "date-time"`, `"expires_at"`,
	} {
		if !strings.Contains(string(made), line) {
			t.Errorf("no %s in the document", line)
		}
	}
}
