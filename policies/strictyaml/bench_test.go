package strictyaml_test

import (
	"os"
	"testing"

	"github.com/daypass/daypass/policies/document"
)

const typical = `policy: pay
owner: a@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "1", repository_owner_id: "2", ref: [refs/heads/main, refs/heads/next]}
    condition: int(claims.run_attempt) < 3 && request.grant != "pay/never"
  - name: other
    provider: oidc
    claims: {sub: x, level: 3, admin: true}
grants:
  - {name: db, jobs: [release, other], issuer: db, role: r, ttl: 15m, max_ttl: 1h, max_active: 5, redact: [{pattern: "x+"}], env: {user: DB_USER}}
  - {name: jwt, jobs: [release], issuer: jwt, with: {audience: a, num: 1, list: ["{{claims.ref}}", b], claims: {ref: "r-{{ claims.ref }}-{{ claims.actor }}"}}}
  - {name: never, jobs: [release], issuer: db}
`

// BenchmarkDecode is one file of a policy folder. The aim is 150 µs for the
// typical one: ten thousand of them then load within a second and a half of one
// processor's time.
func BenchmarkDecode(b *testing.B) {
	example, err := os.ReadFile("../examples/payments.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for _, bc := range []struct {
		name string
		data []byte
	}{{"typical", []byte(typical)}, {"example", example}} {
		b.Run(bc.name, func(b *testing.B) {
			b.SetBytes(int64(len(bc.data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, mistakes := document.Read("f.yaml", bc.data); len(mistakes) > 0 {
					b.Fatal(mistakes)
				}
			}
		})
	}
}
