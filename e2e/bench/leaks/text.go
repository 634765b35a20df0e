package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
)

// words are what lines are made of.
var words = []string{ //nolint:gochecknoglobals // read only
	"building", "package", "resolved", "from", "cache", "test", "passed", "in", "warning", "the", "module", "downloading", "layer", "already", "exists",
	"pushed", "running", "step", "checkout", "of", "version", "deprecated", "please", "use", "instead", "compiled", "successfully", "with", "errors",
	"skipped", "ok", "FAIL", "PASS", "DEBUG", "INFO", "linking", "target", "GITHUB_WORKSPACE", "node_modules", "npm", "added", "packages", "and", "audited",
}

// makeLog makes the log of a CI job: times, commands, paths, hashes, URLs with
// escapes, colours, a little JSON and base64, 111 bytes a line on average. The
// same seed makes the same text.
func makeLog(size int, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a text that can be made again
	b := bytes.NewBuffer(make([]byte, 0, size+1<<10))
	for line := 0; b.Len() < size; line++ {
		fmt.Fprintf(b, "2026-11-%02dT%02d:%02d:%02d.%07dZ ", 1+line/864000%28, line/36000%24, line/600%60, line/10%60, random.IntN(10_000_000))
		writeLine(b, random)
		b.WriteByte('\n')
	}
	return b.Bytes()[:size]
}

func writeLine(b *bytes.Buffer, random *rand.Rand) {
	some := func(n int) []byte {
		bytes := make([]byte, n)
		for i := range bytes {
			bytes[i] = byte(random.Uint32()) //nolint:gosec // random
		}
		return bytes
	}
	word := func() string { return words[random.IntN(len(words))] }
	switch kind := random.IntN(100); {
	case kind < 8: // colours
		fmt.Fprintf(b, "\x1b[36;1m##[group]%s %s\x1b[0m \x1b[32m✓\x1b[0m %s (%d ms)", word(), word(), word(), random.IntN(5000))
	case kind < 20: // paths
		fmt.Fprintf(b, "go: %s github.com/%s/%s/internal/%s/%s_test.go:%d: %s", word(), word(), word(), word(), word(), random.IntN(900), word())
	case kind < 26: // digests
		fmt.Fprintf(b, "%s: sha256:%s %s", word(), hex.EncodeToString(some(32)), word())
	case kind < 31: // URLs
		fmt.Fprintf(b, "GET https://registry.example.com/v2/%s%%2F%s/blobs?q=%s%%20%s&n=%d 200", word(), word(), word(), word(), random.IntN(1000))
	case kind < 35: // JSON
		fmt.Fprintf(b, `{"level":"info","msg":"%s \"%s\" %s","path":"C:\\%s\\%s","took":%d.%d}`, word(), word(), word(), word(), word(), random.IntN(100), random.IntN(1000))
	case kind < 37: // integrity and certificates
		fmt.Fprintf(b, "integrity sha512-%s", base64.StdEncoding.EncodeToString(some(64)))
	default:
		for range 6 + random.IntN(10) {
			b.WriteString(word())
			b.WriteByte(' ')
		}
		fmt.Fprintf(b, "%d", random.IntN(100_000))
	}
}

// plant overwrites a text with secrets, spread evenly, each in a line of its own.
func plant(text []byte, secrets []string) {
	if len(secrets) == 0 {
		return
	}
	for i, secret := range secrets {
		at := len(text) / len(secrets) * i
		copy(text[at:], "\n"+secret+"\n")
	}
}
