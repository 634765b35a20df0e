package document

import (
	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/strictyaml"
)

// IsObject says whether a mapping at this path of a job entry stands for the
// fields of a claim, not for a pattern or a pair. The provider may be nil: not
// known. Whoever reads claims asks here, so that all take them for the same.
func IsObject(p *catalogue.Provider, path string, fields map[string]strictyaml.Value) bool {
	if p != nil {
		if c, known := p.Claim(path); known {
			return c.Kind == catalogue.Object
		}
	}
	for _, key := range []string{"glob", "regex", "contains"} {
		if _, found := fields[key]; found {
			return false
		}
	}
	_, hasID := fields["id"]
	_, hasName := fields["name"]
	return len(fields) > 0 && !(hasID && hasName) && (p == nil || p.Open)
}
