package policies

import (
	"encoding/json"
	"math"
	"slices"
)

// claim is one line of a job entry: the token's claim must be one of the values.
type claim struct {
	name   string
	values []any // string, int64 or bool
}

// matches compares by type and value: "true" is not true, "1" is not 1, a scalar
// is never a list. What is absent, or null, matches nothing.
func (c claim) matches(claims map[string]any) bool {
	got, ok := claims[c.name]
	if !ok {
		return false
	}
	switch v := canonical(got).(type) {
	case string:
		return slices.Contains(c.values, any(v))
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
// at least one, and the token has all that it names.
func (j *job) ours(id *Identity) bool {
	found := false
	for _, name := range tenantIDs(id.ProviderType) {
		for _, c := range j.claims {
			if c.name != name {
				continue
			}
			if !c.matches(id.Claims) {
				return false
			}
			found = true
		}
	}
	return found
}
