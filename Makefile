.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# The lint program takes minutes to build: it is kept outside the tree, once for each version.
LINT_VERSION := $(shell awk '$$1 == "github.com/golangci/golangci-lint/v2" {print $$2}' tools/go.mod)
LINT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/daypass/tools/golangci-lint-$(LINT_VERSION)

.PHONY: help deps build test chaos demo dev bench bench-policy bench-keys bench-leases bench-redact lint fmt ci fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

deps: ## install what building and testing need (Debian, Ubuntu), or say how
	@sh scripts/deps.sh

build: ## build/bin/daypassd (cgo, for PKCS#11) and build/bin/daypass (static)
	CGO_ENABLED=1 go build -trimpath -ldflags '$(LDFLAGS)' -o build/bin/daypassd ./cmd/daypassd
	LDFLAGS='$(LDFLAGS)' sh scripts/pack.sh build/bin/daypass
	CGO_ENABLED=0 go build -trimpath -o build/bin/verifyjwt ./e2e/verifyjwt

# A program under the race detector sleeps for a second when it ends, unless told not to: the tests start hundreds.
test: export GORACE := atexit_sleep_ms=0
# Without paths in them, vet, tests, fuzzing and the programs that e2e builds share what was compiled, in every copy of the tree. The loop of
# PBKDF2, which is Go's own and which every program here goes through for its PIN, takes 200,000 rounds, and five times as long when watched.
UNWATCHED := pbkdf2 hmac sha256
test: export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath $(UNWATCHED:%=-gcflags=crypto/internal/fips140/%=-race=false))
# The packages below e2e run whole fleets: two at once take each other's time.
test: deps ## vet and test everything, with the race detector; fuzz what reads policies and tokens for a moment
	go vet ./...
	go test -race -vet=off -timeout 14m $$(go list ./... | grep -v /e2e)
	go test -race -vet=off -timeout 14m -p 1 ./e2e/...
	FUZZ='FuzzLoad|FuzzDecode|FuzzVerify|FuzzMatch|FuzzCondition|FuzzURI|FuzzCSR|FuzzOCSP|FuzzPublicKey|FuzzFrame|FuzzExport|FuzzCheckpoint|FuzzFinder|FuzzArchive|FuzzReadForm|FuzzSplit' FUZZTIME=2s sh scripts/fuzz.sh

chaos: deps ## ruin a fleet for an hour (CHAOS=10m; SEED=7 does again what a seed did), and see that nothing is lost
	CHAOS=$(or $(CHAOS),1h) go test -count=1 -timeout 0 -run '^TestChaos$$' -v ./e2e

demo: deps build ## a whole exchange on this machine, from job token to revoked credential
	scripts/demo.sh

dev: deps build ## a broker with a private Postgres and a demo provider, until Ctrl-C
	build/bin/daypassd dev

bench: deps build ## measure, print a table, write build/bench/bench.json
	@mkdir -p build/bench
	go run ./e2e/bench -out build/bench/bench.json

bench-policy: ## measure decisions, loading and token checks, write build/bench/bench-policy.json
	@mkdir -p build/bench
	go run ./e2e/bench/policy -out build/bench/bench-policy.json

bench-keys: ## measure signing in SoftHSM and sealing, write build/bench/bench-keys.json
	@mkdir -p build/bench
	go run ./e2e/bench/keys -out build/bench/bench-keys.json

LIVE ?= 0,1000000
bench-leases: deps build ## measure the lease engine (LIVE=0,1000000,10000000: half an hour), write build/bench/bench-leases.json
	@mkdir -p build/bench
	go run ./e2e/bench -leases -scale $(LIVE) -out build/bench/bench-leases.json
	go run ./e2e/bench/leases -out build/bench/bench-leases.json

bench-redact: ## measure masking and finding on a made log, write build/bench/bench-redact.json
	@mkdir -p build/bench
	go run ./e2e/bench/redact -out build/bench/bench-redact.json
	go run ./e2e/bench/leaks -out build/bench/bench-redact.json

lint: $(LINT) ## golangci-lint with .golangci.yml
	$(LINT) run ./...

fmt: $(LINT) ## gofumpt and import order
	$(LINT) fmt ./...

$(LINT):
	@mkdir -p $(@D)
	cd tools && CGO_ENABLED=0 go build -o $@.new github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	mv $@.new $@

ci: ## what CI runs
	.ci/run

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	@sh scripts/fuzz.sh

clean: ## remove build/
	rm -rf build
