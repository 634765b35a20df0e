#!/bin/sh
# Runs each Fuzz function for FUZZTIME (default 30s), one after the other: `go test -fuzz` takes one at a time.
# An input is made smaller for 5 s at most: of the 60 s that are Go's default, a short run would do nothing else.
set -eu
cd "$(dirname "$0")/.."
grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed -E 's|^\./(.*)/[^/]*:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|' | sort |
	while read -r dir name; do
		echo "== $name in $dir"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" -fuzzminimizetime 5s "./$dir" </dev/null
	done
