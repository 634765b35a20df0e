#!/bin/sh
# Runs Fuzz functions, one after the other, since `go test -fuzz` takes one at a time: those whose name matches FUZZ (default: all), each for
# FUZZTIME (default 30s).
set -eu
cd "$(dirname "$0")/.."
list=$(grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sed -E 's|^\./(.*)/[^/]*:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|' | grep -E " (${FUZZ:-.*})\$" | sort)
[ -n "$list" ] || { echo "no Fuzz function is called ${FUZZ:-}" >&2; exit 1; }
echo "$list" | while read -r dir name; do
	echo "== $name in $dir"
	for _ in 1 2 3; do
		status=0
		said=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" -fuzzminimizetime 5s "./$dir" </dev/null 2>&1) || status=$?
		echo "$said"
		# Where the time ends while a slow machine's workers are busy, Go says this, of no input at all.
		case $status$said in
		0*) break ;;
		*'Failing input'*) exit 1 ;;
		*'context deadline exceeded'*) ;;
		*) exit 1 ;;
		esac
	done
	[ "$status" -eq 0 ] || exit 1
done
