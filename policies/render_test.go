package policies

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing/fstest"
)

// render writes rules as policy files.
func render(policies map[string][]rule) fstest.MapFS {
	files := fstest.MapFS{}
	for name, rules := range policies {
		var jobs, grants strings.Builder
		for i, r := range rules {
			fmt.Fprintf(&jobs, "  - name: j%d\n    provider: %s\n    claims:\n", i, r.provider)
			for claim, values := range r.claims {
				list, err := json.Marshal(values)
				if err != nil {
					panic(err)
				}
				fmt.Fprintf(&jobs, "      \"%s\": %s\n", claim, list)
			}
			if r.limit > 0 {
				fmt.Fprintf(&jobs, "    condition: claims.n < %d\n", r.limit)
			}
			fmt.Fprintf(&grants, "  - {name: g%d, issuer: db, jobs: [j%d]}\n", i, i)
		}
		text := fmt.Sprintf("policy: %s\nowner: o\nenvironment: test\njobs:\n%sgrants:\n%s", name, jobs.String(), grants.String())
		files[name+".yaml"] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}
