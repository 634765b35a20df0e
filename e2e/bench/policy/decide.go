package main

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// typical is a policy as teams write them.
const typical = `policy: team-NUMBER
owner: team-NUMBER@example.com
description: Deploys of service NUMBER
environment: production

jobs:
  - name: release
    provider: github
    claims:
      repository_id: "NUMBER"
      repository_owner_id: "65"
      ref: [refs/heads/main, {glob: refs/heads/release/*}]
      environment: production
      event_name: [push, workflow_dispatch]
      runner_environment: github-hosted
    condition: int(claims.run_attempt) <= ATTEMPTS && request.time.getHours("Europe/London") >= 7
  - name: nightly
    provider: github
    claims: {repository_id: "NUMBER", repository_owner_id: "65", ref: refs/heads/main, event_name: schedule, runner_environment: github-hosted}

grants:
  - name: deploy-db
    jobs: [release]
    issuer: db
    role: deployer
    ttl: 15m
    max_ttl: 1h
    max_active: 5
    redact: [{pattern: 'pay_live_[0-9a-z]{24}'}]
  - name: sign
    jobs: [release, nightly]
    issuer: jwt
    ttl: 5m
    with: {audience: https://sts.example.com, claims: {team: team-NUMBER, ref: "{{ claims.ref }}"}}
`

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // never changed

// files writes n policies, with a hundred different conditions among them.
func files(n int) fstest.MapFS {
	list := make(fstest.MapFS, n)
	for i := range n {
		text := strings.NewReplacer("NUMBER", fmt.Sprint(i), "ATTEMPTS", fmt.Sprint(i%100+3)).Replace(typical)
		list[fmt.Sprintf("team-%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return list
}

func (b *bench) load(source fs.FS) (*policies.Set, error) {
	return policies.Load(b.ctx, policies.Source{FS: source}, policies.Config{Providers: map[string]lint.Provider{"github": {Type: "github"}}, Now: noon})
}

// question is one decision that is asked for again and again.
type question struct {
	name     string
	set      *policies.Set
	identity policies.Identity
	grant    string
	allowed  bool
}

func token(number int, ref string) policies.Identity {
	return policies.Identity{Provider: "github", ProviderType: "github", Claims: map[string]any{
		"repository_id": fmt.Sprint(number), "repository_owner_id": "65", "ref": ref, "environment": "production", "event_name": "push",
		"runner_environment": "github-hosted", "run_attempt": "1",
	}}
}

// decisions measures sets of several sizes, and one grant of a thousand jobs.
func (b *bench) decisions(most int) error {
	var list []question
	for n := 10; n <= most; n *= 10 {
		set, err := b.load(files(n))
		if err != nil {
			return fmt.Errorf("loading %d policies: %w", n, err)
		}
		grant := fmt.Sprintf("team-%d/", n/2)
		list = append(list, question{fmt.Sprintf("decide %d policies", n), set, token(n/2, "refs/heads/main"), grant + "deploy-db", true})
		if n == most || n*10 > most {
			list = append(list, question{fmt.Sprintf("decide %d policies template", n), set, token(n/2, "refs/heads/main"), grant + "sign", true},
				question{fmt.Sprintf("refuse %d policies branch", n), set, token(n/2, "refs/heads/evil"), grant + "deploy-db", false},
				question{fmt.Sprintf("refuse %d policies stranger", n), set, token(n+1, "refs/heads/main"), grant + "deploy-db", false})
		}
	}
	many, err := b.load(fstest.MapFS{"many.yaml": &fstest.MapFile{Data: []byte(manyJobs(1000))}})
	if err != nil {
		return fmt.Errorf("loading a grant of many jobs: %w", err)
	}
	list = append(list, question{"decide a grant of 1000 jobs", many, token(500, "refs/heads/main"), "many/db", true})
	times, allocations := make([][]float64, len(list)), make([]float64, len(list))
	for range b.rounds {
		for i, q := range list {
			result, err := q.measure()
			if err != nil {
				return err
			}
			times[i] = append(times[i], float64(result.NsPerOp())/1000)
			allocations[i] = float64(result.AllocsPerOp())
		}
	}
	for i, q := range list {
		if err := b.add(q.name, median(times[i]), "µs", list[0].name); err != nil {
			return err
		}
	}
	return b.add(list[0].name+" allocations", allocations[0], "allocations", list[0].name+" allocations")
}

func (q *question) measure() (testing.BenchmarkResult, error) {
	var failed error
	result := testing.Benchmark(func(t *testing.B) {
		t.ReportAllocs()
		for t.Loop() {
			if _, err := q.set.Decide(q.identity, policies.Request{Grant: q.grant}, noon); (err == nil) != q.allowed {
				failed = fmt.Errorf("%s: allowed is %t: %w", q.name, err == nil, err)
				return
			}
		}
	})
	return result, failed
}

func manyJobs(n int) string {
	var jobs, names strings.Builder
	for i := range n {
		fmt.Fprintf(&jobs, "  - {name: j%d, provider: github, claims: {repository_id: \"%d\", repository_owner_id: \"65\", ref: refs/heads/main, event_name: push}}\n", i, i)
		fmt.Fprintf(&names, "j%d, ", i)
	}
	return "policy: many\nowner: o@example.com\nenvironment: test\njobs:\n" + jobs.String() +
		"grants: [{name: db, issuer: db, jobs: [" + strings.TrimSuffix(names.String(), ", ") + "]}]\n"
}

// loading measures how long a set takes from its bytes to the first decision,
// beside a plain decoder that reads the same files.
func (b *bench) loading(n int) error {
	source := files(n)
	var plain, ours []float64
	for range min(b.rounds, 3) {
		runtime.GC()
		began := time.Now()
		for name, f := range source {
			var anything map[string]any
			if err := yaml.Unmarshal(f.Data, &anything); err != nil {
				return fmt.Errorf("decoding %s: %w", name, err)
			}
		}
		plain = append(plain, time.Since(began).Seconds())
		runtime.GC()
		began = time.Now()
		if _, err := b.load(source); err != nil {
			return fmt.Errorf("loading %d policies: %w", n, err)
		}
		ours = append(ours, time.Since(began).Seconds())
	}
	limit := fmt.Sprintf("plain YAML decoder %d files one core", n)
	if err := b.add(limit, median(plain), "s", limit); err != nil {
		return err
	}
	return b.add(fmt.Sprintf("load %d policies", n), median(ours), "s", limit)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
