package archive

import (
	"bytes"
	"strconv"
	"strings"
)

// kind is what a file is, by its first bytes.
type kind string

const (
	text    kind = ""
	gzipped kind = "gzip"
	bzipped kind = "bzip2"
	zipped  kind = "zip"
	tarred  kind = "tar"
)

func (k kind) unpacked() bool { return k == gzipped || k == bzipped || k == zipped || k == tarred }

// magics are the first bytes of archives; those of kinds that are not unpacked
// are known so that it can be said.
var magics = []struct { //nolint:gochecknoglobals // a table that doesn't change
	magic string
	kind  kind
}{
	{"\x1f\x8b\x08", gzipped},
	{"PK\x03\x04", zipped},
	{"PK\x05\x06", zipped},
	{"PK\x07\x08PK\x03\x04", zipped},
	{"\x28\xb5\x2f\xfd", "zstd"},
	{"\xfd7zXZ\x00", "xz"},
	{"7z\xbc\xaf\x27\x1c", "7z"},
	{"Rar!\x1a\x07", "rar"},
	{"\x04\x22\x4d\x18", "lz4"},
	{"LZIP", "lzip"},
	{"\x1f\x9d", "compress"},
	{"hsqs", "squashfs"},
	{"!<arch>\n", "ar"},
}

func kindOf(begin []byte) kind {
	for _, m := range magics {
		if bytes.HasPrefix(begin, []byte(m.magic)) {
			return m.kind
		}
	}
	if len(begin) > 10 && bytes.HasPrefix(begin, []byte("BZh")) && begin[3] >= '1' && begin[3] <= '9' &&
		(bytes.HasPrefix(begin[4:], []byte("1AY&SY")) || bytes.HasPrefix(begin[4:], []byte("\x17rE8P\x90"))) {
		return bzipped
	}
	if isTar(begin) {
		return tarred
	}
	return text
}

// isTar says whether a block is a header of tar: it carries its own checksum.
func isTar(block []byte) bool {
	const from, to = 148, 156
	if len(block) < peeked || block[0] == 0 {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(block[from:to]), " \x00"), 8, 32)
	if err != nil {
		return false
	}
	sum := int64(0)
	for i, b := range block[:peeked] {
		if i >= from && i < to {
			b = ' '
		}
		sum += int64(b)
	}
	return sum == want
}
