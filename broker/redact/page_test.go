package redact

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"html"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/redaction.md anew")

// form is one way in which a value shows up in a log.
type form struct {
	name  string
	value string
	text  string // what of the value stands in the log
	slack int    // characters at each end that depend on what stands beside the value
}

// The values of the table: a generated one, one with all that encoders mind, and
// one of several lines.
const (
	simple = "vR7qkP2mX9cT4bN8wL3sJ6hD1fG5zY0aQeU2iO7x"
	odd    = `p@ss "w0rd"/it's <5> & $é+100%\x`
	lines  = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgX2m4kHq7\nT5uWJ8cB1nV0yRs6\n-----END PRIVATE KEY-----\n"
)

func wrap(s string, width int, end string) string {
	var out strings.Builder
	for len(s) > width {
		out.WriteString(s[:width] + end)
		s = s[width:]
	}
	return out.String() + s
}

func everyForm() []form {
	std := base64.StdEncoding.EncodeToString
	long := strings.Repeat(simple, 3)
	js, _ := json.Marshal(odd)
	twice, _ := json.Marshal(string(js[1 : len(js)-1]))
	var x strings.Builder
	_ = xml.EscapeText(&x, []byte(odd))
	each := func(format string) string {
		return eachByte(simple, func(b byte) string { return fmt.Sprintf(format, b) })
	}
	keyLines := strings.Split(lines, "\n")
	return []form{
		{"as it is", odd, odd, 0},
		{"split over writes, at any byte", simple, simple, 0},
		{"a line of a value of several", lines, keyLines[1], 0},
		{"all lines, indented and numbered", lines, "1: " + keyLines[0] + "\n2:   " + keyLines[1] + "\n3:   " + keyLines[2] + "\n", 0},
		{"other line ends (CRLF)", lines, strings.ReplaceAll(lines, "\n", "\r\n"), 0},
		{"base64", odd, std([]byte(odd)), 0},
		{"base64, one byte before it", simple, std([]byte("x" + simple))[2:], 1},
		{"base64, two bytes before it, more behind it", simple, std([]byte("xy" + simple + "zz"))[3:56], 1},
		{"base64 of user:password", simple, std([]byte("user:" + simple))[7:], 1},
		{"base64 without padding", simple, base64.RawStdEncoding.EncodeToString([]byte(simple)), 0},
		{"base64 for URLs", odd + "???>>>", base64.URLEncoding.EncodeToString([]byte(odd + "???>>>")), 0},
		{"base64, wrapped at 64", long, wrap(std([]byte(long)), 64, "\n"), 0},
		{"base64, wrapped at 76 (CRLF)", long, wrap(std([]byte(long)), 76, "\r\n"), 0},
		{"hex", odd, hex.EncodeToString([]byte(odd)), 0},
		{"hex, upper case", odd, strings.ToUpper(hex.EncodeToString([]byte(odd))), 0},
		{"percent-encoded query", odd, url.QueryEscape(odd), 0},
		{"percent-encoded path", odd, url.PathEscape(odd), 0},
		{"percent-encoded, lower case", odd, eachByte(odd, func(b byte) string { return strings.ToLower(url.QueryEscape(string([]byte{b}))) }), 0},
		{"percent-encoded userinfo", odd, url.UserPassword("", odd).String()[1:], 0},
		{"percent-encoded, every byte", simple, each("%%%02X"), 0},
		{"JSON", odd, string(js[1 : len(js)-1]), 0},
		{`JSON with \/ and \u00e9`, odd, strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", "/", `\/`, "é", `\u00e9`).Replace(string(js[1 : len(js)-1])), 0},
		{"JSON in JSON", odd, string(twice[1 : len(twice)-1]), 0},
		{`\u0041, every character`, simple, each(`\u%04x`), 0},
		{"Go, Python and C escapes", odd, strings.Trim(strconv.QuoteToASCII(odd), `"`), 0},
		{`\x41, every byte`, simple, each(`\x%02x`), 0},
		{"XML entities", odd, x.String(), 0},
		{"HTML entities", odd, html.EscapeString(odd), 0},
		{"HTML entities by name", odd, strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace(odd), 0},
		{"&amp;#65;, every character", simple, each("&#%d;"), 0},
		{"shell, between apostrophes", odd, strings.ReplaceAll(odd, "'", `'\''`), 0},
		{"shell, backslashes (printf %q)", "it's $5 (hunter2)", `it\'s\ \$5\ \(hunter2\)`, 0},
		{"PowerShell, between apostrophes", odd, strings.ReplaceAll(odd, "'", "''"), 0},
		{"PowerShell, between quotes", odd, strings.NewReplacer(`"`, "`\"", "$", "`$").Replace(odd), 0},
		{"a colour code in the middle", simple, simple[:7] + "\x1b[1;31m" + simple[7:], 0},
		{"wrapped by a terminal", simple, simple[:31] + "\r\n" + simple[31:], 0},
		{"the password of a URL", "postgres://app:" + url.QueryEscape(simple+"/+") + "@db/payments", simple + "/+", 0},
		{"a string of a JSON object", `{"user":"app","key":"` + simple + `"}`, simple, 0},
	}
}

// masked says whether nothing of a form is left but what depends on its neighbours.
func (f form) masked(t *testing.T) bool {
	m, err := New(Config{Values: []string{f.value}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	got := maskWith(t, m, strings.Split(f.text, "")...)
	if whole := maskWith(t, m, f.text); whole != got {
		t.Errorf("%s: %q in one write, %q byte by byte", f.name, whole, got)
	}
	left := strings.NewReplacer("*", "", "1: ", "", "2: ", "", "3: ", "", "\n", "", "\r", "", " ", "").Replace(got)
	return len(left) <= 2*f.slack && strings.Contains(got, "*")
}

// TestPage makes the table of docs/redaction.md: every form that it names is masked.
func TestPage(t *testing.T) {
	const page, begin, end = "../../docs/redaction.md", "<!-- forms: made by TestPage -->\n", "<!-- end of forms -->\n"
	var table strings.Builder
	table.WriteString("| form | masked |\n| --- | --- |\n")
	for _, f := range everyForm() {
		yes := "yes"
		if !f.masked(t) {
			yes = "**no**"
			t.Errorf("%s is not masked", f.name)
		}
		fmt.Fprintf(&table, "| %s | %s |\n", f.name, yes)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	if old == table.String() {
		return
	}
	if !*update {
		t.Fatalf("the table of %s is another (hint: go test ./broker/redact -run TestPage -update)", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What the page says is not caught, isn't: when that changes, so must the page.
func TestWhatIsNotCaught(t *testing.T) {
	m, err := New(Config{Values: []string{simple}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	reversed := []byte(simple)
	for i, j := 0, len(reversed)-1; i < j; i, j = i+1, j-1 {
		reversed[i], reversed[j] = reversed[j], reversed[i]
	}
	for name, text := range map[string]string{
		"reversed": string(reversed), "spaced out": strings.Join(strings.Split(simple, ""), " "), "upper case": strings.ToUpper(simple),
		"hex with colons": wrap(hex.EncodeToString([]byte(simple)), 2, ":"), "base64 twice": base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(simple))))[:60],
	} {
		if got := maskWith(t, m, text); got != text {
			t.Logf("%s is caught: %q", name, got)
			t.Errorf("docs/redaction.md says that a value %s is not caught", name)
		}
	}
}
