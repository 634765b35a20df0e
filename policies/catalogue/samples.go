package catalogue

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
)

// sampleFiles hold claims in the shapes in which providers send them;
// samples/README.md says where each is from.
//
//go:embed samples/*.json
var sampleFiles embed.FS

// Sample is the claims of a token of a type of provider, with values of the types
// that a verified token has: string, bool, nil, []any, map[string]any, int64, and
// float64 for numbers with a fraction.
type Sample struct {
	Type   string
	Claims map[string]any
}

// Samples are the sample tokens by name: github/push. Each call makes them anew,
// so that they may be changed.
func Samples() map[string]Sample {
	found := map[string]Sample{}
	for _, typ := range Types() {
		samples, err := readSamples(typ)
		if err != nil {
			panic(err) // compiled in, and read by the tests
		}
		for name, claims := range samples {
			found[typ+"/"+name] = Sample{Type: typ, Claims: claims}
		}
	}
	return found
}

func readSamples(typ string) (map[string]map[string]any, error) {
	text, err := sampleFiles.ReadFile("samples/" + typ + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the samples: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var samples map[string]map[string]any
	if err := decoder.Decode(&samples); err != nil {
		return nil, fmt.Errorf("reading the samples of %s: %w", typ, err)
	}
	for name, claims := range samples {
		if err := numbers(claims); err != nil {
			return nil, fmt.Errorf("reading the sample %s/%s: %w", typ, name, err)
		}
	}
	return samples, nil
}

// numbers makes int64 of whole numbers and float64 of others, as the broker does.
func numbers(object map[string]any) error {
	for name, value := range object {
		converted, err := number(value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		object[name] = converted
	}
	return nil
}

func number(value any) (any, error) {
	switch v := value.(type) {
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return v.Float64()
		}
		return v.Int64()
	case map[string]any:
		return v, numbers(v)
	case []any:
		for i, item := range v {
			converted, err := number(item)
			if err != nil {
				return nil, err
			}
			v[i] = converted
		}
	}
	return value, nil
}
