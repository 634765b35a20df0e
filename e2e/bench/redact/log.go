package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
)

// log is a made log, the same in every run.
type log struct {
	text   []byte
	lines  int
	leaks  int // how often the first secret stands in it, in some form
	secret string
}

// leakEvery is in how many lines one leaks the secret.
const leakEvery = 20_000

// makeLog makes a log of so many bytes: what a build, its tests and a deployment
// print, of about 111 bytes a line.
func makeLog(size int, secret string) log {
	l := log{text: make([]byte, 0, size+4096), secret: secret}
	g := generator{rand: rand.New(rand.NewPCG(2026, 11))} //nolint:gosec // to be the same each time
	for len(l.text) < size {
		if l.lines%leakEvery == leakEvery/2 {
			l.text = append(l.text, "2026-11-27T09:14:03.1234567Z connecting with "+leak(secret, l.leaks)+"\n"...)
			l.leaks++
		} else {
			l.text = g.line(l.text)
		}
		l.lines++
	}
	return l
}

// leak is the secret in one of several forms.
func leak(secret string, n int) string {
	switch n % 5 {
	case 1:
		return base64.StdEncoding.EncodeToString([]byte("user:" + secret))
	case 2:
		return hex.EncodeToString([]byte(secret))
	case 3:
		return secret[:17] + "\r\n" + secret[17:]
	case 4:
		return secret[:9] + "\x1b[31m" + secret[9:]
	}
	return secret
}

type generator struct {
	rand *rand.Rand
	tick int
}

const (
	digits  = "0123456789abcdef"
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

func (g *generator) of(alphabet string, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[g.rand.IntN(len(alphabet))]
	}
	return string(b)
}

func (g *generator) word() string {
	words := strings.Fields(`payments ledger invoice gateway http server client handler store cache queue worker deploy build release config policy
		token session lease audit metrics internal api router middleware database migration schema index query result error context timeout retry`)
	return words[g.rand.IntN(len(words))]
}

// line appends one line. The shares are those of a build in containers.
func (g *generator) line(b []byte) []byte {
	g.tick += 1 + g.rand.IntN(40)
	stamp := fmt.Sprintf("2026-11-27T%02d:%02d:%02d.%03d4567Z ", 9+g.tick/3_600_000%12, g.tick/60_000%60, g.tick/1000%60, g.tick%1000)
	path := fmt.Sprintf("github.com/example/%s/%s/%s", g.word(), g.word(), g.word())
	switch k := g.rand.IntN(100); {
	case k < 30:
		return fmt.Appendf(b, "%sgo: downloading %s v1.%d.%d (%d of %d)\n", stamp, path, g.rand.IntN(40), g.rand.IntN(20), g.tick%997, 997)
	case k < 50:
		return fmt.Appendf(b, "%s=== RUN   Test%s/%s_when_%s_is_%s (package %s)\n", stamp, g.word(), g.word(), g.word(), g.word(), g.word())
	case k < 65:
		return fmt.Appendf(b, "%s--- PASS: Test%s/%s_and_%s (0.%02ds) coverage: %d.%d%% of statements\n", stamp, g.word(), g.word(), g.word(), g.rand.IntN(100), g.rand.IntN(100), g.rand.IntN(10))
	case k < 75:
		return fmt.Appendf(b, "%sINFO  [%s] %s finished in %d ms; %d rows, %d retries, worker %d of 16 idle\n", stamp, g.word(), g.word(), g.rand.IntN(5000), g.rand.IntN(100000), g.rand.IntN(3), g.rand.IntN(16))
	case k < 82:
		return fmt.Appendf(b, "%s#%d sha256:%s 3.%dMB / 3.5MB 0.%ds done\n", stamp, g.rand.IntN(40), g.of(digits, 64), g.rand.IntN(10), g.rand.IntN(10))
	case k < 88:
		return fmt.Appendf(b, `%s{"level":"info","ts":%d,"logger":"%s","msg":"handled \"%s\"","path":"/v1/%s","status":%d,"id":"%s"}`+"\n", stamp, g.tick, g.word(), g.word(), g.word(), 200+g.rand.IntN(5), g.of(digits, 16))
	case k < 92:
		return fmt.Appendf(b, "%s\x1b[32m✓\x1b[0m %s › %s \x1b[2m(%d ms)\x1b[22m in the suite of %s and %s\n", stamp, g.word(), g.word(), g.rand.IntN(900), g.word(), path)
	case k < 95:
		return fmt.Appendf(b, "%sGET https://registry.example.com/v2/%s?scope=%s&n=%d 200 %d bytes\n", stamp, path, url.QueryEscape("repository:"+g.word()+"/"+g.word()+":pull"), g.rand.IntN(100), g.rand.IntN(1<<20))
	case k < 97:
		return fmt.Appendf(b, "%s  integrity sha512-%s==\n", stamp, g.of(letters+"+/", 86))
	case k < 99:
		return append(append(append(b, stamp...), bytes.Repeat([]byte("-"), 60+g.rand.IntN(40))...), '\n')
	}
	return append(append(b, stamp...), '\n')
}

// makeSecrets makes secrets of 40 letters and digits, the same in every run.
func makeSecrets(n int) []string {
	g := generator{rand: rand.New(rand.NewPCG(40, 62))} //nolint:gosec // to be the same each time
	secrets := make([]string, n)
	for i := range secrets {
		secrets[i] = g.of(letters, 40)
	}
	return secrets
}
