package policies

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
)

// claim is one line of a job entry: the token's claim must be one of the values,
// or a text that fits one of the patterns, or a list that has one of the elements.
type claim struct {
	name     string
	values   []any            // string, int64 or bool
	patterns []*regexp.Regexp // anchored, see anchored
	elements []any            // string, int64 or bool
}

// matches compares by type and value: "true" is not true, "1" is not 1, a scalar
// is never a list. What is absent, or null, matches nothing. A pattern matches
// texts alone, never a number, a truth value or a list.
func (c *claim) matches(claims map[string]any) bool {
	got, ok := claims[c.name]
	if !ok {
		return false
	}
	switch v := canonical(got).(type) {
	case string:
		return slices.Contains(c.values, any(v)) || c.fits(v)
	case []any:
		return c.holds(v)
	case int64:
		return slices.Contains(c.values, any(v))
	case bool:
		return slices.Contains(c.values, any(v))
	default:
		return false
	}
}

// exactFloat is the largest integer up to which every float64 is one integer only.
const exactFloat = 1 << 53

// canonical turns a token's number into an int64 where it is a whole number that
// no other number rounds to, else into a float64. Everything else stays as it is.
func canonical(value any) any {
	switch v := value.(type) {
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < exactFloat {
			return int64(v)
		}
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return nil
		}
		return canonical(f)
	default:
		return value
	}
}

// tenantIDs are the claims by which a provider says whose job this is, by ids
// that are never given to somebody else. They decide who is told why a request
// was refused. A provider that isn't listed has none.
func tenantIDs(providerType string) []string {
	switch providerType {
	case "github":
		return []string{"repository_id", "repository_owner_id", "enterprise_id"}
	case "gitlab":
		return []string{"project_id", "namespace_id"}
	case "buildkite":
		return []string{"organization_id", "pipeline_id"}
	default:
		return nil
	}
}

// ours says whether the token's ids are those of the job entry: the entry names
// at least one, and the token has all that it names. A pattern names nobody: who
// only fits one may be a stranger.
func (j *job) ours(id *Identity) bool {
	found := false
	for _, name := range tenantIDs(id.ProviderType) {
		for i := range j.claims {
			if j.claims[i].name != name {
				continue
			}
			exact := claim{name: name, values: j.claims[i].values}
			if !exact.matches(id.Claims) {
				return false
			}
			found = true
		}
	}
	return found
}
