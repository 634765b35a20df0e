#!/bin/sh
# Builds the client as it is released: FILE, static, without what `daypass policy` needs and with the
# whole program packed inside, which that command becomes (cmd/daypass/packed.go). On other systems
# than Linux, whole and nothing else.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 FILE" >&2; exit 2; }
case $1 in /*) file=$1 ;; *) file=$PWD/$1 ;; esac
cd "$(dirname "$0")/.."
mkdir -p "$(dirname "$file")"
export CGO_ENABLED=0
build() { go build -trimpath -ldflags "${LDFLAGS:--s -w}" -o "$file" "$@" ./cmd/daypass; }

build
[ "$(go env GOOS)" = linux ] || exit 0
# What is embedded has to stand beside the code; an overlay puts it there for the compiler alone, so
# that two builds of one tree don't meet.
packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
gzip -nc "$file" >"$packed/whole.gz"
echo "{\"Replace\": {\"$PWD/cmd/daypass/whole.gz\": \"$packed/whole.gz\"}}" >"$packed/overlay.json"
build -tags packed -overlay "$packed/overlay.json"
